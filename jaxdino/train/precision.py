"""Numerical settings of a run: precision, attention implementation, rematerialisation."""

from typing import Any

import jax.numpy as jnp

from jaxdino.models.remat import SETTINGS, Remat

PRECISIONS = {"float32": jnp.float32, "bfloat16": jnp.bfloat16, "float16": jnp.float16}


def remat(config: Any) -> Remat:
    """Return what the models take for `config.model.remat`."""
    return SETTINGS[config.model.remat]


def how(config: Any) -> dict[str, Any]:
    """Return the keyword arguments for `ModelSpec.build`."""
    return dict(dtype=PRECISIONS[config.precision], attention=config.model.attention, remat=remat(config))
