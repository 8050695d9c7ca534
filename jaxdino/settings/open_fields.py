"""Fields of a config that are open: None, with the type that a value has."""

import os
from dataclasses import asdict, fields
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from ml_collections import ConfigDict
from ml_collections.config_dict import FieldReference, placeholder

from jaxdino.data.roots import as_text


class Folders(FieldReference):
    """An open field for one folder or several: a list of them becomes the text that a flag would have."""

    def __init__(self):
        super().__init__(None, field_type=str)

    def set(self, value: Any, type_safe: bool = True) -> None:
        """Set the field. Raise UserError for a list with a comma in a name, TypeError for a value of another type."""
        super().set(as_text(value) if isinstance(value, list | tuple | os.PathLike) else value, type_safe)


def defaults(cls: type, **given: Any) -> dict[str, Any]:
    """Return every field of a dataclass with its default; None becomes a typed placeholder."""
    hints = get_type_hints(cls)
    values = asdict(cls(**given))
    return {name: placeholder(_plain(hints[name])) if v is None else v for name, v in values.items()}


def open_fields(cls: type, given: dict[str, Any]) -> ConfigDict:
    """Return a config with every field of `cls`: the given ones, and typed placeholders for the others."""
    hints = get_type_hints(cls)
    places = {f.name: placeholder(_plain(hints[f.name])) for f in fields(cls) if f.name not in given}
    return ConfigDict(places | given)


def _plain(hint: Any) -> type:
    """Return the type of this field's values: int for `int | None`, tuple for `tuple[str, ...]`."""
    if hint is Any:
        return object
    if isinstance(hint, UnionType):
        hint = next(arg for arg in get_args(hint) if arg is not type(None))
    return get_origin(hint) or hint
