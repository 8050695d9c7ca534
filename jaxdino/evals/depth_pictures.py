"""Depth as colours: near is bright. Images beside the true and the predicted depth, as PNG."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from jaxdino.evals.augmentation_pictures import Block, Tile, draw_blocks

VIRIDIS = ("440154", "46327e", "365c8d", "277f8e", "1fa187", "4ac16d", "a0da39", "fde725")
"""matplotlib's colours in equal steps, which look equal, for colour-blind people too."""
UNKNOWN = 0.15  # grey of pixels without a depth


def coloured(depth: np.ndarray, low: float, high: float) -> np.ndarray:
    """Return float (H, W, 3) in 0..1 of metres (H, W): `low` bright, `high` dark on a scale of logarithms, 0 grey."""
    known = depth > 0
    span = max(np.log(high) - np.log(low), 1e-6)
    share = (np.log(high) - np.log(np.where(known, np.clip(depth, low, high), high))) / span
    steps = np.array([[int(one[n : n + 2], 16) / 255 for n in (0, 2, 4)] for one in VIRIDIS])
    shown = [np.interp(share, np.linspace(0, 1, len(steps)), channel) for channel in steps.T]
    return np.where(known[..., None], np.stack(shown, axis=-1), UNKNOWN).astype(np.float32)


def limits(depth: np.ndarray) -> tuple[float, float]:
    """Return the depths, in metres, below and above which lie 2 % of the known pixels; (1, 2) without any."""
    known = depth[depth > 0]
    if not known.size:
        return 1.0, 2.0
    low, high = (float(value) for value in np.percentile(known, (2, 98)))
    return low, max(high, low * 1.01)


def tile_of(depth: np.ndarray, span: tuple[float, float] | None = None, caption: str = "") -> Tile:
    """Return a tile of a depth map, with its smallest and largest known depth below it."""
    known = depth[depth > 0]
    words = f"{known.min():.3g} to {known.max():.3g} m" if known.size else "no depth"
    return Tile(coloured(depth, *(span or limits(depth))), f"{caption}{words}")


def draw_depths(
    images: Sequence[np.ndarray], truths: Sequence[np.ndarray], found: Sequence[np.ndarray], file: str | Path
) -> None:
    """Draw a row per image: the image uint8 (H, W, 3), its true and its predicted depth (H, W), one scale for both.

    Raises:
      UserError: if the file cannot be written.
    """
    rows = []
    for image, truth, prediction in zip(images, truths, found, strict=True):
        span = limits(truth)
        rows.append([Tile(image / np.float32(255)), tile_of(truth, span), tile_of(prediction, span)])
    draw_blocks([Block("depth: near is bright", ("image", "truth", "prediction"), rows)], file)


def overlay(image: np.ndarray, depth: np.ndarray) -> Image.Image:
    """Return an image uint8 (H, W, 3) and its depth in colours side by side."""
    shown = np.rint(255 * coloured(depth, *limits(depth))).astype(np.uint8)
    return Image.fromarray(np.concatenate([image, shown], axis=1))
