"""The config of the run in a folder: config.json, checked before anything relies on its form."""

import errno
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from jaxdino.core.errors import UserError
from jaxdino.core.json_file import JsonError, finite, parse_json, read_json

CONFIG = "config.json"
SECTIONS = ("model", "data", "objective", "prompts", "optimizer", "checkpoint", "mesh", "early_stopping")
TEXTS = (("objective", "name"), ("early_stopping", "monitor"))


def plain(config: Any) -> dict[str, Any]:
    """Convert a config to plain nested dicts and lists, as in JSON."""
    config = config.to_dict() if hasattr(config, "to_dict") else config

    def one(value: Any) -> Any:
        if isinstance(value, Mapping) or hasattr(value, "to_dict"):
            return {str(key): one(item) for key, item in value.items()}
        return [one(item) for item in value] if isinstance(value, list | tuple) else value

    return parse_json(json.dumps(finite(one(config)), default=str), "the config")


def recorded(folder: str | Path | None) -> dict[str, Any]:
    """Return the config of the run in a folder, or {} if there is none."""
    file = named(folder, "--workdir") / CONFIG if folder else None
    return read_config(file) if file and file.exists() else {}


def named(folder: str | Path, flag: str) -> Path:
    """Return a folder as a path. Raises UserError for a name that the file system cannot have."""
    try:
        os.lstat(folder)
    except (OSError, ValueError) as err:  # ValueError: a NUL in it
        if isinstance(err, ValueError) or err.errno == errno.ENAMETOOLONG:
            shown = repr(str(folder))[1:-1]
            shown = shown if len(shown) <= 80 else f"{shown[:77]}..."
            why = getattr(err, "strerror", None) or err
            raise UserError(f"{flag}={shown} is not a valid name of a folder: {why}") from None
    return Path(folder)


def read_config(file: Path) -> dict[str, Any]:
    """Read config.json. Raises UserError unless it has the form that a run writes."""
    try:
        found = read_json(file, dict)
    except JsonError as err:
        raise UserError(f"{file} cannot be read ({err.reason}): restore it, or give a new --workdir") from None
    wrong = [part for part in SECTIONS if not _is_section(found.get(part))]
    views = {} if "data" in wrong else found.get("data") or {}
    listed = {"stages": found.get("stages"), "data.views": views.get("views")}
    wrong += [name for name, rows in listed.items() if rows is not None and not are_objects(rows)]
    if not wrong and not all(isinstance(stage.get("name"), str) for stage in listed["stages"] or ()):
        wrong.append("stages")
    texts = {f"{part}.{name}": (found.get(part) or {}).get(name) for part, name in TEXTS if part not in wrong}
    wrong += [name for name, text in texts.items() if not isinstance(text, str | None)]
    if wrong:
        raise UserError(
            f"{file} was not written by a run ({wrong[0]} is of another form): restore it, or give a new --workdir"
        )
    return found


def as_config(found: Any) -> Any:
    """Return the settings of config.json as a config: lists as tuples, objects as ConfigDict."""
    if isinstance(found, dict):
        return ConfigDict({key: as_config(one) for key, one in found.items()})
    return tuple(as_config(one) for one in found) if isinstance(found, list) else found


def _is_section(value: Any) -> bool:
    return value is None or isinstance(value, dict)


def are_objects(rows: Any) -> bool:
    return isinstance(rows, list) and all(isinstance(row, dict) for row in rows)
