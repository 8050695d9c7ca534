"""DICOM files: the pixel format from the header, and the values of the first frame, with pydicom (an extra).

Only the elements in `ELEMENTS` are read, and no message quotes one that is text: nothing about a patient gets out.
Source: DICOM PS3.3, C.7.6.3 (pixels), C.7.6.16 (enhanced multi-frame), C.11.1 (rescale), C.11.2 (window).
"""

import io
import logging
import math
import os
import warnings
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from jaxdino.data.bad_images import BadImage
from jaxdino.data.image_file import DICOM
from jaxdino.data.ranges import remark
from jaxdino.data.reasons import too_large
from jaxdino.data.stored import ImageFile

SHARED, FRAMES = "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"
RESCALE, WINDOW = "PixelValueTransformationSequence", "FrameVOILUTSequence"
ELEMENTS = (
    *("Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated", "PixelRepresentation"),
    *("NumberOfFrames", "PixelPaddingValue", "RescaleSlope", "RescaleIntercept", "ModalityLUTSequence"),
    *("WindowCenter", "WindowWidth", "VOILUTFunction", SHARED, FRAMES),
)
GREY, COLOUR = ("MONOCHROME1", "MONOCHROME2"), ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
BITS = {1: (8, 16, 32), 3: (8, 16)}  # samples per pixel -> bits allocated
DEFLATED = "1.2.840.10008.1.2.1.99"  # the whole file in one zlib stream, whose size is not known before
OPENJPEG = ("JPEG 2000", "High-Throughput")  # beginnings of the names of transfer syntaxes
INSTALL = "pip install 'jaxdino[dicom]'"
warnings.filterwarnings("ignore", module=r"pydicom\.")  # it quotes the values that it finds odd
logging.getLogger("pydicom").setLevel(logging.CRITICAL)


class _Bounded(io.BufferedReader):
    """A file that is never asked for more than it holds: `read` takes memory for what a damaged length says."""

    def __init__(self, path: str):
        super().__init__(io.FileIO(path))
        self.size = os.fstat(self.fileno()).st_size

    def read(self, size: int | None = -1, /) -> bytes:
        left = max(self.size - self.tell(), 0)
        return super().read(left if size is None or size < 0 else min(size, left))


def header(path: ImageFile) -> dict[str, Any]:
    """Return the fields of `kinds.Kind` of a DICOM file; no pixel is decoded.

    Raises:
      BadImage: if pydicom or the decoder of the file's compression is missing, the file is damaged, has no image, one
        of another kind, or more pixels than Pillow's limit.
    """
    return _header(path)[0]


def _header(path: ImageFile) -> tuple[dict[str, Any], tuple[float, float], str]:
    """Return the fields of `kinds.Kind`, slope and intercept of the values, and what installs another decoder."""
    try:
        data = _elements(path)
        return _fields(data), _rescale(data), _check_decoder(data)
    except BadImage:
        raise
    except Exception as err:  # pydicom raises many error types for damaged files, and quotes values
        raise BadImage(f"a damaged DICOM file: its header cannot be read ({type(err).__name__})") from None


def values(path: ImageFile) -> np.ndarray:
    """Return the rescaled values of the first frame, (H, W) or (H, W, 3). Remark that there are more frames.

    YCbCr is converted to RGB. Raises BadImage, as `header`, and for pixels that cannot be decoded.
    """
    fields, (slope, intercept), more = _header(path)
    try:
        from pydicom.pixels import pixel_array

        with _opened(path) as file:
            stored = pixel_array(file, index=0)
    except Exception as err:  # as above
        what = f"its pixels cannot be decoded ({type(err).__name__})"
        raise BadImage(f"a damaged or truncated DICOM file: {what}{f'; else {more}' if more else ''}") from None
    if stored.shape[:2] != fields["size"][::-1]:
        raise BadImage("a damaged DICOM file: its pixels have another size than its header says")
    if fields["pages"] > 1:
        remark(f"a DICOM file of {fields['pages']} frames, of which only the first is read")
    if (slope, intercept) == (1, 0) or fields["bands"] > 1:
        return stored.astype(fields["dtype"], copy=False)
    return (stored.astype(np.float64) * slope + intercept).astype(fields["dtype"])


def _opened(path: ImageFile) -> BinaryIO:
    return _Bounded(path) if isinstance(path, str) else path.open()


def _elements(path: ImageFile) -> Any:
    """Return a data set of `ELEMENTS`, with the file's meta information."""
    try:
        from pydicom import dcmread
        from pydicom.filereader import read_dataset
    except ImportError:
        raise BadImage(f"a DICOM file: {INSTALL}") from None
    with _opened(path) as file:
        file.seek(DICOM[0] + len(DICOM[1]))
        meta = read_dataset(file, False, True, stop_when=lambda tag, vr, length: tag.group != 2)
        if meta.get("TransferSyntaxUID") == DEFLATED:
            raise BadImage(
                "a DICOM file that is deflated as a whole, which is not read: dcmtk's dcmconv +te inflates it"
            )
        file.seek(0)
        return dcmread(file, stop_before_pixels=True, specific_tags=list(ELEMENTS))


def _fields(data: Any) -> dict[str, Any]:
    rows, columns, samples = (int(data.get(name) or 0) for name in ("Rows", "Columns", "SamplesPerPixel"))
    if rows < 1 or columns < 1:
        raise BadImage("a DICOM file without an image: a report, a plan, a directory, or cut off")
    if Image.MAX_IMAGE_PIXELS is not None and rows * columns > Image.MAX_IMAGE_PIXELS:
        raise BadImage(too_large(f"{columns} x {rows}", Image.MAX_IMAGE_PIXELS))
    bits, colours = int(data.BitsAllocated), {1: GREY, 3: COLOUR}.get(samples, ())
    if data.PhotometricInterpretation not in colours or bits not in BITS[samples] or "ModalityLUTSequence" in data:
        raise BadImage(
            "a DICOM file with pixels of a kind that is not read (a palette, a lookup table, single bits): save them "
            "as PNG, TIFF or .npy (pydicom can open it)"
        )
    dtype = f"{'' if data.get('PixelRepresentation') else 'u'}int{bits}"
    found = {"name": "L" if samples == 1 else "RGB", "bands": samples, "dtype": dtype, "size": (columns, rows)}
    found["pages"] = max(int(data.get("NumberOfFrames") or 1), 1)
    if samples == 3:
        return found
    slope, intercept = _rescale(data)
    if (slope, intercept) != (1, 0):
        found["dtype"] = "int32" if slope == 1 and intercept == int(intercept) and bits <= 16 else "float32"
    padding = data.get("PixelPaddingValue")
    nodata = None if padding is None else float(padding) * slope + intercept
    return found | {"inverted": data.PhotometricInterpretation == GREY[0], "nodata": nodata, "window": _window(data)}


def _check_decoder(data: Any) -> str:
    """Return the command that installs pylibjpeg's decoder; "" if it is there or not needed.

    Raises:
      BadImage: if the compression of the pixels is not known, or no decoder of it is installed.
    """
    from pydicom.pixels import get_decoder

    syntax = data.file_meta.TransferSyntaxUID
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        raise BadImage("a DICOM file with a compression that pydicom does not read, such as a video") from None
    command = f"pip install pylibjpeg pylibjpeg-{'openjpeg' if syntax.name.startswith(OPENJPEG) else 'libjpeg'}"
    if not decoder.is_available:
        raise BadImage(f"a DICOM file compressed as {syntax.name.partition(' (')[0]}: {command}")
    whole = not decoder.is_encapsulated or {"pydicom", "pylibjpeg"} & set(decoder.available_plugins)
    return "" if whole else command


def _group(data: Any, name: str) -> Any:
    """Return the data set with an image's elements of a functional group: the first frame's, all frames' or its own."""
    for sequence in (data.get(FRAMES), data.get(SHARED)):
        if sequence and (group := sequence[0].get(name)):
            return group[0]
    return data


def _rescale(data: Any) -> tuple[float, float]:
    """Return (slope, intercept) of the values; (1, 0) if there are none."""
    group = _group(data, RESCALE)
    slope, intercept = group.get("RescaleSlope"), group.get("RescaleIntercept")
    found = 1.0 if slope is None else float(slope), 0.0 if intercept is None else float(intercept)
    if found[0] == 0 or not all(map(math.isfinite, found)) or max(map(abs, found)) > 1e30:
        raise BadImage(f"a damaged DICOM file: its values have the slope {found[0]} and the intercept {found[1]}")
    return found


def _window(data: Any) -> tuple[float, float] | None:
    """Return the values of black and white of the first window; None if there is none that is linear."""
    group = _group(data, WINDOW)
    centre, width = (_first(group.get(name)) for name in ("WindowCenter", "WindowWidth"))
    how = group.get("VOILUTFunction") or "LINEAR"
    if centre is None or width is None or how not in ("LINEAR", "LINEAR_EXACT"):
        return None
    if how == "LINEAR":
        centre, width = centre - 0.5, width - 1
    low, high = centre - width / 2, centre + width / 2
    return (low, high) if low < high and math.isfinite(low) and math.isfinite(high) else None


def _first(value: Any) -> float | None:
    """Return the first of several numbers, or the only one."""
    if value is None or value == "":
        return None
    return float(value if isinstance(value, int | float | str) or not len(value) else value[0])
