"""A linear layer from the tokens of a student to the width of its teacher's; it is trained and not kept."""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
from flax import nnx

from jaxdino.models.layers import Linear


@dataclasses.dataclass(frozen=True)
class AlignHeadConfig:
    """The shape of the layer; see `heads.HeadConfig`. `out_dim` is the width of the teacher's tokens."""

    out_dim: int = 384
    name: ClassVar[str] = "align"
    of: ClassVar[str] = ""
    num_classes = 0  # without annotations, so that these are no fields
    blocks, choice = 1, None

    def build(self, width: int, rngs: nnx.Rngs, *, dtype: jnp.dtype = jnp.float32) -> Linear:
        """Build the layer with a kernel of standard deviation width ** -0.5, and zero bias."""
        return Linear(width, self.out_dim, std=width**-0.5, rngs=rngs)
