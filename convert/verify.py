"""Run the PyTorch original and our model on one image and report the largest differences."""

import dataclasses
import importlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from convert.describe import recognise_source
from convert.hub import find
from convert.load import Pretrained, load_pretrained
from convert.readers import open_source
from convert.recognise import Recognised
from convert.store import is_model
from convert.tables import serving
from jaxdino.core.errors import UserError
from jaxdino.core.params import bind
from jaxdino.models.spec import ModelSpec

TOLERANCE = 1e-5


@dataclasses.dataclass(frozen=True)
class Difference:
    """The largest absolute difference at one place, and the same relative to the original's largest value."""

    place: str
    absolute: float
    relative: float


class Verified(NamedTuple):
    """Result of a comparison.

    Attributes:
      original: the reference that our model was compared with. differences: at each place, in order.
      unchecked: facts that no tensor holds, so both models take them from the same source, a line each.
    """

    spec: ModelSpec
    original: str
    differences: list[Difference]
    unchecked: list[str]


def verify(src: str | Path, *, image: str | Path | None = None, pool: str | None = None, **overrules: Any) -> Verified:
    """Compare the models at the family's places (the embedding, each block, the output), in float32.

    Args:
      src: a PyTorch checkpoint: a file, a Hugging Face folder or a hub name.
      image: an image file; by default a fixed random image at the model's size.
      pool: pooling of the classification head; only reported, since backbones are compared.

    Raises:
      UserError: if torch is not installed, or SRC is not a PyTorch checkpoint.
    """
    path = find(src)
    if is_model(path):
        raise UserError(f"{path} is a model in our own format: give verify the original PyTorch checkpoint")
    try:
        import torch  # noqa: F401
    except ImportError:
        raise UserError("verify runs the PyTorch original: install torch (CPU is enough), then call it again") from None
    with open_source(path) as source:
        found = recognise_source(source, **overrules)
        reference = importlib.import_module(serving()[found.spec.family].reference)
        inputs = reference.inputs(found.spec, _pixels(found.spec, image))
        from convert.references.folder import hf_folder  # needs torch

        network = found.without_segmentation_head()
        with hf_folder(path, network, source) as (folder, made):
            original, theirs = reference.original(network, source, folder, inputs)
        ours = _ours(load_pretrained(path, drop_head=True, **overrules), reference.ours, inputs)
    places = [(place, ours[place], theirs[place]) for place in theirs]
    unchecked = [*made, *_unchecked(found, reference, pool)]
    return Verified(found.spec, original, [_difference(*place) for place in places], unchecked)


def _unchecked(found: Recognised, reference: ModuleType, pool: str | None) -> list[str]:
    """List what the comparison cannot check: assumptions, values shared with the reference, the head, the pixels."""
    facts = list(found.assumed)
    if found.layout != "hf" and (shared := getattr(reference, "shared", None)):
        facts.append(f"{shared(found)}: no tensor holds them, so the original runs with our values")
    if found.num_classes:
        on = "" if found.segmentation else f" on {pool}" if pool else " and its pooling"
        facts.append(f"the head of {found.num_classes} classes{on}: only the networks before it are compared")
    return [*facts, "the preprocessing: both models get the same pixels"]


def _pixels(spec: ModelSpec, image: str | Path | None) -> np.ndarray:
    """(1, H, W, C) float32, normalised."""
    how = spec.preprocess
    if image is None:
        pixels = np.random.default_rng(0).random((*how.size, spec.config.in_channels), np.float32)
    else:
        from jaxdino.data.channels import Reading
        from jaxdino.data.reader import eval_reader

        read = eval_reader(how.size, how.resize, Reading(len(how.mean), max_pixels=10**9))
        pixels = read.image(str(image)).astype(np.float32) / 255
    mean, std = (np.asarray(v, np.float32)[: spec.config.in_channels] for v in (how.mean, how.std))
    return ((pixels - mean) / std)[None]


def _ours(found: Pretrained, look: Callable, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    import jax

    skeleton = found.card.spec.skeleton()
    flat = {path: _float32(array) for path, array in found.flat.items()}
    with jax.default_matmul_precision("highest"):
        return jax.tree.map(np.asarray, jax.jit(lambda flat, inputs: look(bind(skeleton, flat), inputs))(flat, inputs))


def _float32(array: np.ndarray) -> np.ndarray:
    return array if np.issubdtype(array.dtype, np.integer) else np.asarray(array, np.float32)


def _difference(place: str, ours: np.ndarray, theirs: np.ndarray) -> Difference:
    absolute = float(np.abs(ours - theirs).max())
    return Difference(place, absolute, absolute / float(np.abs(theirs).max()))
