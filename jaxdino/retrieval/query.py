"""Embed a query, an image or a text, as the images of a file of embeddings were embedded."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxdino.core.errors import UserError
from jaxdino.retrieval.embed import JOINT, embedder
from jaxdino.retrieval.embeddings import Embeddings


def of_images(model: Any, made: Embeddings, files: Sequence[str], batch_size: int = 32) -> np.ndarray:
    """Return the embeddings of image files, float32 (Q, D).

    Raises:
      UserError: for a file that cannot be read.
    """
    embed, parts = embedder(model, made.about["pool"]), []
    sixteen_bit = made.about.get("preprocess", {}).get("sixteen_bit")
    for first in range(0, len(files), batch_size):
        images = model.preprocess(list(files[first : first + batch_size]), sixteen_bit=sixteen_bit)
        parts.append(np.asarray(embed(images), np.float32))
    return np.concatenate(parts)


def of_texts(model: Any, made: Embeddings, texts: Sequence[str]) -> np.ndarray:
    """Return the embeddings of texts, float32 (Q, D).

    Raises:
      UserError: unless the images were embedded in CLIP's space of images and texts.
    """
    if made.about["pool"] != JOINT:
        raise UserError(
            f"{made.file} has {made.about['pool']} of {model.name}: texts are compared in the space of a CLIP. Make "
            f"embeddings with the weights of a CLIP (--pool {JOINT}, its default), or give images"
        )
    return np.asarray(model.encode_text(list(texts)), np.float32)
