"""Numerical settings of a run: precision, attention implementation, rematerialisation."""

from typing import Any

import jax.numpy as jnp

PRECISIONS = {"float32": jnp.float32, "bfloat16": jnp.bfloat16, "float16": jnp.float16}


def how(config: Any) -> dict[str, Any]:
    """Return the keyword arguments for `ModelSpec.build`."""
    return dict(dtype=PRECISIONS[config.precision], attention=config.model.attention, remat=config.model.remat)
