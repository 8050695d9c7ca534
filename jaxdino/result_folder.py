"""The folder that a command writes results into: new or empty, and a file of its own for each image."""

from collections.abc import Callable, Sequence
from pathlib import Path

from jaxdino import parts
from jaxdino.core.errors import UserError
from jaxdino.core.writable import check_writable
from jaxdino.data.inputs import Input


def check_empty(out: str) -> Path:
    """Return the folder --out. Raise UserError unless it is empty, or does not exist and can be created."""
    folder = Path(out)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"--out {out} is not an empty folder: give another one")
    check_writable(f"--out {out}", folder)
    return folder


def check_shared(out: str) -> Path:
    """Return the folder --out of --shard. Raise UserError unless it is empty, or other parts are at work there."""
    folder = Path(out)
    return folder if folder.is_dir() and parts.begun(out) else check_empty(out)


def check_names(images: Sequence[Input], name_of: Callable[[Input], str | Path]) -> None:
    """Raise UserError if two images have the same name in the results."""
    seen: dict[str, str] = {}
    for image in images:
        name = str(name_of(image))
        if (other := seen.setdefault(name, image.path)) != image.path:
            hint = "a pattern such as 'photos/**/*.jpg' selects one file type, a folder above both keeps them apart"
            raise UserError(f"{other} and {image.path} would both be {name} in --out: {hint}; or call this twice")
