"""Read the pixel format of a file from its header: bands, alpha, number type, and the library to decode it."""

import dataclasses
import logging
import math
import os
import warnings
from typing import Any, BinaryIO

import numpy as np
from PIL import ExifTags, Image

from jaxdino.data import dicom
from jaxdino.data.bad_images import BadImage
from jaxdino.data.image_file import TIFF_MAGIC, bytes_of, is_dicom, open_file
from jaxdino.data.stored import ImageFile
from jaxdino.data.tiff_layout import unsound

RGB = 3
SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N")
GREYS = ("1", "L", "LA", "La")
ALPHA = (1, 2)  # TIFF ExtraSamples: premultiplied and straight alpha
BITS_PER_SAMPLE, PHOTOMETRIC, ORIENTATION, SAMPLES, EXTRA_SAMPLES, SAMPLE_FORMAT = 258, 262, 274, 277, 338, 339
WHITE_IS_ZERO = 0  # a value of PHOTOMETRIC
NODATA = 42113  # GDAL's tag: the value of pixels without a measurement, as text
NUMBERS = {1: "uint", 2: "int", 3: "float"}  # TIFF's SampleFormat
HELD = {"RGB": 3, "L": 1, "LA": 2, "RGBA": 4, "CMYK": 4, "LAB": 3, "YCbCr": 3}  # Pillow's mode -> TIFF's samples
COLOURS = ("CMYK", "LAB", "YCbCr", "HSV")  # modes that Pillow converts to RGB
NAMES = {"L": "grey", "LA": "grey with alpha", "P": "palette", "1": "black and white"}
INSTALL = "pip install 'jaxdino[bands]'"
warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # `checks` compares the size with max_pixels itself
logging.getLogger("PIL.TiffImagePlugin").setLevel(logging.CRITICAL)  # it logs errors for TIFFs that tifffile reads


@dataclasses.dataclass(frozen=True)
class Kind:
    """The pixel format of a file.

    Attributes:
      name: Pillow's name of this mode, or "bands".
      bands: number of bands, including alpha.
      alpha: whether the last band is an alpha channel.
      dtype: type of the stored values: "uint8", "uint16", ...
      decoder: the library that decodes all values: "pillow", "tifffile", "imagecodecs" (a PNG), "numpy", "pydicom".
      size: (width, height), as stored. orientation: from EXIF, 1 to 8.
      pages: number of pages of a TIFF, if a library other than Pillow read the header, or of frames of a DICOM file.
      inverted: whether 0 is white. Pillow corrects this only for 8-bit values.
      nodata: the value of pixels without a measurement, as named in a GeoTIFF or a DICOM file.
      window: the values that a DICOM file shows as black and white.
    """

    name: str
    bands: int
    alpha: bool = False
    dtype: str = "uint8"
    decoder: str = "pillow"
    size: tuple[int, int] = (0, 0)
    orientation: int = 1
    pages: int = 1
    inverted: bool = False
    nodata: float | None = None
    window: tuple[float, float] | None = None

    def fits(self, channels: int) -> bool:
        """Return whether it can be read as `channels`: unchanged, grey for colour, without alpha, or one page each."""
        if self.paged(channels):
            return True
        colours = RGB if self.name in COLOURS else self.bands - self.alpha
        return self.bands == channels or (colours in (1, RGB) and channels in (1, RGB))

    def paged(self, channels: int) -> bool:
        """Return whether each page is read as a channel."""
        return self.bands == 1 < channels == self.pages != RGB and self.decoder != "pydicom"

    @property
    def numbers(self) -> str:
        """Return the number type in words: "16-bit", "signed 16-bit", "float32"."""
        if "int" not in self.dtype:
            return self.dtype
        signed = "" if self.dtype.startswith("u") else "signed "
        return f"{signed}{self.dtype.removeprefix('u').removeprefix('int')}-bit"

    @property
    def deep(self) -> bool:
        """Return whether the values must be scaled to 8 bits."""
        return self.dtype not in ("uint8", "bool")

    def __str__(self) -> str:
        name = NAMES.get(self.name, self.name) if self.name != "bands" else f"{self.bands} bands"
        return f"{name} {self.numbers}" if self.deep else name


def orientation_of(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8; 1 if it is missing or unreadable."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # a broken EXIF block must not make the image unreadable
        return 1
    return value if value in range(1, 9) else 1


def kind_of(image: Image.Image) -> Kind:
    """Return the kind of an opened image that is not decoded yet."""
    mode, tags = image.mode, getattr(image, "tag_v2", None)
    if tags is not None:
        nodata = _number(tags.get(NODATA))
        kind = dataclasses.replace(_of_tags(mode, tags), size=image.size, nodata=nodata)
        return dataclasses.replace(kind, orientation=tags.get(ORIENTATION, 1))
    if mode in SIXTEEN_BIT:
        return Kind("L", 1, dtype="uint16")
    if mode in ("I", "F"):  # a 16-bit PGM has mode I
        return Kind("L", 1, dtype="uint16" if image.format == "PPM" else {"I": "int32", "F": "float32"}[mode])
    if image.format == "PNG" and (raw := _raw_mode(image)).endswith(";16B"):
        name = raw.removesuffix(";16B")
        return Kind(name, len(name), name.endswith("A"), "uint16", "imagecodecs", image.size)
    if mode == "P":
        return Kind("P", 4, alpha=True) if "transparency" in image.info else Kind("P", 3)
    return Kind(mode, len(image.getbands()), alpha=mode in ("LA", "La", "PA", "RGBA", "RGBa"))


def _raw_mode(image: Image.Image) -> str:
    found = image.tile[0][3] if image.tile else ""
    return found if isinstance(found, str) else ""


def _of_tags(mode: str, tags: Any) -> Kind:
    """Return the kind of a TIFF. Pillow keeps 8 bits of 16-bit colours and silently drops extra bands."""
    samples, extra = tags.get(SAMPLES, 1), tags.get(EXTRA_SAMPLES, ())
    bits, number = tags.get(BITS_PER_SAMPLE, (1,))[0], NUMBERS.get(tags.get(SAMPLE_FORMAT, (1,))[0], "uint")
    dtype = f"{number}{bits}" if bits > 8 or (bits, number) == (8, "int") or number == "float" else "uint8"
    inverted = tags.get(PHOTOMETRIC) == WHITE_IS_ZERO
    if samples == 1:
        name, bands = (mode, 3) if mode == "P" else ("1" if mode == "1" else "L", 1)
        decoder = "tifffile" if dtype == "int8" else "pillow"  # Pillow reads int8 as unsigned
        return Kind(name, bands, dtype=dtype, decoder=decoder, inverted=inverted)
    alpha = extra[-1] in ALPHA if extra else mode == "RGBA"
    held = HELD.get(mode, 0) == samples
    return Kind(mode if held else "bands", samples, alpha, dtype, "pillow" if held and dtype == "uint8" else "tifffile")


def kind_of_raw(path: ImageFile) -> Kind | None:
    """Return the kind of a file that Pillow does not know: .npy, DICOM, or a TIFF of many bands; else None.

    Raises:
      BadImage: if the file cannot be read, or its library is not installed.
    """
    if is_npy(path):
        array = open_npy(path)
        bands = array.shape[2] if array.ndim == 3 else 1
        name = {1: "L", 3: "RGB"}.get(bands, "bands")
        return Kind(name, bands, dtype=str(array.dtype), decoder="numpy", size=array.shape[1::-1])
    if is_dicom(path):
        return Kind(decoder="pydicom", **dicom.header(path))
    with bytes_of(path) as file:
        if file.read(4) not in TIFF_MAGIC:
            return None
    with bytes_of(path) as file, tifffile().TiffFile(file) as tif:
        page = tif.pages[0]
        extra, turn, nodata = tuple(page.extrasamples), page.tags.get(ORIENTATION), page.tags.get(NODATA)
        return Kind(
            {1: "L", 3: "RGB"}.get(page.samplesperpixel, "bands"),
            page.samplesperpixel,
            alpha=bool(extra) and int(extra[-1]) in ALPHA,
            dtype=str(page.dtype),
            decoder="tifffile",
            size=(page.imagewidth, page.imagelength),
            orientation=int(turn.value) if turn else 1,
            pages=len(tif.pages),
            inverted=page.samplesperpixel == 1 and int(page.photometric) == WHITE_IS_ZERO,
            nodata=_number(nodata.value if nodata else None),
        )


def _number(text: object) -> float | None:
    try:
        return float(str(text).strip("\0 "))
    except ValueError:
        return None


def is_npy(path: ImageFile) -> bool:
    """Return whether the file name has the suffix of a NumPy array."""
    return os.path.splitext(str(path))[1].lower() == ".npy"


def open_npy(path: ImageFile) -> np.ndarray:
    """Open an array (H, W) or (H, W, C), memory-mapped. Raise BadImage for another shape or a pickle."""
    try:
        if isinstance(path, str):
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        else:
            with path.open() as file:
                _check_length(file, path.size)
                array = np.load(file, allow_pickle=False)
    except (ValueError, EOFError) as err:
        raise BadImage(f"not an array that can be read: {err}") from None
    if array.ndim not in (2, 3) or 0 in array.shape:
        raise BadImage(f"its array has the shape {array.shape}; (H, W) or (H, W, C) is needed")
    return array


def _check_length(file: BinaryIO, size: int) -> None:
    """Raise ValueError if the header of an array says more than its file holds; the position stays.

    np.load takes the memory of the whole array before it reads the first value.
    """
    version = np.lib.format.read_magic(file)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
    if read is None:
        raise ValueError(f"its version is {version[0]}.{version[1]}, not 1.0 or 2.0")
    shape, _, dtype = read(file)
    needed = math.prod(shape) * dtype.itemsize
    if needed > size:
        raise ValueError(f"its header says {needed} bytes, and the file has {size}")
    file.seek(0)


def tifffile() -> Any:
    """Import and return tifffile. Raise BadImage with the install command if it is missing."""
    try:
        import tifffile
    except ImportError:
        raise BadImage(f"a TIFF that Pillow does not read whole needs tifffile: {INSTALL}") from None
    return tifffile


def stored_values(path: ImageFile, kind: Kind) -> np.ndarray:
    """Return the values of a file as stored, (H, W) or (H, W, C), with any decoder. Raise BadImage if this fails."""
    if kind.decoder != "pillow":
        return values_of(path, kind, 1)
    with open_file(path) as image:
        return as_stored(np.asarray(image), kind)


def as_stored(values: np.ndarray, kind: Kind) -> np.ndarray:
    """Convert values to the stored type: Pillow holds uint32 as signed, and int16 as 32 bits."""
    if kind.dtype == "uint32":
        return values.view(np.uint32)
    return measured(values.astype(np.int16) if kind.dtype == "int16" else values, kind)


def measured(values: np.ndarray, kind: Kind) -> np.ndarray:
    """Return float values with NaN in place of the file's `nodata`."""
    if kind.nodata is None or values.dtype.kind != "f":
        return values
    with np.errstate(over="ignore"):  # the tag may hold float64's lowest value for float16 pixels
        missing = values == values.dtype.type(kind.nodata)
    return np.where(missing, values.dtype.type(np.nan), values)


def values_of(path: ImageFile, kind: Kind, channels: int) -> np.ndarray:
    """Return the stored values (H, W, C) of a file whose decoder is not Pillow.

    Args:
      channels: number of channels of the model; a TIFF with this many grey pages gives one band per page.

    Raises:
      BadImage: if a library is missing.
    """
    if kind.decoder == "numpy":
        values = np.array(open_npy(path))
    elif kind.decoder == "imagecodecs":
        values = _png(path)
    elif kind.decoder == "pydicom":
        values = measured(dicom.values(path), kind)
    else:
        values = measured(_tiff(path, kind, channels), kind)
    return values[..., None] if values.ndim == 2 else values


def _png(path: ImageFile) -> np.ndarray:
    try:
        import imagecodecs
    except ImportError:
        raise BadImage(
            f"16-bit colours, reduced to 8 bits by Pillow: {INSTALL}, or data.sixteen_bit=full if 8 bits are enough"
        ) from None
    with bytes_of(path) as file:
        return imagecodecs.png_decode(file.read())


def _tiff(path: ImageFile, kind: Kind, channels: int) -> np.ndarray:
    with bytes_of(path) as file, tifffile().TiffFile(file) as tif:
        if kind.bands == 1 and len(tif.pages) == channels > 1:
            return np.stack([_decoded(page) for page in tif.pages], axis=-1)
        page = tif.pages[0]
        values = _decoded(page)
        return np.moveaxis(values, 0, -1) if page.planarconfig == 2 and page.samplesperpixel > 1 else values


def _decoded(page: Any) -> np.ndarray:
    if why := unsound({tag.code: tag.value for tag in page.tags}, page.parent.filehandle.size):
        raise BadImage(f"damaged: {why}")
    try:
        return page.asarray()
    except ValueError as err:  # tifffile names the missing package
        raise BadImage(f"{err}: {INSTALL}" if "imagecodecs" in str(err) else str(err)) from None
