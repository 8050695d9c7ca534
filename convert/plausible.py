"""Validate the JSON files beside the weights, which come from untrusted sources."""

import dataclasses
import math
import typing
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from jaxdino.core.errors import UserError
from jaxdino.core.resize import CROP_MODES, FILTERS, ROUNDINGS
from jaxdino.core.rules import did_you_mean
from jaxdino.models.spec import ModelSpec

FAULTS = (TypeError, ValueError, LookupError, AttributeError, ArithmeticError)
LARGEST = 1 << 24
"""Limit for any width, depth or length in a configuration."""


@contextmanager
def understood(what: str) -> Iterator[None]:
    """Turn exceptions caused by JSON of an unexpected form into a UserError that names `what` was read."""
    try:
        yield
    except UserError:
        raise
    except FAULTS as err:
        raise UserError(f"{what}: cannot be understood: {type(err).__name__}: {err}") from err


def check_spec(spec: ModelSpec, what: str) -> None:
    """Raise UserError if a field of the configuration or the preprocessing does not have its declared type."""
    for part in (spec.config, spec.preprocess):
        hints = typing.get_type_hints(type(part))
        for field in dataclasses.fields(part):
            value = getattr(part, field.name)
            if not _fits(value, hints[field.name]):
                raise UserError(f"{what}: {field.name} is {value!r}, which is not valid")
    how = spec.preprocess
    for name, value, known in (
        ("crop_mode", how.crop_mode, CROP_MODES),
        ("crop_rounding", how.crop_rounding, ROUNDINGS),
        ("interpolation", how.interpolation, FILTERS),
    ):
        if value not in known:
            raise UserError(f"{what}: {name} is {value!r}; {did_you_mean(value, known)}")
    if len(how.mean) != len(how.std) or len(how.mean) not in (spec.config.in_channels, 3):
        raise UserError(
            f"{what}: mean {how.mean} and deviation {how.std} do not have {spec.config.in_channels} channels"
        )
    if len(how.size) != 2 or min(how.size) < 1 or not how.crop_pct > 0 or 0 in how.std:
        raise UserError(
            f"{what}: images cannot be prepared with size {how.size}, crop {how.crop_pct}, deviation {how.std}"
        )


def check_counts(settings: Iterable[Any], stored: int, what: str) -> None:
    """Check the numbers of blocks and layers against the stored parameters, before a model of that depth is built.

    Args:
      settings: configurations of the backbone and the head, dataclasses.
      stored: number of stored parameters. A block or layer has at least one, so this limits every count.

    Raises:
      UserError: naming the number.
    """
    for name, value in (pair for part in settings for pair in _counts(part)):
        if value > stored:
            raise UserError(f"{what}: {name} is {value}, but only {stored} parameters are stored")


def _counts(part: Any) -> Iterator[tuple[str, int]]:
    """Yield (field, number) of the fields that count blocks or layers, also in nested configurations."""
    for field in dataclasses.fields(part):
        value = getattr(part, field.name)
        if dataclasses.is_dataclass(value):
            yield from ((f"{field.name}.{name}", number) for name, number in _counts(value))
        elif any(word in field.name for word in ("depth", "layers", "blocks")):
            numbers = value if isinstance(value, tuple) else (value,)
            yield from ((field.name, number) for number in numbers if type(number) is int)
            yield from [(f"the length of {field.name}", len(numbers))] * (len(numbers) > 1)


def _fits(value: Any, hint: Any) -> bool:
    """Return whether a value has its declared type; numbers must also be finite and below the limit."""
    inner = typing.get_args(hint)
    if inner and typing.get_origin(hint) is tuple:
        inner = inner[:1] if Ellipsis in inner else inner
        return isinstance(value, tuple) and all(any(_fits(item, kind) for kind in inner) for item in value)
    if inner:
        return any(_fits(value, kind) for kind in inner)
    if dataclasses.is_dataclass(hint):
        hints = typing.get_type_hints(hint)
        return isinstance(value, hint) and all(
            _fits(getattr(value, f.name), hints[f.name]) for f in dataclasses.fields(hint)
        )
    if hint is int:
        return type(value) is int and abs(value) <= LARGEST
    if hint is float:
        return type(value) in (int, float) and math.isfinite(value)
    return not isinstance(hint, type) or isinstance(value, hint)
