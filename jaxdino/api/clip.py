"""A loaded CLIP: embed images and texts in a common space."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from convert.card import Card
from jaxdino.api.model import Model
from jaxdino.core.errors import UserError
from jaxdino.core.params import Flat, Skeleton, bind
from jaxdino.data import tokenizer


class ClipModel(Model):
    """A CLIP, both towers or one; called on images, it returns the image tower's `Output`."""

    def __init__(self, card: Card, skeleton: Skeleton, flat: Flat, companions: Sequence[Path] = ()):
        super().__init__(card, skeleton, flat, companions)
        self._text = jax.jit(lambda flat, ids: bind(skeleton, flat).backbone.encode_text(ids))
        self._tokenizer: tokenizer.Tokenizer | None = None

    @property
    def logit_scale(self) -> float:
        """The factor from cosines to logits: exp of the checkpoint's `logit_scale`.

        Raises:
          UserError: if the checkpoint has none, as for single towers.
        """
        if "backbone.logit_scale" not in self.flat:
            raise UserError(f"{self.name} has no logit_scale: its checkpoint is that of one tower")
        return float(jnp.exp(self.flat["backbone.logit_scale"].astype(jnp.float32)))

    def encode_image(self, images: jax.Array | np.ndarray, normalize: bool = False) -> jax.Array:
        """Map images (B, H, W, 3), uint8 (normalised here) or float (already normalised), to embeddings (B, E).

        Args:
          normalize: return embeddings of length one, so that their products are cosines.

        Raises:
          UserError: as `__call__`, and without an image tower.
        """
        return _unit(self(images).pooled) if normalize else self(images).pooled

    def encode_text(
        self, texts: Sequence[str] | np.ndarray | jax.Array, normalize: bool = False, *, truncate: bool = False
    ) -> jax.Array:
        """Map a list of B texts, or token ids (B, L), to embeddings (B, E). Each new B or L compiles once.

        Args:
          normalize: return embeddings of length one.
          truncate: cut texts that are too long.

        Raises:
          UserError: as `tokenize`; for ids outside the vocabulary; without a text tower.
        """
        given: Any = texts
        ids = self._checked_ids(given) if hasattr(given, "ndim") else self.tokenize(given, truncate=truncate)
        features = self._text(self.flat, jnp.asarray(ids, jnp.int32))
        return _unit(features) if normalize else features

    def tokenize(self, texts: Sequence[str], *, truncate: bool = False) -> np.ndarray:
        """Convert a list of B texts to ids (B, context length) int32, with start and end tokens, padded.

        Uses the tokenizer files that came with the weights, otherwise CLIP's published vocabulary.

        Args:
          truncate: cut texts that are too long, as OpenAI's `clip.tokenize` does.

        Raises:
          UserError: if `texts` is not a list of texts, one is too long, or the tokenizer does not belong to this model.
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
