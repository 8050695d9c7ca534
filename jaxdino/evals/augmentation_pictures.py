"""Draw training images beside their augmented versions, as PNG. Pillow does it in a tenth of matplotlib's time."""

import functools
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from jaxdino.core.errors import UserError
from jaxdino.evals.pictures import INK, PAPER
from jaxdino.evals.segmentation import IGNORED
from jaxdino.evals.segmentation_pictures import class_colours

SIDE, GAP, LINE, HEADING = 160, 8, 16, 30  # pixels: of a tile, between tiles, of a line of text, of a block's title
SMALL, LARGE = 11, 14  # sizes of the text
TINT = 0.3  # opacity of the colour of a class over the image
DARK = 0.35  # brightness that is left of ignored pixels


class Tile(NamedTuple):
    """One image of the picture.

    Attributes:
      image: in 0..1, float (H, W, C); of more than three channels the first three are shown, of two the first in grey.
      caption: a line below it. mask: classes (H, W) drawn over the image, 255 where ignored; None draws none.
    """

    image: np.ndarray
    caption: str = ""
    mask: np.ndarray | None = None


class Block(NamedTuple):
    """Rows of tiles under one title.

    Attributes:
      titles: of the first columns. names: n classes of the masks.
    """

    title: str
    titles: Sequence[str]
    rows: Sequence[Sequence[Tile]]
    names: Sequence[str] = ()


def denormalised(image: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """Return float (H, W, C) in 0..1 of a normalised image; the inverse of `photometric.normalize`."""
    return np.asarray(image, np.float32) * np.asarray(std, np.float32) + np.asarray(mean, np.float32)


def view_tiles(views: Mapping[str, np.ndarray], mean: Sequence[float], std: Sequence[float]) -> list[Tile]:
    """Return a tile for each view: {kind: normalised (V, H, W, C)}."""
    return [
        Tile(denormalised(view, mean, std), f"{kind}, {view.shape[0]} pixels")
        for kind, found in views.items()
        for view in found
    ]


def draw_blocks(blocks: Sequence[Block], file: str | Path) -> None:
    """Draw the blocks below each other; write `file`. Raises UserError if it cannot be written."""
    count = max(len(row) for block in blocks for row in block.rows)
    height = sum(HEADING + LINE + len(block.rows) * (SIDE + LINE + GAP) for block in blocks)
    canvas = Image.new("RGB", (GAP + count * (SIDE + GAP), height), PAPER)
    pen, top = ImageDraw.Draw(canvas), 0
    for block in blocks:
        pen.text((GAP, top + GAP), block.title, INK, _font(LARGE))
        top += HEADING
        for column, title in enumerate(block.titles):
            pen.text((GAP + column * (SIDE + GAP), top), title, INK, _font(SMALL))
        top += LINE
        for row in block.rows:
            for column, tile in enumerate(row):
                left = GAP + column * (SIDE + GAP)
                canvas.paste(_picture(tile, block.names), (left, top))
                pen.text((left, top + SIDE), _shortened(tile.caption, SIDE), INK, _font(SMALL))
            top += SIDE + LINE + GAP
    try:
        canvas.save(file)
    except OSError as err:
        raise UserError(f"the picture {file} cannot be written: {err.strerror}") from err


def _picture(tile: Tile, names: Sequence[str]) -> Image.Image:
    """Return a tile's image with its mask, fitted into a square of `SIDE` pixels."""
    image = tile.image[..., :3] if tile.image.shape[-1] >= 3 else tile.image[..., :1].repeat(3, axis=-1)
    shown = np.array(image, np.float32).clip(0, 1)
    if tile.mask is not None:
        shown = _tinted(shown, np.asarray(tile.mask, np.uint8), names)
    picture = Image.fromarray(np.rint(255 * shown).astype(np.uint8))
    scale = SIDE / max(picture.size)
    how = Image.Resampling.NEAREST if scale >= 2 else Image.Resampling.BICUBIC
    width, height = (max(1, round(side * scale)) for side in picture.size)
    return picture.resize((width, height), how)


def _tinted(image: np.ndarray, mask: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Colour the classes of a mask over an image, half transparent, and darken what is ignored."""
    colours = class_colours(names) / 255
    for value in np.unique(mask):
        inside = mask == value
        if value == IGNORED:
            image[inside] *= DARK
        elif colours[value].any():  # the background keeps its own
            image[inside] = (1 - TINT) * image[inside] + TINT * colours[value]
    return image


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    """Return DejaVu Sans, which matplotlib brings along and which has the letters of most alphabets.

    matplotlib itself is not imported: a run draws with it after its first epoch, and starts sooner without it.
    """
    found = importlib.util.find_spec("matplotlib")
    assert found and found.origin  # a dependency
    return ImageFont.truetype(Path(found.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf", size)


def _shortened(text: str, width: int) -> str:
    """Cut a text to a width in pixels."""
    if _font(SMALL).getlength(text) <= width:
        return text
    while text and _font(SMALL).getlength(f"{text}...") > width:
        text = text[:-1]
    return f"{text}..."
