"""Check the images that a caller passes: PIL images, files or arrays."""

import warnings
from collections.abc import Iterable, Mapping, Set
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from jaxdino.core.errors import UserError
from jaxdino.core.words import few
from jaxdino.data.stored import Stored

Record = str | Stored | np.ndarray | Image.Image
SHOWN = 3  # names listed in a message
FORMS = "PIL images, paths of files, or arrays (H, W) or (H, W, C)"
FORM = "a PIL image, the path of a file, or an array (H, W) or (H, W, C)"


def records(images: Any, call: str) -> list[Record]:
    """Return a list of images as records that `data.checks.open_image` reads.

    Args:
      images: a list or another sequence of `FORMS`, which may be mixed; one array (B, H, W, C) is B images.
      call: name of the called function, for messages.

    Raises:
      UserError: for a single image, a value that is not an image, or an empty list.
    """
    wanted = f"{call} takes a list of {FORMS}"
    check_no_tensor(images, call)
    if isinstance(images, Image.Image | str | Path) or getattr(images, "ndim", 1) in (2, 3):
        raise UserError(f"{wanted}, with at least one in it: {call}([image])")
    if getattr(images, "ndim", 1) == 0 or not isinstance(images, Iterable) or isinstance(images, Mapping | Set | bytes):
        raise UserError(f"{wanted}, not {_what(images)}")
    if isinstance(images, np.ndarray) and images.dtype != object and images.ndim != 4:
        raise UserError(f"{wanted}, or one array (B, H, W, C), not {_what(images)}")
    found = [_record(image, f"image {place}", wanted, call) for place, image in enumerate(images)]
    if not found:
        raise UserError(f"{wanted}, with at least one in it, and there is none")
    return found


def record(image: Any, call: str) -> Record:
    """Return one image as a record, as `records` does. Raise UserError for other values."""
    return _record(image, "the image", f"{call} takes {FORM}", call)


def _record(image: Any, name: str, wanted: str, call: str) -> Record:
    if isinstance(image, str | Path):
        if Path(image).is_dir():
            raise UserError(f"{name}, {image}, is a folder: give the files in it, sorted(Path(...).glob('*.jpg'))")
        return str(image)
    if isinstance(image, Image.Image):
        return image
    check_no_tensor(image, call)
    array = np.asarray(image) if hasattr(image, "__array__") else None
    if array is None or array.dtype.kind not in "uif" or array.ndim not in (2, 3) or not array.size:
        raise UserError(f"{wanted}; {name} is {_what(image)}")
    return array


def check_no_tensor(images: Any, call: str) -> None:
    """Raise UserError for a torch tensor, with the code that converts it to an array."""
    if not any(kind.__module__.partition(".")[0] == "torch" for kind in type(images).__mro__):
        return
    shape, first = tuple(images.shape), {4: "tensor.permute(0, 2, 3, 1)", 3: "tensor.permute(1, 2, 0)"}
    last = len(shape) >= 3 and shape[-1] in (1, 3, 4) and shape[-3] not in (1, 3, 4)
    name = "tensor" if last else first.get(len(shape), "tensor")
    fetched = ".detach()" * bool(images.requires_grad) + ".cpu()" * (images.device.type != "cpu")
    raise UserError(
        f"{call} got a torch tensor of shape {shape}: give np.asarray({name}{fetched}), channels last; uint8 is "
        "normalised for you, floats must be normalised already"
    )


def changed(said: Mapping[str, str]) -> str:
    """Return a line about images that were changed when read, {name: what was changed}; "" for none."""
    shown = few([f"{name} ({said[name]})" for name in sorted(said)], SHOWN)
    return f"{len(said)} image(s) are not read as they are: {shown}" if said else ""


def warn_of(said: Mapping[str, str]) -> None:
    """Warn once about images that were changed when read."""
    if line := changed(said):
        warnings.warn(line, stacklevel=3)


def named(record: Record, place: int) -> str:
    """Return the name of a record for messages."""
    return record if isinstance(record, str) else f"image {place}"


def _what(value: Any) -> str:
    if isinstance(value, np.ndarray) or hasattr(value, "__array__"):
        array = np.asarray(value)
        return f"an array of {array.dtype} and shape {array.shape}"
    return "None" if value is None else f"a {type(value).__name__}"
