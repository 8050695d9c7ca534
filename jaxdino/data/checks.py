"""Decode one record to an image of the channels that a model takes, or give the reason why this fails.

Reading a file returns an image or raises `BadImage`, never another error.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple, cast

import numpy as np
from PIL import Image

from jaxdino.data.bad_images import BadImage
from jaxdino.data.bands import Picture
from jaxdino.data.channels import RGB, Reading, of_image, of_values
from jaxdino.data.decoder import PILLOW, Decoder
from jaxdino.data.image_file import open_file, pages_of
from jaxdino.data.kinds import Kind, is_npy, kind_of, kind_of_raw, orientation_of, values_of
from jaxdino.data.ranges import Range
from jaxdino.data.reasons import lift_limit, reason, too_large
from jaxdino.data.scenes import is_scene, open_scene
from jaxdino.data.stored import ImageFile
from jaxdino.data.survey import reading_of
from jaxdino.data.tiff_layout import PLANES, SEPARATE

TURNS = {  # EXIF orientation -> the transpose that makes the image upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class Part(NamedTuple):
    """What of an image must be decoded; decoding less is faster.

    Attributes:
      scale: a JPEG may be decoded at 1 / scale of its size: 1, 2, 4 or 8. The decoder then skips the finer frequencies.
      box: what is read of the image, (left, top, right, bottom), integers in upright pixels at full size; None: all of
        it. Elsewhere a JPEG may have any values.
    """

    scale: int = 1
    box: tuple[int, int, int, int] | None = None


Draft = Callable[[tuple[int, int]], Part]


def undrafted(full: tuple[int, int]) -> Part:
    """Return the whole image at full resolution."""
    return Part()


def keeping(short: int) -> Draft:
    """Return a draft of whole images, made smaller as long as their short side keeps `short` pixels."""
    return lambda full: Part(next((scale for scale in (8, 4, 2) if min(full) >= scale * short), 1))


def open_image(
    record: ImageFile | np.ndarray | Image.Image,
    reading: Reading,
    draft: Draft = undrafted,
    decoder: Decoder = PILLOW,
) -> Picture:
    """Decode a record to an upright image of `reading.channels`.

    EXIF orientation is applied. Of an animation or a multi-page TIFF, the first page is read, unless the TIFF has as
    many grey pages as there are channels. One channel is repeated to three; colours become grey as in Pillow's "L"; an
    alpha channel without a matching model channel is dropped, keeping the colours under it (as `Image.convert` does).

    Args:
      record: path of a file, a file that is stored as bytes, an array (H, W) or (H, W, C), or a Pillow image.
      draft: called with the upright full (width, height) of each image; returns what of it must be decoded.
      decoder: decodes JPEGs.

    Returns:
      A Pillow image, "L" for one channel and "RGB" for three; `Bands` for any other number. With `reading.scenes`, of
      a larger TIFF or array a `Scene`, which can be cropped and resized alone.

    Raises:
      BadImage: if the image is missing, empty, truncated, undecodable or too large, if its channels do not fit, or if
        its pixels need a value range and none is set.
    """
    if isinstance(record, ImageFile):
        return _open_file(record, reading, draft, decoder)
    if isinstance(record, Image.Image):
        image = _upright(of_image(record, kind_of(record), reading), orientation_of(record))
    else:
        image = of_values(record[..., None] if record.ndim == 2 else record, False, reading)
    draft(image.size)
    return image


def open_rgb(record: str | np.ndarray, max_pixels: int, draft: Draft = undrafted) -> Image.Image:
    """Decode a record to RGB, as `open_image`. Deep pixels use the range of this one image, with a warning."""
    reading = dataclasses.replace(reading_of([record], Range()), max_pixels=max_pixels)
    return open_image(record, reading, draft)


def _open_file(path: ImageFile, reading: Reading, draft: Draft, decoder: Decoder) -> Picture:
    max_pixels = reading.max_pixels
    lift_limit(max_pixels)
    try:
        if reading.scenes and is_scene(path, max_pixels):
            scene = open_scene(path, reading)
            draft(scene.size)
            return cast(Picture, scene)
        if is_npy(path):
            return _open_raw(path, kind_of_raw(path), reading, draft)
        with open_file(path) as image:
            _check_size(image.size, reading)
            draftable, kind = image.format in ("JPEG", "MPO"), kind_of(image)
            if not draftable:
                if _loses(image, kind, reading):
                    return _open_raw(path, kind, reading, draft)
                # Check this before reading the EXIF: Pillow may decode for it and then hide the failure, and it
                # rotates a TIFF itself.
                image.load()
            orientation = orientation_of(image)
            part = draft(image.size[::-1] if orientation >= 5 else image.size)
            how = (part.scale, _rows(part.box, image.size, orientation)) if draftable else ()
            return _upright(of_image(decoder.load(image, *how), kind, reading), orientation)
    except BadImage:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise BadImage(too_large("it", max_pixels, reading.scenes)) from None
    except Image.UnidentifiedImageError as err:
        return _open_unknown(path, reading, draft, err)
    except Exception as err:  # decoders raise many error types for broken files
        raise BadImage(reason(path, err)) from err


def _rows(box: tuple[int, int, int, int] | None, stored: tuple[int, int], orientation: int) -> int | None:
    """Return how many rows of a file, from its first, a box of the upright image needs; None: all."""
    if box is None:
        return None
    left, top, right, bottom = box
    rows = stored[1]
    return {3: rows - top, 4: rows - top, 5: right, 6: rows - left, 7: rows - left, 8: right}.get(orientation, bottom)


def _open_unknown(path: ImageFile, reading: Reading, draft: Draft, err: Exception) -> Picture:
    """Open a file that Pillow does not know, if another library reads it."""
    try:
        if kind := kind_of_raw(path):
            return _open_raw(path, kind, reading, draft)
    except BadImage:
        raise
    except Exception as other:
        raise BadImage(reason(path, other)) from other
    raise BadImage(reason(path, err)) from err


def _loses(image: Image.Image, kind: Kind, reading: Reading) -> bool:
    """Return whether Pillow would lose values that the model reads.

    Pillow keeps only 8 bits of 16-bit colours, the same bits as with the full range. With that range Pillow is
    enough, so results do not depend on which optional libraries are installed.
    """
    if kind.decoder == "pillow":
        pages = image.format == "TIFF" and kind.bands == 1 and reading.channels not in (1, RGB)
        return pages and pages_of(image) == reading.channels
    planar = getattr(image, "tag_v2", {}).get(PLANES) == SEPARATE  # Pillow mixes the bytes of such 16-bit colours
    eight = kind.dtype == "uint16" and kind.name != "bands" and reading.range.kind == "full" and not planar
    return not eight or (kind.bands == 2 and reading.channels == 2)  # grey with alpha comes as RGBA


def _open_raw(path: ImageFile, kind: Kind, reading: Reading, draft: Draft) -> Picture:
    """Open a file with its own decoder instead of Pillow. Raise BadImage, or any error of that decoder."""
    _check_size(kind.size, reading)
    orientation = kind.orientation
    if kind.decoder == "imagecodecs":
        with open_file(path) as image:
            orientation = orientation_of(image)
    values = values_of(path, kind, reading.channels)
    picture = _upright(of_values(values, kind.alpha, reading, kind.inverted, kind.window), orientation)
    draft(picture.size)
    return picture


def _upright(picture: Picture, orientation: int) -> Picture:
    return picture.transpose(TURNS[orientation]) if orientation in TURNS else picture


def _check_size(size: tuple[int, int], reading: Reading) -> None:
    if size[0] * size[1] > reading.max_pixels:
        raise BadImage(too_large(f"{size[0]} x {size[1]}", reading.max_pixels, reading.scenes))


def upright_size(image: Image.Image, expected: tuple[int, int]) -> tuple[int, int]:
    """Return the upright (width, height) of an opened file.

    Args:
      expected: if the stored size equals this, use only an orientation that is known without decoding.
    """
    told = image.format in ("JPEG", "MPO", "WEBP") or "exif" in image.info
    if image.format == "TIFF" or (image.size == expected and not told):  # Pillow rotates a TIFF itself
        return image.size
    return image.size[::-1] if orientation_of(image) >= 5 else image.size
