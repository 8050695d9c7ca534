"""A loaded projection head, called on features."""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from convert.card import Card
from jaxdino.api.model import Model
from jaxdino.core.errors import UserError
from jaxdino.core.params import Flat, Skeleton, bind


class HeadModel(Model):
    """A DINO or iBOT head, called on features."""

    lacks: ClassVar = {
        "preprocess": "a projection head takes features, not images: load the backbone beside it",
        "predict": "a projection head has no classes: load the backbone beside it",
        "intermediate_layers": "a projection head has no blocks: load the backbone beside it",
        "attention": "a projection head has no attention: load the backbone beside it",
        "similarity": "a projection head has no patches: load the backbone beside it",
    }

    def __init__(self, card: Card, skeleton: Skeleton, flat: Flat, companions: Sequence[Path] = ()):
        super().__init__(card, skeleton, flat, companions)
        self._scores = jax.jit(lambda flat, features: bind(skeleton, flat).backbone(features))

    def __call__(self, features: jax.Array | np.ndarray) -> jax.Array:
        """Map features (..., in_dim), such as class tokens, to scores of the prototypes (..., out_dim).

        Raises:
          UserError: if the features have another width, or are not floats.
        """
        width, shape = self._config.in_dim, tuple(getattr(features, "shape", ()))
        if not shape or shape[-1] != width or not jnp.issubdtype(features.dtype, jnp.floating):
            raise UserError(f"a projection head takes an array of floats (..., {width}), such as a model's cls")
        return self._scores(self.flat, features)
