"""Logistic regression by L-BFGS on the device, for many values of C at once."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdino.evals.linear_heads import Heads

TOLERANCE = 1e-4  # largest entry of the gradient of the mean loss, as in scikit-learn
STALLED = 20  # iterations without a lower loss, which in float32 is the end
ELEMENTS = 1 << 26  # of the logits of all rows and heads
MEMORY = 10
TOGETHER = 15  # values of C fitted at once: all of them wait for the slowest
LINE_SEARCH = 10  # steps


def most_together(rows: int, num_classes: int) -> int:
    """Return how many values of C are fitted at once."""
    return max(1, min(TOGETHER, ELEMENTS // (rows * num_classes)))


class Fit(NamedTuple):
    """H heads, and whether each one's gradient is below the tolerance, bool (H,)."""

    heads: Heads
    converged: np.ndarray


def fit(
    x: np.ndarray | jax.Array,
    y: np.ndarray | jax.Array,
    c_values: Sequence[float],
    num_classes: int,
    max_iterations: int,
    tolerance: float = TOLERANCE,
    used: np.ndarray | None = None,
) -> Fit:
    """Minimise C times the summed loss plus half the squared kernel, for each C; the biases are free.

    The loss is cross entropy, for y int32 (N,); or the sum of a binary one for each class, for y (N, C).

    Args:
      used: the rows to fit, bool (N,); all by default. Folds of one data set share a compiled program by it.

    Source: the objective of scikit-learn's LogisticRegression, here divided by C N.
    """
    used = np.ones(len(x), bool) if used is None else used
    strength = jnp.asarray(1 / (np.asarray(c_values, np.float64) * used.sum()), jnp.float32)
    weights = jnp.asarray(used / used.sum(), jnp.float32)
    given = (jnp.asarray(x), jnp.asarray(y), weights, strength, tolerance)
    kernel, bias, largest = _fit(*given, num_classes, max_iterations)
    return Fit(Heads(kernel, bias), np.asarray(largest <= tolerance))


@functools.partial(jax.jit, static_argnums=(5, 6))
def _fit(x, y, weight_N, strength_H, tolerance, num_classes, max_iterations):
    """Return kernels (D, C, H), biases (C, H) and the largest entry of each gradient (H,)."""
    several = y.ndim == 2
    right = y if several else (y[:, None] == jnp.arange(num_classes)[None]).astype(jnp.float32)
    search = optax.scale_by_zoom_linesearch(LINE_SEARCH, initial_guess_strategy="one")
    solver = optax.lbfgs(memory_size=MEMORY, linesearch=search)

    def one(strength):
        unit = jax.lax.rsqrt(1 + strength)  # of the kernel: a strong penalty would make its curvature that large

        def loss(params):
            kernel, bias = unit * params[0], params[1]
            logits = jnp.matmul(x, kernel, precision=jax.lax.Precision.HIGHEST) + bias[None]
            if several:
                losses = (jnp.logaddexp(0.0, logits) - right * logits).sum(axis=1)
            else:
                losses = jax.nn.logsumexp(logits, axis=1) - (right * logits).sum(axis=1)
            return (weight_N * losses).sum() + 0.5 * strength * jnp.square(kernel).sum()

        value_and_grad = optax.value_and_grad_from_state(loss)

        def unfinished(carry):
            _, _, largest, _, stalled, count = carry
            return (largest > tolerance) & (stalled < STALLED) & (count < max_iterations)

        def step(carry):
            params, state, _, lowest, stalled, count = carry
            value, grad = value_and_grad(params, state=state)
            updates, state = solver.update(grad, state, params, value=value, grad=grad, value_fn=loss)
            largest = jnp.maximum(jnp.abs(grad[0]).max() / unit, jnp.abs(grad[1]).max())
            stalled = jnp.where(value < lowest, 0, stalled + 1)
            return optax.apply_updates(params, updates), state, largest, jnp.minimum(lowest, value), stalled, count + 1

        begin = (jnp.zeros((x.shape[1], num_classes)), jnp.zeros(num_classes))
        carry = (begin, solver.init(begin), jnp.inf, jnp.inf, 0, 0)
        (kernel, bias), _, largest, *_ = jax.lax.while_loop(unfinished, step, carry)
        return unit * kernel, bias, largest

    kernels, biases, largest = jax.vmap(one)(strength_H)
    return jnp.moveaxis(kernels, 0, -1), jnp.moveaxis(biases, 0, -1), largest
