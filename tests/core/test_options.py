"""Settings are read strictly: names, types and ranges, from any mapping."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from ml_collections import ConfigDict

from jaxdino.core import options
from jaxdino.core.errors import UserError


@dataclasses.dataclass(frozen=True)
class Example:
    count: int = 1
    rate: float = 0.5
    on: bool = False
    name: str = "a"
    side: int | None = None
    pair: tuple[float, float] = (0.0, 1.0)
    words: tuple[str, ...] = ()
    any: Any = None


@pytest.mark.parametrize("wrap", [dict, ConfigDict])
def test_values_take_the_type_of_their_field(wrap):
    given = wrap({"count": 2.0, "rate": 1, "pair": (0, 2), "words": "one", "side": np.int64(3), "on": True, "any": "x"})
    found = options.read(Example, given, "it")
    assert found == Example(2, 1.0, True, "a", 3, (0.0, 2.0), ("one",), "x")
    assert [type(value) for value in (found.count, found.rate, found.side)] == [int, float, int]
    assert options.read(Example, {"pair": [0, 2]}, "it").pair == (0.0, 2.0)


def test_none_leaves_the_default_and_a_base_stands_for_it():
    assert options.read(Example, None, "it") == options.read(Example, {"count": None}, "it") == Example()
    base = Example(name="b")
    assert options.read(Example, {"count": 5, "name": None}, "it", base) == Example(5, name="b")
    assert options.read(Example, base, "it") is base


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"cuont": 1}, "it has no field 'cuont'; nearest: count"),
        ({"count": 1.5}, r"it has count=1\.5: it must be a whole number"),
        ({"count": float("nan")}, "count=nan: it must be a whole number"),
        ({"count": True}, "count=True: it must be a whole number"),
        ({"rate": "1"}, "rate='1': it must be a number"),
        ({"on": 1}, "on=1: it must be True or False"),
        ({"name": 1}, "name=1: it must be a text"),
        ({"side": "x"}, "side='x': it must be a whole number"),
        ({"pair": 1.0}, r"pair=1\.0: it must be 2 values in brackets, each a number"),
        ({"pair": (1, 2, 3)}, "it must be 2 values"),
        ({"pair": ("a", "b")}, "it must be 2 values"),
        ({"words": (1,)}, "it must be one or more values in brackets, each a text"),
    ],
)
def test_what_does_not_fit_is_named(given, words):
    with pytest.raises(UserError, match=words):
        options.read(Example, given, "it")


@pytest.mark.parametrize(
    ("value", "interval", "good"),
    [
        (0, "[0, 1)", True),
        (1, "[0, 1)", False),
        (0, "(0, inf)", False),
        ((0.5, 2), "[0, 1]", False),
    ],
)
def test_ranges(value, interval, good):
    if good:
        options.check_range("it", value, interval)
    else:
        with pytest.raises(UserError, match=r"it=.* must be"):
            options.check_range("it", value, interval)


@pytest.mark.parametrize("interval", ["[0, 1]", "[0, inf)"])
def test_nan_is_in_no_range(interval):
    with pytest.raises(UserError, match="it=nan is no number"):
        options.check_range("it", float("nan"), interval)


def test_infinity_is_refused_in_words_that_are_true_of_it():
    with pytest.raises(UserError, match="it=inf must be at least 0, and finite"):
        options.check_range("it", float("inf"), "[0, inf)")
