"""The seal of a saved model: `seal.json`, digests of what `model.json` says and of the files beside the weights.

The weights have a digest of their own in `model.json` (`jaxdino.core.params.Digest`), which the seal covers. So a
changed, swapped or missing entry anywhere is noticed: swapped class names would change every prediction silently. The
seal is against accidents, not against somebody who writes a new one.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxdino.core.errors import UserError
from jaxdino.core.json_file import JsonError, read_json, write_json
from jaxdino.core.words import few

SEAL, CARD, FILES = "seal.json", "model.json", "files"


def write_seal(folder: Path, card: Mapping[str, Any]) -> None:
    """Write the seal of a folder.

    Args:
      card: the contents of its `model.json`.
    """
    write_json(folder / SEAL, {CARD: entries(card), FILES: _files(folder)})


def is_sealed(folder: Path) -> bool:
    """Return whether the folder has a seal; models saved by earlier versions have none."""
    return os.path.lexists(folder / SEAL)


def check_seal(folder: Path, card: Mapping[str, Any]) -> None:
    """Check the contents of `model.json`, and the files beside the weights, against the seal, if there is one.

    Raises:
      UserError: naming each entry and file that was changed, added or removed.
    """
    file = folder / SEAL
    if not is_sealed(folder):
        return
    try:
        sealed = read_json(file, dict)
    except JsonError as err:
        raise UserError(f"{file} is damaged ({err.reason}): restore it. {_way_out(file)}") from None
    if sealed.keys() != {CARD, FILES} or not all(isinstance(part, dict) for part in sealed.values()):
        raise UserError(f"{file} is damaged (not in the form of a seal): restore it. {_way_out(file)}")
    faults = [f"{name} of {CARD} {how}" for name, how in _differences(sealed[CARD], entries(card))]
    faults += [f"the file {name} {how}" for name, how in _differences(sealed[FILES], _files(folder))]
    if faults:
        raise UserError(
            f"{folder} was changed after it was saved: {few(faults, 5)}. Restore the files. {_way_out(file)}"
        )


def _way_out(file: Path) -> str:
    return f"If the change is yours, delete {file}: the model is then loaded without this check"


def _differences(sealed: Mapping[str, Any], found: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return (name, how it differs) of what is not as sealed."""
    gone = [(name, "is missing") for name in sealed if name not in found]
    changed = [(name, "has changed") for name in found if name in sealed and sealed[name] != found[name]]
    return gone + changed + [(name, "was added") for name in found if name not in sealed]


def entries(card: Mapping[str, Any], path: str = "") -> dict[str, str]:
    """Return {"spec.config.depth": digest of the value} of all values in nested objects; lists are one value."""
    found: dict[str, str] = {}
    for name, value in card.items():
        place = f"{path}.{name}" if path else name
        if isinstance(value, Mapping) and value:
            found |= entries(value, place)
        else:
            found[place] = hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:32]
    return found


def _files(folder: Path) -> dict[str, str]:
    """Return {path: SHA-256} of the companion files."""
    found = {}
    for file in sorted((folder / "companions").glob("*")):
        if file.is_file():
            with file.open("rb") as stream:
                found[f"companions/{file.name}"] = hashlib.file_digest(stream, "sha256").hexdigest()
    return found
