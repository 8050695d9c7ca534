"""The weights that made a file: what the file keeps of them, and how they are opened again to go on with it."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from convert import flags
from jaxdino.core.errors import UserError
from jaxdino.evaluate import OF_HEAD, opened


def kept(args: argparse.Namespace, model: Any) -> dict[str, Any]:
    """Return what a file keeps of the weights of `args.weights`: name, digest, the flags they were opened with, and
    the windows in which they see images."""
    from jaxdino.api import tiled

    place = Path(args.weights)
    opened_by = {"weights": str(place.absolute()) if place.exists() else args.weights, "dtype": args.dtype}
    own = {"name": model.name, "digest": model.digest, "opened_by": opened_by | flags.given(args, OF_HEAD)}
    windows = tiled.given(args)
    return own | ({"windows": windows} if windows else {})


def reopened(made: Any, file: str | Path, src: str | None, again: str) -> Any:
    """Open the weights that made a file, in windows if they saw images so.

    Args:
      made: what `kept` returned, from the file. src: where the weights are now; None: where they were.
      again: how the file is made anew, for messages.

    Raises:
      UserError: if the file does not say it, the weights are gone, or they are others.
    """
    from jaxdino.api import tiled

    try:
        how = {name: tuple(one) if isinstance(one, list) else one for name, one in made["opened_by"].items()}
        there, place = str(made["digest"]), src or str(how["weights"])
    except (KeyError, TypeError, AttributeError):
        raise UserError(f"{file} does not say which weights made it; {again}") from None
    if Path(place).is_absolute() and not Path(place).exists():
        raise UserError(f"the weights are not at {place} any more: --weights SRC says where they are")
    model = opened(argparse.Namespace(**_complete(how, place)))
    if model.digest != there:
        raise UserError(
            f"{file} was made by other weights than {place}: SHA-256 {there[:12]} there, {model.digest[:12]} here. "
            f"Give the weights of then with --weights, or make it anew: {again}"
        )
    return tiled.tiled(model, made.get("windows", {}))


def _complete(how: Mapping[str, Any], place: str) -> dict[str, Any]:
    """Return every flag that `opened` reads; None for those that an older file lacks."""
    names = [name for name in flags.OVERRULES if name not in OF_HEAD]
    return {"dtype": "float32", **dict.fromkeys(names), **how, "weights": place}
