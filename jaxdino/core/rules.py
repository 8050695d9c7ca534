"""First-match rules over parameter paths: every path must be covered, and every rule must match."""

import difflib
import math
from collections.abc import Iterable, Sequence
from typing import TypeVar

from jaxdino.core.errors import UserError
from jaxdino.core.pattern import Pattern

T = TypeVar("T")


def nearest(name: str, names: Iterable[str], n: int = 3) -> list[str]:
    """Return the `n` names most similar to `name`, best first; the first few names if none is similar."""
    names = list(names)
    return difflib.get_close_matches(name, names, n=n, cutoff=0.4) or names[:n]


def did_you_mean(name: str, names: Iterable[str], n: int = 3) -> str:
    """Return `nearest` as a phrase for the end of an error message."""
    found = nearest(name, names, n)
    return f"nearest: {', '.join(found)}" if found else "there is none to choose from"


def first_match(paths: Sequence[str], rules: Sequence[tuple[str, T]], what: str = "parameter") -> dict[str, T]:
    """Assign to each path the value of the first rule whose pattern matches the whole path.

    Args:
      paths: flat parameter paths.
      rules: ordered (regular expression, value); the expression must match the whole path.
      what: the noun for a path in error messages.

    Returns:
      {path: value}, in the order of `paths`.

    Raises:
      UserError: for a path that no rule covers, and for a rule that matches no path at all (a rule whose
        paths all match earlier rules is accepted).
    """
    compiled = [(Pattern(text), value) for text, value in rules]
    for pattern, _ in compiled:
        if not any(pattern.matches(path) for path in paths):
            raise UserError(f"the rule {pattern.text!r} matches no {what}; {did_you_mean(pattern.text, paths)}")
    chosen = {}
    for path in paths:
        for pattern, value in compiled:
            if pattern.matches(path):
                chosen[path] = value
                break
        else:
            raise UserError(
                f"no rule covers the {what} {path!r}; {did_you_mean(path, [text for text, _ in rules])}. "
                f"End the list with a rule that matches everything ('.*')."
            )
    return chosen


def patterns(paths: Iterable[str]) -> list[str]:
    """Abbreviate paths: those that differ only in numbers become one, `blocks.{4,5}.attn.qkv.kernel`."""
    groups: dict[tuple[str, ...], set[tuple[int, ...]]] = {}
    for path in paths:
        parts = path.split(".")
        numbers = tuple(int(part) for part in parts if part.isdigit())
        groups.setdefault(tuple("{}" if part.isdigit() else part for part in parts), set()).add(numbers)
    short = []
    for parts, rows in groups.items():
        columns = [sorted(set(column)) for column in zip(*rows, strict=True)]
        whole = len(rows) == math.prod(map(len, columns))
        for row in [columns] if whole else [[[n] for n in numbers] for numbers in sorted(rows)]:
            short.append(".".join(parts).format(*(_braced(numbers) for numbers in row)))
    return short


def _braced(numbers: Sequence[int]) -> str:
    return str(numbers[0]) if len(numbers) == 1 else "{" + ",".join(map(str, numbers)) + "}"
