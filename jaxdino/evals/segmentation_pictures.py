"""Draw masks over their images, as PNG: truth beside prediction, masks of several prompts, and maps of classes."""

import functools
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
LISTED = 24  # classes in a legend
BACKGROUND, GREY = "background", "#a0a0a0"  # the class that keeps the grey of the image; its colour in a legend

CONES = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
OPPONENT = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)
"""The two matrices of OKLab."""


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


def draw_classes(
    images: Sequence[np.ndarray],
    truths: Sequence[np.ndarray] | None,
    predictions: Sequence[np.ndarray],
    class_names: Sequence[str],
    file: str | Path | BinaryIO,
) -> None:
    """Draw a row per image: the image, the true classes and the predicted ones in colours, with a legend.

    Args:
      images: uint8 (H, W, 3). truths: (H, W), 0 to n - 1, or 255 for ignored pixels, drawn hatched; None draws none.
        predictions: (H, W), 0 to n - 1. class_names: n names.

    Raises:
      UserError: without an image, or if the file cannot be written.
    """
    from matplotlib.patches import Patch

    if not len(images):
        raise UserError("no image to draw: none of the split could be read")
    columns = [predictions] if truths is None else [truths, predictions]
    titles = ("image", "truth", "prediction")[:: 1 if truths is not None else 2]
    colours, shown = class_colours(class_names) / 255, np.zeros(IGNORED + 1, np.int64)
    count = len(titles)
    legend = 0.16 * min(LISTED + 1, len(class_names)) + 0.3
    tall = TILE * min(max(image.shape[0] / image.shape[1] for image in images), 3.0) + 0.25
    with _figure(count * TILE + 1.8, max(len(images) * tall + 0.3, legend), file) as figure:
        grid = figure.subplots(len(images), count, squeeze=False)
        for axes, title in zip(grid[0], titles, strict=True):
            axes.set_title(title, fontsize=9)
        for row, (axes, image, *maps) in enumerate(zip(grid, images, *columns, strict=True)):
            _show(axes[0], image, [])
            for place, labels in zip(axes[1:], maps, strict=True):
                shown += np.bincount(np.asarray(labels, np.uint8).ravel(), minlength=IGNORED + 1)
                _show_classes(place, image, np.asarray(labels, np.uint8), colours, class_names)
            if truths is not None:
                known = np.asarray(truths[row]) != IGNORED
                right = (np.asarray(truths[row]) == np.asarray(predictions[row]))[known]
                axes[-1].set_xlabel(f"{right.mean() if right.size else 0:.0%} right", fontsize=8, labelpad=2)
        found = [n for n in range(len(class_names)) if shown[n]]
        share = ["" if truths is not None else f": {shown[n] / shown.sum():.1%}" for n in range(len(class_names))]
        keys = [
            Patch(color=GREY if class_names[n] == BACKGROUND else colours[n], label=_wrapped(class_names[n]) + share[n])
            for n in found[:LISTED]
        ]
        if len(found) > LISTED:
            keys.append(Patch(color=PAPER, label=f"and {len(found) - LISTED} more"))
        figure.legend(handles=keys, loc="outside right upper", frameon=False, fontsize=8)


@functools.cache
def _colour_table() -> np.ndarray:
    """Return 255 colours, uint8 (255, 3): `COLOURS`, then each the farthest from all before it, from black and white.

    Distances are those of OKLab, a space in which they agree with what people see.

    Source: Ottosson 2020, A perceptual color space for image processing.
    """
    from matplotlib.colors import to_rgb

    levels = np.linspace(0, 1, 16)
    cube = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3)
    chosen = [np.array(to_rgb(name)) for name in COLOURS]
    places = _oklab(cube)
    distance = np.min([np.linalg.norm(places - _oklab(one), axis=1) for one in (*chosen, cube[0], cube[-1])], axis=0)
    while len(chosen) < IGNORED:
        best = int(distance.argmax())
        chosen.append(cube[best])
        distance = np.minimum(distance, np.linalg.norm(places - places[best], axis=1))
    return np.rint(255 * np.array(chosen)).astype(np.uint8)


def _oklab(rgb: np.ndarray) -> np.ndarray:
    """Convert sRGB in 0..1, (..., 3), to OKLab."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return np.cbrt(linear @ CONES.T) @ OPPONENT.T


def class_colours(class_names: Sequence[str]) -> np.ndarray:
    """Return a colour for each of up to 256 classes, uint8 (n, 3); that of the class "background" is black."""
    free = iter(np.concatenate([_colour_table(), [[255, 255, 255]]]).astype(np.uint8))
    black = np.zeros(3, np.uint8)
    return np.array([black if name == BACKGROUND else next(free) for name in class_names], np.uint8).reshape(-1, 3)


def _wrapped(prompt: str, length: int = LINE) -> str:
    return textwrap.fill(textwrap.shorten(prompt, 3 * length, placeholder=" ..."), length)


def _colour(place: int) -> str:
    return COLOURS[place % len(COLOURS)]


def _iou(true: np.ndarray, found: np.ndarray) -> float:
    """Return the IoU, 1 if both are empty, as in `evals.segmentation`."""
    either = (true | found).sum()
    return float((true & found).sum() / either) if either else 1.0


def _show_classes(
    axes: Any, image: np.ndarray, labels: np.ndarray, colours: np.ndarray, class_names: Sequence[str]
) -> None:
    """Draw a grey image under the colours of its classes (H, W); the background keeps its grey."""
    small = _grey(_reduced(image))
    fine = _nearest(labels, small)
    tinted = [n for n in np.unique(fine) if n != IGNORED and class_names[n] != BACKGROUND]
    for n in tinted:
        small[fine == n] = (1 - STRENGTH) * small[fine == n] + STRENGTH * colours[n]
    _plain(axes, small)
    if (fine == IGNORED).any():
        axes.contourf(fine == IGNORED, levels=(0.5, 1.5), colors="none", hatches=["//////"])


def _show(axes: Any, image: np.ndarray, masks: Sequence[np.ndarray]) -> None:
    """Draw an image, reduced if large; with masks it is grey, and they are coloured and outlined."""
    from matplotlib.colors import to_rgb

    small = _reduced(image)
    small = _grey(small) if len(masks) else small
    outlines = []
    for place, mask in enumerate(masks):
        fine = _nearest(np.asarray(mask, np.uint8), small) > 0
        small[fine] = (1 - STRENGTH) * small[fine] + STRENGTH * np.array(to_rgb(_colour(place)))
        outlines += [(fine, _colour(place))] if fine.any() and not fine.all() else []
    _plain(axes, small)
    for fine, colour in outlines:
        axes.contour(fine, levels=(0.5,), colors=[colour], linewidths=1.0)


def _reduced(image: np.ndarray) -> np.ndarray:
    """Return an image, reduced if large, float32 (H, W, 3) in 0..1."""
    shrink = max(1.0, max(image.shape[:2]) / LARGEST)
    height, width = (max(1, round(side / shrink)) for side in image.shape[:2])
    return np.array(Image.fromarray(image).resize((width, height), Image.Resampling.BOX), np.float32) / 255


def _grey(image: np.ndarray) -> np.ndarray:
    """Return a pale grey image, under colours."""
    return np.repeat(0.25 + 0.55 * image.mean(axis=2, keepdims=True), 3, axis=2)


def _nearest(values: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Resize uint8 (H, W) to the size of an image."""
    return np.asarray(Image.fromarray(values).resize(image.shape[1::-1], Image.Resampling.NEAREST))


def _plain(axes: Any, image: np.ndarray) -> None:
    """Draw an image without axes."""
    axes.imshow(image.clip(0, 1), interpolation="nearest")
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
