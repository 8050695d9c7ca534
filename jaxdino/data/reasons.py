"""Explain why a file cannot be read as an image, and how to fix it."""

import os

from PIL import Image

from jaxdino.data.image_file import DICOM_SUFFIXES, NotOpened, bytes_of
from jaxdino.data.stored import ImageFile

_VOLUME = ("a volume", "nibabel or SimpleITK")
_SLIDE = ("a slide or microscope file", "openslide, tifffile or aicsimageio")
_RAW = ("a camera's raw file", "rawpy")
_TABLE = ("a file of many arrays", "h5py, scipy or numpy")
FOREIGN = {
    **dict.fromkeys(DICOM_SUFFIXES, ("no DICOM file, or one without its signature", "pydicom")),
    **dict.fromkeys((".nii", ".nii.gz", ".mha", ".mhd", ".nrrd", ".mgz"), _VOLUME),
    **dict.fromkeys((".svs", ".ndpi", ".mrxs", ".scn", ".czi", ".lif", ".nd2", ".vsi"), _SLIDE),
    **dict.fromkeys((".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".raf"), _RAW),
    **dict.fromkeys((".h5", ".hdf5", ".mat", ".npz", ".nc"), _TABLE),
    **dict.fromkeys((".exr", ".hdr"), ("an image of high dynamic range", "OpenCV or imageio")),
    ".jxl": ("a JPEG XL image", "imagecodecs"),
    **dict.fromkeys((".eps", ".ps"), ("a PostScript drawing", "Ghostscript")),
    ".svg": ("a vector drawing", "cairosvg"),
    ".pdf": ("a document", "pdf2image"),
}
"""{suffix of image files that are not supported: (what they are, libraries that read them)}."""
POSTSCRIPT = (b"%!PS", b"\xc5\xd0\xd3\xc6")  # EPS; the second begins a file with a preview


def suffix_of(name: str) -> str:
    """Return the suffix of a file name in lower case; ".nii.gz" counts as one suffix."""
    name = name.lower()
    return ".nii.gz" if name.endswith(".nii.gz") else os.path.splitext(name)[1]


def foreign(suffix: str) -> str:
    """Return what files with this suffix are and how to convert them; "" for other suffixes."""
    if suffix not in FOREIGN:
        return ""
    what, libraries = FOREIGN[suffix]
    return f"{what}, which is not read: save its pixels as PNG, TIFF or .npy ({libraries} can open it)"


def lift_limit(max_pixels: int) -> None:
    """Raise Pillow's own size limit to `max_pixels` if it is lower."""
    if Image.MAX_IMAGE_PIXELS is not None and max_pixels > Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = max_pixels


def too_large(size: str, max_pixels: int, in_parts: bool = False) -> str:
    """Return why an image of that size is refused, and how to fix it.

    Args:
      in_parts: whether larger images are read in parts, if their format allows it.
    """
    more = f"too large: {size} has more than max_pixels = {max_pixels} pixels"
    if in_parts:
        return (
            f"{more}, and only .npy, and TIFF with pip install 'jaxdino[bands]', are read in parts: raise max_pixels, "
            "or convert it: gdal_translate -co TILED=YES IN OUT.tif"
        )
    return f"{more}: cut it into tiles or make it smaller; raise the limit of a run with --config.data.max_pixels"


def reason(path: ImageFile, err: Exception) -> str:
    """Return why the file at `path` cannot be read, given the error of its decoder."""
    if isinstance(err, FileNotFoundError):
        return "there is no such file"
    if isinstance(err, NotOpened):
        return str(err)
    if isinstance(err, Image.UnidentifiedImageError):
        return unknown(path)
    if isinstance(err, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return too_large("it", Image.MAX_IMAGE_PIXELS or 0)
    return f"{type(err).__name__}: {err}" if str(err) else type(err).__name__


def unknown(path: ImageFile) -> str:
    """Return what a file that Pillow does not know is, by its first bytes and its suffix."""
    with bytes_of(path) as file:
        head = file.read(256)
    text = head.lstrip().lower()
    if not head:
        return "the file is empty"
    if text.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer instead of the image: git lfs pull fetches it"
    if text.startswith((b"<!doctype html", b"<html")):
        return "a web page instead of an image: download it again"
    if head.startswith(POSTSCRIPT):
        return foreign(".eps")
    return foreign(suffix_of(str(path))) or "not an image Pillow knows"
