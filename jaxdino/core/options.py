"""Read settings strictly from a config or another mapping into a frozen dataclass: names, types, ranges."""

import dataclasses
import numbers
from collections.abc import Mapping, Sequence
from types import NoneType, UnionType
from typing import Any, TypeVar, cast, get_args, get_origin, get_type_hints

from jaxdino.core.errors import UserError
from jaxdino.core.rules import did_you_mean

T = TypeVar("T")
WORDS = {int: "a whole number", float: "a number", bool: "True or False", str: "a text"}
"""The scalar types of settings, and their names in errors."""
CHANNELS = "[1, 4096]"
"""Channels of images; hyperspectral cameras have a few hundred."""


def read(cls: type[T], given: Mapping[str, Any] | T | None, where: str, base: T | None = None) -> T:
    """Build a dataclass from the given settings; an instance of it is returned unchanged.

    Args:
      given: a dict or ConfigDict of fields; None, and a field that is None, leaves the default.
      where: name of the settings, at the start of errors: "data", "a view".
      base: an instance whose values replace the class's defaults.

    Raises:
      UserError: for an unknown field, with the nearest names; a value of another type; a value that the class refuses.
    """
    if isinstance(given, cls):
        return given
    found = values(cls, cast("Mapping[str, Any]", given or {}), where)
    return cls(**found) if base is None else dataclasses.replace(cast("Any", base), **found)


def values(cls: type, given: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return {field: value} of the given settings that are not None, in their fields' types. Raises as `read`."""
    check_names(cls, given, where)
    hints = get_type_hints(cls)
    return {name: _as(hints[name], value, where, name) for name, value in given.items() if value is not None}


def check_names(cls: type, given: Mapping[str, Any], where: str) -> None:
    """Raise UserError for a name that is not a field of a dataclass."""
    known = [field.name for field in dataclasses.fields(cls)]
    for name in given:
        if name not in known:
            raise UserError(f"{where} has no field {name!r}; {did_you_mean(name, known)}")


def check_range(what: str, value: Any, interval: str) -> None:
    """Raise UserError unless a number, or each of several, lies in an interval like "[0, 1)"; nan never does."""
    low, high = (float(end) for end in interval[1:-1].split(","))
    for number in value if isinstance(value, tuple | list) else (value,):
        above = number > low or (interval[0] == "[" and number == low)
        below = number < high or (interval[-1] == "]" and number == high)
        if not (above and below):
            bounds = f"at least {low:g}" if interval.endswith(" inf)") and interval[0] == "[" else f"in {interval}"
            bounds += ", and finite" if number == float("inf") else ""
            shown = f"{number if what.startswith('--') else value}"[:40]  # flags take numbers without brackets
            raise UserError(f"{what}={shown} is no number" if number != number else f"{what}={shown} must be {bounds}")


def check_choice(what: str, value: Any, choices: Sequence[str]) -> None:
    """Raise UserError unless a text is one of the choices."""
    if value not in choices:
        raise UserError(f"{what}={value!r} is not known; {did_you_mean(str(value), choices)}")


def _as(hint: Any, value: Any, where: str, name: str) -> Any:
    """Convert a value to the type of its field: a tuple for a list, 1 for 1.0, 1.0 for 1. Raise UserError if not."""
    try:
        return _converted(hint, value)
    except TypeError:
        raise UserError(f"{where} has {name}={value!r}: it must be {_words(hint)}") from None


def _converted(hint: Any, value: Any) -> Any:
    """Convert a value, or raise TypeError for another type. Types that are not scalars or tuples are not checked."""
    hint = _without_none(hint)
    if get_origin(hint) is tuple:
        return _tuple(get_args(hint), value)
    if hint not in WORDS:
        return value
    right = isinstance(value, numbers.Real if hint in (int, float) else hint)
    if not right or (isinstance(value, bool) and hint is not bool):
        raise TypeError
    if hint is int and not float(value).is_integer():
        raise TypeError
    return hint(value)


def _tuple(kinds: tuple[Any, ...], value: Any) -> tuple[Any, ...]:
    """Return a tuple of declared types; a single value counts as a tuple of any length."""
    endless = kinds[-1] is Ellipsis
    if isinstance(value, str) or not isinstance(value, Sequence):
        if not endless:
            raise TypeError
        value = (value,)
    if endless:
        return tuple(_converted(kinds[0], one) for one in value)
    if len(value) != len(kinds):
        raise TypeError
    return tuple(_converted(kind, one) for kind, one in zip(kinds, value, strict=True))


def _without_none(hint: Any) -> Any:
    """Return the type of a field's values: int for `int | None`."""
    if isinstance(hint, UnionType):
        kinds = [kind for kind in get_args(hint) if kind is not NoneType]
        return kinds[0] if len(kinds) == 1 else Any
    return hint


def _words(hint: Any) -> str:
    hint = _without_none(hint)
    if get_origin(hint) is not tuple:
        return WORDS[hint]
    kinds = get_args(hint)
    count = "one or more" if kinds[-1] is Ellipsis else str(len(kinds))
    return f"{count} values in brackets, each {WORDS.get(kinds[0], 'of its kind')}"
