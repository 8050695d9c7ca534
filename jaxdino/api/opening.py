"""Open weights from any source as a model on the devices, for `jaxdino.load` and for the commands."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from convert import assumptions
from convert.card import Card
from convert.load import open_pretrained
from jaxdino.api.clip import ClipModel
from jaxdino.api.depth import DepthModel
from jaxdino.api.detector import Detector
from jaxdino.api.head import HeadModel
from jaxdino.api.instances import InstanceModel
from jaxdino.api.model import Model
from jaxdino.api.sam import SamModel
from jaxdino.api.segmenter import Segmenter
from jaxdino.api.semantic import SemanticModel
from jaxdino.core.bars import by_bytes
from jaxdino.core.errors import UserError
from jaxdino.core.params import Digest
from jaxdino.core.rules import did_you_mean
from jaxdino.core.sharding import place

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16, "float16": jnp.float16}
FACES: dict[str, type[Model]] = {
    "clip": ClipModel,
    "clipdinosam": Segmenter,
    "dino_head": HeadModel,
    "sam": SamModel,
}
"""{family: class with methods beyond those of `Model`}."""
WARNING = "warning: "


def open_model(
    src: str | Path,
    dtype: str = "float32",
    *,
    attention: str = "xla",
    mesh: Mesh | None = None,
    words: Mapping[str, str] = assumptions.KEYWORDS,
    **overrules: Any,
) -> tuple[Model, list[str]]:
    """Load a model; see `jaxdino.load`.

    Args:
        words: {flag: its name for the caller}, for errors and messages.
        overrules: as in `convert.load.open_pretrained`.

      Returns:
        The model, and lines about weights that are not finite ("warning: ...") and assumptions ("assumed: ...").

      Raises:
        UserError: if the source cannot be found or read, or does not match the model exactly.
    """
    for what, value, known in (("dtype", dtype, DTYPES), ("attention", attention, ("xla", "cudnn"))):
        if value not in known:
            raise UserError(f"{what}={value!r} is not known; {did_you_mean(str(value), known)}")
    with assumptions.spelling(words), open_pretrained(src, **overrules) as opened:
        card, digest = opened.card, Digest()
        skeleton = card.spec.skeleton(head=card.head, dtype=DTYPES[dtype], attention=attention)
        flat = {}
        for path, leaf in by_bytes(opened.flat, "loading"):
            array = np.asarray(leaf)
            digest.add(path, array)
            cast = skeleton.entries[path].kind == "param" and array.ndim  # CLIP's temperature is not cast
            flat[path] = _placed(path, array, mesh, DTYPES[dtype] if cast else array.dtype)
            del array  # before the next one is read
    card = dataclasses.replace(card, digest=digest.value())
    lines = [assumptions.spelled(note, words) for note in opened.notes if note.startswith((WARNING, assumptions.MARK))]
    return face_of(card)(card, skeleton, flat, opened.companions), lines


def face_of(card: Card) -> type[Model]:
    """Return the class of a loaded model, given by its head or its family."""
    if card.finds_boxes:
        return Detector
    if card.finds_masks:
        return InstanceModel
    if card.gives_depth:
        return DepthModel
    return SemanticModel if card.labels_pixels else FACES.get(card.spec.family, Model)


def _placed(path: str, array: np.ndarray, mesh: Mesh | None, dtype: Any) -> jax.Array:
    if mesh is not None:
        return place(path, array, mesh, dtype=dtype)
    return jax.device_put(array.astype(dtype, copy=False)).block_until_ready()
