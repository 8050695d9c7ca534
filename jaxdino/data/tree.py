"""Scan the files below a folder once: images, other files by suffix, folders."""

import dataclasses
import os
from collections import Counter
from collections.abc import Iterator

from tqdm import tqdm

from jaxdino.core.bars import bar
from jaxdino.core.errors import UserError
from jaxdino.data.image_file import DICOM_SUFFIXES
from jaxdino.data.reasons import suffix_of

COMMON_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")
RARE_SUFFIXES = (
    ".jpe",
    ".jfif",
    ".jp2",
    ".j2k",
    ".jpf",
    ".jpx",
    ".apng",
    ".avif",
    ".heic",
    ".heif",
    ".hif",
    ".dib",
    ".ppm",
    ".pgm",
    ".pbm",
    ".pnm",
    ".npy",
    *DICOM_SUFFIXES,
)
IMAGE_SUFFIXES = frozenset(COMMON_SUFFIXES + RARE_SUFFIXES)
SYSTEM = frozenset(("__macosx", "@eadir", "$recycle.bin", "lost+found", "thumbs.db", "ehthumbs.db", "desktop.ini"))
"""Files and folders made by operating systems, in lower case: hidden, as are names that begin with a dot."""


@dataclasses.dataclass(slots=True, eq=False)
class Folder:
    """One folder with its sub-folders.

    Attributes:
      images: paths of images directly in it, unsorted.
      folders: sub-folders by name, sorted.
      others: number of other files directly in it, by suffix.
      hidden: number of hidden files and folders directly in it, and of links back to a parent folder.
      total: number of images in it and below.
    """

    name: str
    path: str
    images: list[str] = dataclasses.field(default_factory=list)
    folders: dict[str, "Folder"] = dataclasses.field(default_factory=dict)
    others: Counter[str] = dataclasses.field(default_factory=Counter)
    hidden: int = 0
    total: int = 0

    def walk(self) -> Iterator["Folder"]:
        """Iterate over this folder and all folders below it."""
        yield self
        for folder in self.folders.values():
            yield from folder.walk()

    def all_images(self) -> list[str]:
        """Return the images in it and below, sorted by path."""
        return sorted(path for folder in self.walk() for path in folder.images)

    def kinds(self) -> Counter[str]:
        """Return the number of files that are not images, in it and below, by suffix."""
        return sum((folder.others for folder in self.walk()), Counter())

    @property
    def shown(self) -> dict[str, "Folder"]:
        """Return the sub-folders that may be splits or classes; names such as __pycache__ are left out."""
        return {name: folder for name, folder in self.folders.items() if not name.startswith("__")}

    @property
    def full(self) -> dict[str, "Folder"]:
        """Return the sub-folders in `shown` that hold images."""
        return {name: folder for name, folder in self.shown.items() if folder.total}


def scan(path: str) -> Folder:
    """Scan a folder and all folders below it; links to folders are followed.

    Raises:
      UserError: if a folder cannot be listed.
    """
    with bar(None, f"listing {path}") as watched:
        return _scan(path, (), watched)


def _scan(path: str, above: tuple[str, ...], watched: tqdm) -> Folder:
    found = Folder(os.path.basename(path), path)
    inner = []
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                name = entry.name
                if name[0] == "." or name.casefold() in SYSTEM:
                    found.hidden += 1
                elif entry.is_dir():
                    inner.append(entry)
                elif (suffix := suffix_of(name)) in IMAGE_SUFFIXES:
                    found.images.append(entry.path)
                else:
                    found.others[suffix] += 1
    except OSError as error:
        raise UserError(f"cannot list {error.filename}: {error.strerror}") from error
    found.total = len(found.images)
    watched.update(found.total)
    for entry in sorted(inner, key=lambda entry: entry.name):
        if entry.is_symlink() and any(os.path.samefile(entry.path, folder) for folder in (*above, path)):
            found.hidden += 1
            continue
        folder = _scan(entry.path, (*above, path), watched)
        found.folders[entry.name] = folder
        found.total += folder.total
    return found
