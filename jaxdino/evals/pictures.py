"""Draw what a backbone sees, as PNG: attention of the class token, and patch features as colours."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxdino.core.errors import UserError

INK, PAPER = "#2d3748", "#ffffff"
HEADS = 12  # largest number of columns of heads
TILE = 1.25  # inches
WIDEST_TITLE = 5.5
DPI = 130

Paint = Callable[[Any], None]  # draws one panel, given its axes


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Seen:
    """Data of the pictures of B images.

    Attributes:
      patches: (B, h, w, D) patch features after the final norm.
      attention: (B, H, h, w) attention of the last block's class token to the patches, per head, float32;
        None for a network without a class token.
    """

    patches: jax.Array
    attention: jax.Array | None


def look(backbone: Any, images: jax.Array) -> Seen:
    """Compute `Seen` of normalised float images (B, H, W, C); compile it where the weights are bound."""
    out = backbone(images)
    if not hasattr(backbone, "cls_attention"):
        return Seen(out.patches, None)
    rows, grid = backbone.cls_attention(images)
    patches = rows[:, :, -(grid[0] * grid[1]) :]
    return Seen(out.patches, patches.reshape(*rows.shape[:2], *grid))


def draw(see: Callable[[Any], Seen], images: np.ndarray, folder: str | Path) -> list[Path]:
    """Write patches.png and, for a ViT, attention.png into `folder`, which is created.

    Args:
      see: compiled `look`, images uint8 (B, H, W, C) -> `Seen`.
      images: uint8 (B, H, W, C), cropped as in evaluation; each is one column of patches.png, one row of attention.png.

    Raises:
      UserError: without an image, or if the folder cannot be created.
    """
    if not len(images):
        raise UserError("no image to draw: none of the split could be read")
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise UserError(f"the pictures' folder {folder} cannot be made: {err.strerror}") from err
    seen = see(images)
    files = [draw_patches(images, np.asarray(seen.patches), folder / "patches.png")]
    if seen.attention is not None:
        files.append(draw_attention(images, np.asarray(seen.attention), folder / "attention.png"))
    return files


def patch_colours(patches: np.ndarray) -> np.ndarray:
    """Map the first three principal components of patch features to colours: (n, h, w, D) -> (n, h, w, 3) in 0..1.

    Components are computed over all patches of all images, so that similar patches have similar colours across images.
    Each is scaled from its 1st to its 99th percentile. If there are fewer than three components, the rest is black.

    Source: Oquab et al. 2023 (DINOv2, arXiv:2304.07193), figure 1.
    """
    from sklearn.decomposition import PCA

    *shape, width = patches.shape
    rows = np.asarray(patches, np.float32).reshape(-1, width)
    count = min(3, width, len(rows))
    parts = PCA(count, svd_solver="full").fit_transform(rows - rows.mean(axis=0)) if rows.std() else rows[:, :count] * 0
    low, high = np.percentile(parts, (1, 99), axis=0)
    flat = high - low <= 1e-6 * np.abs(rows).max()  # a component that is only rounding error stays black
    colours = np.where(flat, 0, (parts - low) / np.where(flat, 1, high - low)).clip(0, 1)
    return np.pad(colours, ((0, 0), (0, 3 - count))).reshape(*shape, 3)


def draw_patches(images: np.ndarray, patches: np.ndarray, file: str | Path) -> Path:
    """Draw images uint8 (n, H, W, 3), with `patch_colours` of their patches (n, h, w, D) below; write `file`."""
    colours = patch_colours(patches)
    panels = [[_show(image) for image in images], [_show(colour) for colour in colours]]
    return _figure(panels, file, "Patch features: their first three principal components as red, green, blue")


def draw_attention(images: np.ndarray, attention: np.ndarray, file: str | Path) -> Path:
    """Draw a row per image: the image, the mean of its heads' attention (n, H, h, w), each head's; write `file`.

    Each map is drawn over the darkened image, scaled to its own maximum; the number below is the share of the attention
    on patches; the rest is on the class token itself and on registers. At most `HEADS` heads are drawn, the first
    ones.
    """
    heads = min(attention.shape[1], HEADS)
    titles = ["image", "mean of heads", *(f"head {i}" for i in range(heads))]
    panels = []
    for image, maps in zip(images, np.asarray(attention, np.float32), strict=True):
        panels.append([_show(image), *(_glow(image, a) for a in [maps.mean(axis=0), *maps[:heads]])])
    return _figure(
        panels, file, "Attention of the last block's class token, and its share that falls on patches", titles
    )


def _show(picture: np.ndarray) -> Paint:
    """Return a painter of an image (H, W, C): two channels as grey (the first), more than three as RGB (the first)."""
    shown = picture[..., :3] if picture.shape[-1] >= 3 else picture[..., :1].repeat(3, axis=-1)
    return lambda axes: axes.imshow(shown, interpolation="nearest")


def _glow(image: np.ndarray, attention: np.ndarray) -> Paint:
    """Return a painter of attention (h, w) over its darkened image (H, W, C), with its sum below."""
    height, width = image.shape[:2]
    share = attention / max(float(attention.max()), 1e-30)

    def paint(axes: Any) -> None:
        axes.imshow(image.mean(axis=2), cmap="gray", vmin=0, vmax=3 * 255, interpolation="nearest")
        extent = (-0.5, width - 0.5, height - 0.5, -0.5)
        axes.imshow(share, cmap="inferno", vmin=0, vmax=1, alpha=np.sqrt(share), extent=extent, interpolation="nearest")
        axes.set_xlabel(f"{attention.sum():.0%}", fontsize=7, color=INK, labelpad=2)

    return paint


def _figure(panels: Sequence[Sequence[Paint]], file: str | Path, title: str, titles: Sequence[str] = ()) -> Path:
    """Draw panels in rows and columns under a title; `titles` are those of the columns."""
    import matplotlib

    with matplotlib.rc_context({"font.size": 8, "text.color": INK, "figure.facecolor": PAPER}):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine

        rows, columns = len(panels), len(panels[0])
        height = rows * (TILE + 0.1) + 0.5 if titles else rows * TILE + 0.3  # room for the titles and labels
        engine = ConstrainedLayoutEngine(w_pad=0.03, h_pad=0.03, wspace=0, hspace=0)
        figure = Figure(figsize=(max(columns * TILE, WIDEST_TITLE), height), layout=engine)
        FigureCanvasAgg(figure)
        figure.suptitle(title, fontsize=9, fontweight="bold", x=0.01, ha="left")
        grid = figure.subplots(rows, columns, squeeze=False)
        for row, painters in zip(grid, panels, strict=True):
            for axes, paint in zip(row, painters, strict=True):
                paint(axes)
                axes.set_xticks([])
                axes.set_yticks([])
                axes.spines[:].set_visible(False)
        for axes, name in zip(grid[0], titles, strict=False):
            axes.set_title(name, fontsize=8, pad=3)
        try:
            figure.savefig(file, dpi=DPI)
        except OSError as err:
            raise UserError(f"the picture {file} cannot be written: {err.strerror}") from err
    return Path(file)
