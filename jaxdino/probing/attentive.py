"""The attentive probe: a learned query looks at the patch tokens, and a linear layer classifies what it finds."""

import dataclasses
import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdino.core.bars import bar
from jaxdino.evals.linear_heads import default_steps
from jaxdino.probing.method import Cell, Job, Trained, by_fold

Params = dict[str, Any]
TOGETHER = 6  # heads trained as one program
CHUNK = 8  # minibatches sent to the device at a time
WIDTH_OF_HEAD = 64  # channels of an attention head
MLP = 4  # width of the hidden layer, in widths of the tokens
STD = 0.02
EPS = 1e-6


@dataclasses.dataclass(frozen=True)
class Attentive:
    """Attentive probes over learning rates and weight decays, trained by AdamW with a cosine decay to 0.

    Source: facebookresearch/jepa src/models/attentive_pooler.py, one block: the query attends to the normalised tokens,
    an MLP follows, each with a residual; DINOv3 (arXiv:2508.10104) probes frozen features in this form too.
    """

    learning_rates: Sequence[float] = (1e-4, 3e-4, 1e-3)
    weight_decays: Sequence[float] = (1e-2, 1e-1)
    name: ClassVar[str] = "attentive"
    seeded: ClassVar[bool] = True
    linear: ClassVar[bool] = False
    why_not_several: ClassVar[str] = ""

    @property
    def settings(self) -> list[dict[str, float]]:
        """What is swept."""
        pairs = itertools.product(self.learning_rates, self.weight_decays)
        return [{"learning_rate": rate, "weight_decay": decay} for rate, decay in pairs]

    def train(self, job: Job, cells: Sequence[Cell]) -> Iterator[Trained]:
        """Yield groups of the cells with their heads, stacked along the first axis."""
        for fold, members in by_fold(cells).items():
            rows = job.rows(fold)
            for first in range(0, len(members), TOGETHER):
                group = members[first : first + TOGETHER]
                yield Trained(group, self._trained(job, rows, group))

    def _trained(self, job: Job, rows: np.ndarray, cells: Sequence[Cell]) -> Params:
        width, batch_size = job.x.shape[-1], min(job.batch_size, len(rows))
        steps = job.steps or default_steps(len(rows), batch_size) // 5
        drawn = [initial(jax.random.key(cell.seed), width, job.num_classes) for cell in cells]
        params = jax.tree.map(lambda *leaves: jnp.stack(leaves), *drawn)
        state = jax.vmap(optax.scale_by_adam().init)(params)
        chosen = [self.settings[cell.setting] for cell in cells]
        rates, decays = (jnp.asarray([one[name] for one in chosen]) for name in ("learning_rate", "weight_decay"))
        rng, order = np.random.default_rng([job.seed, 5]), np.zeros(0, np.int64)
        for first in bar(range(0, steps, CHUNK), f"{len(cells)} attentive probes", unit=f"x{CHUNK} steps"):
            job.poll()
            count = min(CHUNK, steps - first)
            while len(order) < count * batch_size:
                order = np.concatenate([order, rng.permutation(rows)])
            now, order = order[: count * batch_size].reshape(count, batch_size), order[count * batch_size :]
            ahead = 0.5 * (1 + np.cos(np.pi * (first + np.arange(count)) / steps)).astype(np.float32)
            params, state = _descend(params, state, job.x[now], job.y[now], ahead, rates, decays)
            jax.block_until_ready(state)  # or the bar would count what is still to be computed
        return params

    def logits(self, heads: Params, x: np.ndarray) -> jax.Array:
        """Return the logits of rows (B, C, H)."""
        return _logits_of(heads, x)

    def one(self, heads: Params, index: int) -> Params:
        """Return one head of a group, on the host."""
        return jax.tree.map(lambda leaf: np.asarray(leaf[index : index + 1]), heads)


def initial(key: jax.Array, width: int, num_classes: int) -> Params:
    """Draw the parameters of one probe: kernels of deviation 0.02, smaller by sqrt 2 before a residual."""
    shapes = {
        "q": (width, width),
        "kv": (width, 2 * width),
        "proj": (width, width),
        "fc1": (width, MLP * width),
        "fc2": (MLP * width, width),
        "linear": (width, num_classes),
    }
    keys = dict(zip((*shapes, "query"), jax.random.split(key, len(shapes) + 1), strict=True))
    found: Params = {"query": STD * jax.random.truncated_normal(keys["query"], -2, 2, (width,))}
    for name, shape in shapes.items():
        std = STD / (2**0.5 if name in ("proj", "fc2") else 1)
        kernel = std * jax.random.truncated_normal(keys[name], -2, 2, shape)
        found[name] = {"kernel": kernel, "bias": jnp.zeros(shape[1])}
    for name in ("norm1", "norm2"):
        found[name] = {"scale": jnp.ones(width), "bias": jnp.zeros(width)}
    return found


def apply(params: Params, tokens_BxhxwxD: jax.Array) -> jax.Array:
    """Map patch tokens to logits (B, C)."""
    batch, _, _, width = tokens_BxhxwxD.shape
    count = max(1, width // WIDTH_OF_HEAD)
    count = count if width % count == 0 else 1
    tokens = _norm(params["norm1"], tokens_BxhxwxD.reshape(batch, -1, width))
    query = _dense(params["q"], params["query"][None]).reshape(count, -1)
    keys, values = (
        one.reshape(batch, -1, count, width // count) for one in jnp.split(_dense(params["kv"], tokens), 2, axis=-1)
    )
    weights = jax.nn.softmax(jnp.einsum("hd,bnhd->bhn", query, keys) * (width // count) ** -0.5, axis=-1)
    seen = jnp.einsum("bhn,bnhd->bhd", weights, values).reshape(batch, width)
    x = params["query"][None] + _dense(params["proj"], seen)
    x = x + _dense(params["fc2"], jax.nn.gelu(_dense(params["fc1"], _norm(params["norm2"], x)), approximate=False))
    return _dense(params["linear"], x)


def _dense(params: Params, x: jax.Array) -> jax.Array:
    return jnp.matmul(x, params["kernel"]) + params["bias"].reshape((1,) * (x.ndim - 1) + (-1,))


def _norm(params: Params, x: jax.Array) -> jax.Array:
    mean, variance = x.mean(axis=-1, keepdims=True), x.var(axis=-1, keepdims=True)
    scale, bias = (params[name].reshape((1,) * (x.ndim - 1) + (-1,)) for name in ("scale", "bias"))
    return (x - mean) * jax.lax.rsqrt(variance + EPS) * scale + bias


@jax.jit
def _logits_of(params: Params, x: jax.Array) -> jax.Array:
    return jnp.moveaxis(jax.vmap(apply, (0, None))(params, x), 0, -1)


@functools.partial(jax.jit, donate_argnums=(0, 1))
def _descend(params, state, x_SxB, y_SxB, ahead_S, rates_H, decays_H):
    adam = optax.scale_by_adam()

    def loss(params, x, y):
        logits = apply(params, x)
        if y.ndim == 2:
            return optax.sigmoid_binary_cross_entropy(logits, y).mean()
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    def step(carry, given):
        x, y, ahead = given

        def of_head(params, state, rate, decay):
            updates, state = adam.update(jax.grad(loss)(params, x, y), state)

            def change(leaf, update):  # biases, norms and the query do not decay
                return -ahead * rate * (update + (decay * leaf if leaf.ndim > 1 else 0))

            return optax.apply_updates(params, jax.tree.map(change, params, updates)), state

        params, state = carry
        return jax.vmap(of_head)(params, state, rates_H, decays_H), None

    return jax.lax.scan(step, (params, state), (x_SxB, y_SxB, ahead_S))[0]
