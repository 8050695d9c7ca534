"""One adapted linear layer against the papers' formulas in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxdino.core.params import bind, split
from jaxdino.models import lora
from jaxdino.models.layers import Linear
from jaxdino.models.lora import LoRA


def _layer(spec, n_in=6, n_out=9, name="qkv"):
    """A linear layer alone under a name, its adapter moved, as a function and its parameters in numpy."""
    holder = nnx.Module()
    setattr(holder, name, Linear(n_in, n_out, rngs=nnx.Rngs(0)))
    skeleton, flat = split(lora.add(holder, None, spec, nnx.Rngs(1)))
    rng = np.random.default_rng(0)
    flat = {path: a + rng.normal(0, 0.2, a.shape).astype(np.float32) for path, a in flat.items()}

    def run(flat, x, key=None):
        model = bind(skeleton, flat)
        lora.set_dropout(model, key)
        return getattr(model, name)(x)

    return run, flat, {path.removeprefix(f"{name}."): np.asarray(array) for path, array in flat.items()}


def test_only_the_named_parts_of_a_fused_projection_change():
    run, flat, p = _layer(LoRA(rank=2, alpha=3.0, targets=("q", "v")))
    x = np.random.default_rng(2).normal(size=(4, 6)).astype(np.float32)
    base = x @ p["kernel"] + p["bias"]
    low = [1.5 * x @ p[f"lora.{part}.a"] @ p[f"lora.{part}.b"] for part in "qv"]
    np.testing.assert_allclose(run(flat, x), base + np.concatenate([low[0], 0 * low[0], low[1]], 1), atol=1e-5)
    plain = {path: array for path, array in flat.items() if "lora" not in path}
    holder = Linear(6, 9, rngs=nnx.Rngs(0))
    holder.kernel[...], holder.bias[...] = plain["qkv.kernel"], plain["qkv.bias"]
    assert (run(flat, x)[:, 3:6] == holder(x)[:, 3:6]).all()


def test_dora_and_rslora_are_the_papers():
    run, flat, p = _layer(LoRA(rank=4, alpha=3.0, targets="fc1", dora=True, rslora=True), name="fc1")
    x = np.random.default_rng(2).normal(size=(4, 6)).astype(np.float32)
    kernel = p["kernel"] + 3 / np.sqrt(4) * p["lora.a"] @ p["lora.b"]
    kernel = p["lora.magnitude"] * kernel / np.linalg.norm(kernel, axis=0)
    np.testing.assert_allclose(run(flat, x), x @ kernel + p["bias"], atol=1e-5)
    slope = jax.grad(lambda flat: run(flat, x).sum())(flat)
    unit = kernel / p["lora.magnitude"]
    np.testing.assert_allclose(slope["fc1.lora.magnitude"], (x @ unit).sum(0), atol=1e-5)
    held = p["lora.magnitude"] / np.linalg.norm(p["kernel"] + 1.5 * p["lora.a"] @ p["lora.b"], axis=0)
    wanted = 1.5 * x.T.sum(1)[:, None] * (held @ p["lora.b"].T)  # the norm is held fixed
    np.testing.assert_allclose(slope["fc1.lora.a"], wanted, atol=1e-5)


def test_dropout_is_before_a_and_keeps_the_mean():
    spec = LoRA(rank=50, alpha=50.0, dropout=0.3, targets="fc1")
    run, flat, _ = _layer(spec, 50, 50, name="fc1")
    flat = {path: jnp.zeros_like(array) for path, array in flat.items()}
    flat |= {"fc1.lora.a": jnp.eye(50), "fc1.lora.b": jnp.eye(50)}
    run, x = jax.jit(run), jnp.ones((40, 50))
    assert (run(flat, x) == 1).all()
    one, again, other = (np.asarray(run(flat, x, jax.random.key(n))) for n in (0, 0, 1))
    assert set(np.unique(one)) == {0, np.float32(1 / 0.7)} and abs((one == 0).mean() - 0.3) < 0.05
    assert (one == again).all() and (one != other).any()
