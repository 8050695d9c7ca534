"""The arrays of a cache as .npy files: float32, bfloat16 as its bits, or int8 with a scale for each row."""

import os
from collections.abc import Mapping
from pathlib import Path

import ml_dtypes
import numpy as np

from jaxdino.core.errors import UserError

STORES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(np.uint16), "int8": np.dtype(np.int8)}
"""How values are stored -> the dtype of the .npy file. numpy alone has no bfloat16: its 16 bits are kept as uint16."""
SCALE = ".scale"


def encoded(values: np.ndarray, store: str) -> dict[str, np.ndarray]:
    """Return {ending of the file's name: array} for float values (..., D).

    int8 is round(value / scale), scale = max |value| / 127 of each row (the last axis), float32, in a second array.
    """
    values = np.ascontiguousarray(values, np.float32)
    if store == "float32":
        return {"": values}
    if store == "bfloat16":
        return {"": values.astype(ml_dtypes.bfloat16).view(np.uint16)}
    scale = np.abs(values).max(axis=-1, initial=0.0) / np.float32(127)
    safe = np.where(scale > 0, scale, np.float32(1))[..., None]
    return {"": np.rint(values / safe).astype(np.int8), SCALE: scale.astype(np.float32)}


def decoded(arrays: Mapping[str, np.ndarray], store: str) -> np.ndarray:
    """Return float32 values; the inverse of `encoded` up to rounding."""
    if store == "float32":
        return np.asarray(arrays[""], np.float32)
    if store == "bfloat16":
        return (np.asarray(arrays[""]).astype(np.uint32) << 16).view(np.float32)
    return arrays[""].astype(np.float32) * np.asarray(arrays[SCALE])[..., None]


def bytes_per_image(shape: tuple[int, ...], store: str) -> int:
    """Return the bytes of one image's feature of that shape (..., D)."""
    count = int(np.prod(shape, dtype=np.int64))
    return count * STORES[store].itemsize + (4 * (count // shape[-1]) if store == "int8" else 0)


def write_array(file: Path, array: np.ndarray) -> int:
    """Write a .npy file to the disk itself, not only to the system's buffers; return its size in bytes."""
    with file.open("wb") as stream:
        np.lib.format.write_array(stream, array, allow_pickle=False)
        stream.flush()
        os.fsync(stream.fileno())
        return stream.tell()


def map_array(file: Path, size: int) -> np.ndarray:
    """Map a .npy file into memory.

    Args:
      size: its bytes when it was written.

    Raises:
      UserError: if it is missing, truncated or not an array.
    """
    try:
        if (found := file.stat().st_size) != size:
            what = "is truncated" if found < size else "was changed"
            raise UserError(f"{file} {what}: it has {found:,} bytes and was written with {size:,}. {AGAIN}")
        return np.load(file, mmap_mode="r", allow_pickle=False)
    except OSError as err:
        raise UserError(f"{file} cannot be read: {err.strerror or err}. {AGAIN}") from None
    except ValueError as err:
        raise UserError(f"{file} is not a .npy file ({err}). {AGAIN}") from None


AGAIN = "Run the same jaxdino extract again: it makes damaged shards anew and keeps the others"
