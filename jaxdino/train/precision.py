"""How a run computes: the dtype, the attention, what is computed twice."""

from typing import Any

import jax.numpy as jnp

PRECISIONS = {"float32": jnp.float32, "bfloat16": jnp.bfloat16, "float16": jnp.float16}
ATTENTION = ("xla", "cudnn")


def how(config: Any) -> dict[str, Any]:
    """What `ModelSpec.build` is told."""
    return dict(dtype=PRECISIONS[config.precision], attention=config.model.attention, remat=config.model.remat)
