"""Small models of every kind that is served, saved as runs leave them."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from convert.store import Card, save_model
from jaxdino.core.params import split
from jaxdino.models.heads.fcos import FCOSHeadConfig
from jaxdino.models.heads.mask_queries import MaskQueriesHeadConfig
from jaxdino.models.heads.patches import PatchesHeadConfig
from jaxdino.models.registry import get

CLASSES = ("cat", "dog", "emu")
RNG = np.random.default_rng(0)


def save_classifier(folder: Path, seed: int = 0) -> Path:
    """Save the embedded backbone with a drawn head of three classes."""
    return _save(folder, None, seed)


def save_detector(folder: Path) -> Path:
    return _save(folder, FCOSHeadConfig(3, pyramid="patches", strides=(2, 4, 8, 16), width=16, convs=1))


def save_semantic(folder: Path) -> Path:
    return _save(folder, PatchesHeadConfig(3))


def save_instances(folder: Path) -> Path:
    return _save(folder, MaskQueriesHeadConfig(3, queries=8, layers=1, threshold=0.3))


def _save(folder: Path, head: object, seed: int = 0) -> Path:
    spec, rng = get("dinov3_digits"), np.random.default_rng(seed)
    flat = {path: np.asarray(leaf) for path, leaf in split(spec.build(3, head=head))[1].items()}
    for path in flat:
        if path.startswith("head.") and path.endswith("kernel"):
            flat[path] = rng.normal(0, 1, flat[path].shape).astype(np.float32)
    save_model(folder, Card(spec, head or spec.linear(3), class_names=CLASSES), flat)
    return folder


def png(seed: int, size: tuple[int, int] = (40, 50)) -> bytes:
    """A picture of one colour with noise, as a PNG."""
    rng = np.random.default_rng(seed)
    file = io.BytesIO()
    pixels = rng.integers(0, 206, 3, np.uint8) + rng.integers(0, 50, (*size, 3), np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()
