"""Pictures of two images side by side: matching patches joined by lines, or the similarity to one patch as heat."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from convert.atomic import refuse_existing
from jaxdino.core.errors import UserError

SUFFIXES = (".png", ".jpg", ".jpeg", ".svg", ".pdf")
SIDE, GAP, DPI = 4.0, 0.15, 130  # inches


def check_out(file: str, overwrite: bool) -> Path:
    """Return the path of a new picture. Raise UserError if it cannot be written there."""
    path = Path(file)
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"--out {file}: give a file that ends in {', '.join(SUFFIXES)}")
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise UserError(f"--out {file}: give a file in a folder that exists")
    try:
        refuse_existing([path], overwrite)
    except UserError:
        raise UserError(f"--out {file} exists already: give another file, or --overwrite") from None
    return path


def draw_matches(images: np.ndarray, matches: Sequence[Any], file: Path) -> None:
    """Draw both images uint8 (2, H, W, C), with a line from a to b for each match, in colours of their order."""
    from matplotlib import colormaps
    from matplotlib.patches import ConnectionPatch

    figure, axes = _pair(images)
    for rank, match in enumerate(matches):
        colour = colormaps["turbo"]((rank + 0.5) / len(matches))
        line = ConnectionPatch(match.a, match.b, "data", "data", axesA=axes[0], axesB=axes[1], color=colour, lw=1)
        figure.add_artist(line)
        for place, one in ((match.a, axes[0]), (match.b, axes[1])):
            one.plot(*place, "o", ms=4, mfc=colour, mec="white", mew=0.6)
    if matches:
        figure.suptitle(
            f"{len(matches)} matches, cosine {matches[0].cosine:.3f} to {matches[-1].cosine:.3f}", fontsize=9
        )
    _save(figure, file)


def draw_similarity(images: np.ndarray, cosines: Sequence[Any], point: tuple[float, float], file: Path) -> None:
    """Draw both images with the cosines (ha, wa) and (hb, wb) of their patches over them, and the point as a cross.

    Args:
      point: x and y in the first image, as shares of its width and height.
    """
    figure, axes = _pair(images)
    low = min(float(np.min(one)) for one in cosines)
    height, width = images.shape[1:3]
    for one, values in zip(axes, cosines, strict=True):
        extent = (-0.5, width - 0.5, height - 0.5, -0.5)
        heat = one.imshow(np.asarray(values), cmap="inferno", vmin=low, vmax=1, alpha=0.65, extent=extent)
    axes[0].plot(point[0] * width, point[1] * height, "+", ms=12, mec="white", mew=2)
    figure.colorbar(heat, ax=list(axes), label="cosine", fraction=0.025, pad=0.02)
    _save(figure, file)


def _pair(images: np.ndarray) -> tuple[Any, Any]:
    """Return a figure and its two panels, with the images in them."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2 * SIDE + GAP, SIDE + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 2)
    for one, image in zip(axes, images, strict=True):
        one.imshow(image[..., :3] if image.shape[-1] >= 3 else image[..., :1].repeat(3, axis=-1))
        one.set_axis_off()
    return figure, axes


def _save(figure: Any, file: Path) -> None:
    try:
        figure.savefig(file, dpi=DPI)
    except OSError as err:
        raise UserError(f"the picture {file} cannot be written: {err.strerror or err}") from err
