"""Rematerialisation: what a block keeps for its backward pass, and what it computes again there."""

import contextvars
from collections.abc import Callable

import jax

_within = contextvars.ContextVar("within", default=False)
Remat = bool | str
"""False: keep everything. True or "blocks": keep a block's input alone. "dots": keep the products with weights too."""

SETTINGS: dict[str, Remat] = {"none": False, "blocks": "blocks", "dots": "dots", "False": False, "True": "blocks"}
"""Value of the setting `model.remat` -> what the models take. The last two are its earlier values."""


def policy(remat: Remat) -> Callable[..., bool] | None:
    """Return the `policy` of `jax.checkpoint`: None keeps inputs alone.

    "dots" keeps the products with weights (qkv, proj, fc1, fc2), which cost most of the operations, but not those of
    two activations in attention, whose results are the largest arrays.
    """
    return jax.checkpoint_policies.dots_with_no_batch_dims_saveable if remat == "dots" else None


def repeated(call: Callable[..., jax.Array], remat: Remat) -> Callable[..., jax.Array]:
    """Return a block's call which recomputes in the backward pass what it does not keep."""

    def marked(*args):
        token = _within.set(True)
        try:
            return call(*args)
        finally:
            _within.reset(token)

    return jax.checkpoint(marked, policy=policy(remat)) if remat else call


def within() -> bool:
    """Return whether a block that is computed again is being traced."""
    return _within.get()
