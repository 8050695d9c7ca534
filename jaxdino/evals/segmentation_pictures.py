"""Draw masks over their images, as PNG: truth beside prediction, and one image with masks of several prompts."""

import textwrap
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from jaxdino.core.errors import UserError
from jaxdino.evals.pictures import DPI, INK, PAPER
from jaxdino.evals.segmentation import IGNORED

COLOURS = ("#e69f00", "#56b4e9", "#009e73", "#cc79a7", "#f0e442", "#d55e00", "#0072b2")
"""Okabe and Ito's colours, which colour-blind people can distinguish; repeated for more masks."""

TILE = 1.7  # inches a side
LARGEST = 800  # pixels a side of an image within a picture; larger images are reduced
STRENGTH = 0.55  # opacity of the colour over the image
LINE = 22  # characters of a prompt per line


def draw_pairs(
    images: Sequence[np.ndarray],
    prompts: Sequence[str],
    truths: Sequence[np.ndarray],
    predictions: Sequence[np.ndarray],
    file: str | Path,
) -> Path:
    """Draw a row per pair: the prompt, the image, the truth and the prediction with its IoU; write `file`.

    Args:
      images: uint8 (H, W, 3). prompts: texts. truths: (H, W), 0, 1, or 255 for ignored pixels, drawn hatched.
        predictions: (H, W) bool.

    Raises:
      UserError: without a pair, or if the file cannot be written.
    """
    if not len(images):
        raise UserError("no pair to draw: none of the split could be read")
    rows = list(zip(images, prompts, truths, predictions, strict=True))
    with _figure(3 * TILE + 1.3, len(rows) * (TILE + 0.2) + 0.3, file) as figure:
        grid = figure.subplots(len(rows), 3, squeeze=False)
        for axes, title in zip(grid[0], ("image", "truth", "prediction"), strict=True):
            axes.set_title(title, fontsize=9)
        for (left, middle, right), (image, prompt, truth, prediction) in zip(grid, rows, strict=True):
            left.set_ylabel(_wrapped(prompt), rotation=0, ha="right", va="center", fontsize=9)
            known = np.asarray(truth) != IGNORED
            true, found = (np.asarray(truth) == 1), np.asarray(prediction, bool)
            for axes, masks in ((left, []), (middle, [true]), (right, [found])):
                _show(axes, image, masks)
            if not known.all():
                middle.contourf(~known, levels=(0.5, 1.5), colors="none", hatches=["//////"])
            right.set_xlabel(f"IoU {_iou(true & known, found & known):.2f}", fontsize=8, labelpad=2)
    return Path(file)


def draw_overlay(
    image: np.ndarray,
    prompts: Sequence[str],
    masks: np.ndarray,
    scores: Sequence[float] | np.ndarray,
    file: str | Path | BinaryIO,
) -> None:
    """Draw the image, and beside it the masks of P prompts in colours, with a legend of scores and area shares.

    Args:
      image: uint8 (H, W, 3). masks: (P, H, W) bool. scores: (P,), the predicted IoU.

    Raises:
      UserError: if the file cannot be written.
    """
    from matplotlib.patches import Patch

    height, width = image.shape[:2]
    tall = min(max(4.2 * height / width, 1.0), 8.0)
    wide = min(max(tall * width / height, 1.5), 4.2)
    labels = [f"{_wrapped(prompt, 60)}: score {score:.2f}" for prompt, score in zip(prompts, scores, strict=True)]
    labels = [f"{label}, {mask.mean():.1%} of the image" for label, mask in zip(labels, masks, strict=True)]
    lines = sum(label.count("\n") + 1 for label in labels)
    with _figure(max(2 * wide, 5.0), tall + 0.2 * lines + 0.3, file) as figure:
        left, right = figure.subplots(1, 2)
        _show(left, image, [])
        _show(right, image, list(masks))
        keys = [Patch(color=_colour(n), label=label) for n, label in enumerate(labels)]
        figure.legend(handles=keys, loc="outside lower left", frameon=False, fontsize=8)


def _wrapped(prompt: str, length: int = LINE) -> str:
    return textwrap.fill(textwrap.shorten(prompt, 3 * length, placeholder=" ..."), length)


def _colour(place: int) -> str:
    return COLOURS[place % len(COLOURS)]


def _iou(true: np.ndarray, found: np.ndarray) -> float:
    """Return the IoU, 1 if both are empty, as in `evals.segmentation`."""
    either = (true | found).sum()
    return float((true & found).sum() / either) if either else 1.0


def _show(axes: Any, image: np.ndarray, masks: Sequence[np.ndarray]) -> None:
    """Draw an image, reduced if large; with masks it is grey, and they are coloured and outlined."""
    from matplotlib.colors import to_rgb

    shrink = max(1.0, max(image.shape[:2]) / LARGEST)
    height, width = (max(1, round(side / shrink)) for side in image.shape[:2])
    size = (width, height)
    small = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX), np.float32) / 255
    if len(masks):
        small = np.repeat(0.25 + 0.55 * small.mean(axis=2, keepdims=True), 3, axis=2)
    outlines = []
    for place, mask in enumerate(masks):
        fine = np.asarray(Image.fromarray(np.asarray(mask, np.uint8)).resize(size, Image.Resampling.NEAREST)) > 0
        small[fine] = (1 - STRENGTH) * small[fine] + STRENGTH * np.array(to_rgb(_colour(place)))
        outlines += [(fine, _colour(place))] if fine.any() and not fine.all() else []
    axes.imshow(small.clip(0, 1), interpolation="nearest")
    for fine, colour in outlines:
        axes.contour(fine, levels=(0.5,), colors=[colour], linewidths=1.0)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


@contextmanager
def _figure(width: float, height: float, file: str | Path | BinaryIO) -> Iterator[Any]:
    """Create a figure of this size in inches, written when the block ends; prompts are plain text, in any script."""
    import matplotlib

    style: dict[Any, Any] = {
        "font.size": 8,
        "text.color": INK,
        "axes.labelcolor": INK,
        "figure.facecolor": PAPER,
        "hatch.color": INK,
    }
    style |= {"text.parse_math": False, "hatch.linewidth": 0.5}
    with matplotlib.rc_context(style), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # missing glyphs are drawn as boxes
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine

        engine = ConstrainedLayoutEngine(w_pad=0.04, h_pad=0.04, wspace=0, hspace=0)
        figure = Figure(figsize=(width, height), layout=engine)
        FigureCanvasAgg(figure)
        yield figure
        try:
            figure.savefig(file, dpi=DPI)
        except OSError as err:
            raise UserError(f"the picture {file} cannot be written: {err.strerror}") from err
