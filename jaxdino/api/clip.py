"""A loaded CLIP: images and texts into one space."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from convert.store import Card
from jaxdino.api.model import Model
from jaxdino.core.errors import UserError
from jaxdino.core.params import Flat, Skeleton, bind
from jaxdino.data import tokenizer


class ClipModel(Model):
    """A CLIP, both towers or one; called on images, it gives the image tower's `Output`."""

    def __init__(self, card: Card, skeleton: Skeleton, flat: Flat, companions: Sequence[Path] = ()):
        super().__init__(card, skeleton, flat, companions)
        self._text = jax.jit(lambda flat, ids: bind(skeleton, flat).backbone.encode_text(ids))
        self._tokenizer: tokenizer.Tokenizer | None = None

    @property
    def logit_scale(self) -> float:
        """What cosines are multiplied by to give logits: exp of the checkpoint's `logit_scale`.

        Raises:
          UserError: if the checkpoint holds none, as towers alone do not.
        """
        if "backbone.logit_scale" not in self.flat:
            raise UserError(f"{self.name} has no logit_scale: its checkpoint is that of one tower")
        return float(jnp.exp(self.flat["backbone.logit_scale"].astype(jnp.float32)))

    def encode_image(self, images: jax.Array | np.ndarray, normalize: bool = False) -> jax.Array:
        """Images (B, H, W, 3), uint8 (normalised for you) or float (already normalised) -> embeddings (B, E).

        Args:
          normalize: give embeddings of length one, so that their products are cosines.

        Raises:
          UserError: as `__call__`, and without an image tower.
        """
        return _unit(self(images).pooled) if normalize else self(images).pooled

    def encode_text(
        self, texts: Sequence[str] | np.ndarray | jax.Array, normalize: bool = False, *, truncate: bool = False
    ) -> jax.Array:
        """A list of B texts, or token ids (B, L) -> embeddings (B, E). Each new B or L compiles once.

        Args:
          normalize: give embeddings of length one.
          truncate: cut texts that are too long.

        Raises:
          UserError: as `tokenize`; for ids that the model does not have; without a text tower.
        """
        given: Any = texts
        ids = self._checked_ids(given) if hasattr(given, "ndim") else self.tokenize(given, truncate=truncate)
        features = self._text(self.flat, jnp.asarray(ids, jnp.int32))
        return _unit(features) if normalize else features

    def tokenize(self, texts: Sequence[str], *, truncate: bool = False) -> np.ndarray:
        """A list of B texts -> ids (B, context length) int32, with marks, padded.

        With the tokenizer whose files came with the weights, else CLIP's published one.

        Args:
          truncate: cut texts that are too long, as OpenAI's `clip.tokenize` does.

        Raises:
          UserError: if it is no list of texts, one is too long, or the tokenizer is not of this model.
        """
        text = self._text_tower()
        if self._tokenizer is None:
            self._tokenizer = tokenizer.serving(self.companions, text)
        return self._tokenizer(texts, text.context_length, truncate=truncate)

    def _text_tower(self):
        text = self._config.text
        if text is None:
            raise UserError(f"{self.name} was loaded from a checkpoint of its image tower alone: it takes no text")
        return text

    def _checked_ids(self, ids: np.ndarray | jax.Array) -> np.ndarray:
        text, ids = self._text_tower(), np.asarray(ids)
        if ids.ndim != 2 or not np.issubdtype(ids.dtype, np.integer) or not 0 < ids.shape[1] <= text.context_length:
            raise UserError(
                f"token ids have the shape {ids.shape} and dtype {ids.dtype}; integers (B, L) with L of 1 to "
                f"{text.context_length} are needed"
            )
        if not ids.size or ids.min() < 0 or ids.max() >= text.vocab_size:
            raise UserError(f"token ids must lie in 0 to {text.vocab_size - 1}, with at least one text")
        return ids


def _unit(x: jax.Array) -> jax.Array:
    wide = x.astype(jnp.float32)
    return (wide / jnp.linalg.norm(wide, axis=-1, keepdims=True)).astype(x.dtype)
