"""Uploaded images as records that are decoded like files."""

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from jaxdino.data.image_file import open_file
from jaxdino.data.stored import Stored


def size_of(record: Stored) -> tuple[int, int]:
    """Return (width, height) of a file's header; what cannot be read is reported when it is decoded."""
    try:
        with open_file(record) as image:
            return image.size
    except Exception:  # `open_image` gives the reason
        return 1, 1


def blank_file(channels: int) -> Stored:
    """Return an image file with pixels of that many channels; .npy if it is none that PNG has."""
    file = io.BytesIO()
    if channels in (1, 3):
        Image.fromarray(np.zeros((64, 64, channels), np.uint8).squeeze()).save(file, "PNG")
        return records([("blank.png", file.getvalue())])[0]
    np.save(file, np.zeros((64, 64, channels), np.uint8))
    return records([("blank.npy", file.getvalue())])[0]


class InMemory:
    """Uploaded images, as `data.stored.Store` keeps them: their bytes are decoded, and never written anywhere."""

    def __init__(self, files: Sequence[tuple[str, bytes]]):
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def name(self, row: int) -> str:
        return self.files[row][0]

    def size(self, row: int) -> int:
        return len(self.files[row][1])

    def read(self, row: int) -> bytes:
        return self.files[row][1]


def records(files: Sequence[tuple[str, bytes]]) -> list[Stored]:
    """Return uploaded files, (name, bytes), as records that are decoded like files."""
    store = InMemory(files)
    return [Stored(store, row) for row in range(len(files))]
