"""A weight mapping is one table of invertible rules, read forwards on import and backwards on export.

Keys and paths are templates over the block number, `{i}`. A rule that joins several keys fuses them along the
output axis, which is the last axis on our side. What a layout does not hold is said with `absent`, what it holds
and we can compute with `derive`, and what carries no information with `drop`.
"""

import dataclasses
import fnmatch
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from convert.ops import Op
from jaxdino.core.errors import UserError
from jaxdino.core.params import Skeleton
from jaxdino.core.rules import nearest

When = Callable[[Any], bool]
Reader = Callable[[str], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Rule:
    """One leaf of ours from one or several source keys; a key of None is a part that the layout leaves out as zeros."""

    keys: tuple[str | None, ...]
    path: str
    op: Op
    when: When

    def at(self, i: int | str) -> "Rule":
        """The rule for block `i`."""
        keys = tuple(key and key.replace("{i}", str(i)) for key in self.keys)
        return dataclasses.replace(self, keys=keys, path=self.path.replace("{i}", str(i)))


@dataclasses.dataclass(frozen=True)
class Derived:
    """A key that export computes: `make(config)` in the dtype of the leaf `like`; an import must hold that value."""

    key: str
    make: Callable[[Any], np.ndarray]
    like: str
    when: When


@dataclasses.dataclass(frozen=True)
class Absent:
    """A leaf the layout has no key for: import fills it with `make(config)`; export leaves it out."""

    path: str
    make: Callable[[Any], np.ndarray]
    when: When


@dataclasses.dataclass(frozen=True)
class Dropped:
    """Source keys (a shell pattern) that carry nothing the model uses, and why."""

    pattern: str
    why: str


def always(config) -> bool:
    """The condition of a rule that holds for every configuration."""
    return True


def rule(key: str, path: str, op: Op, when: When = always) -> Rule:
    """One key to one leaf."""
    return Rule((key,), path, op, when)


def fuse(keys: Sequence[str | None], path: str, op: Op, when: When = always) -> Rule:
    """Several keys to one leaf, side by side on our last axis."""
    return Rule(tuple(keys), path, op, when)


def derive(key: str, make: Callable, like: str, when: When = always) -> Derived:
    """A buffer of the layout that follows from the configuration, in the dtype of the leaf `like`."""
    return Derived(key, make, like, when)


def absent(path: str, make: Callable, when: When = always) -> Absent:
    """A leaf of ours that the layout does not hold."""
    return Absent(path, make, when)


def drop(pattern: str, why: str) -> Dropped:
    """Keys to leave aside knowingly."""
    return Dropped(pattern, why)


class Tensor(NamedTuple):
    """A tensor to be written: its key, shape, dtype, and the function that makes it when its turn comes."""

    key: str
    shape: tuple[int, ...]
    dtype: np.dtype
    make: Callable[[], np.ndarray]


class BoundTable:
    """A table bound to a configuration: block numbers filled in, conditions decided."""

    def __init__(self, table: Iterable, config):
        self.config = config
        chosen = [entry for entry in table if isinstance(entry, Dropped) or entry.when(config)]
        self.rules = [r for entry in chosen if isinstance(entry, Rule) for r in _expand(entry, config.depth)]
        self.derived = [
            dataclasses.replace(entry, key=entry.key.replace("{i}", str(i)), like=entry.like.replace("{i}", str(i)))
            for entry in chosen
            if isinstance(entry, Derived)
            for i in (range(config.depth) if "{i}" in entry.key else [0])
        ]
        self.absent = [entry for entry in chosen if isinstance(entry, Absent)]
        self.dropped = [entry for entry in chosen if isinstance(entry, Dropped)]

    def why_dropped(self, key: str) -> str | None:
        """The reason a key is left aside, or None if no rule says so."""
        return next((entry.why for entry in self.dropped if fnmatch.fnmatchcase(key, entry.pattern)), None)

    def check(
        self, shapes: Mapping[str, tuple[int, ...]], skeleton: Skeleton, dtypes: Mapping[str, np.dtype] | None = None
    ) -> list[str]:
        """What is wrong with the source, from its header alone: a line for each key or leaf, empty if nothing is."""
        dtypes = dtypes or {}
        problems, wanted = [], set()
        for r in self.rules:
            wanted.update(key for key in r.keys if key)
            problems += _missing(r, shapes) or _mismatched(r, shapes, skeleton)
            problems += [
                f"not floating point: {key} is {dtypes[key]}"
                for key in r.keys
                if key in dtypes and not _floats(dtypes[key])
            ]
        wanted.update(entry.key for entry in self.derived)
        for key in shapes:
            if key not in wanted and self.why_dropped(key) is None:
                problems.append(f"unexpected {key} {shapes[key]} (nearest: {', '.join(nearest(key, wanted))})")
        filled = {r.path for r in self.rules} | {entry.path for entry in self.absent}
        problems += [f"nothing fills {path}" for path in skeleton.entries if path not in filled]
        return problems

    def read(self, read: Reader, keys: Iterable[str], skeleton: Skeleton) -> Iterator[tuple[str, np.ndarray]]:
        """Yields (path, array) leaf by leaf; only one leaf and its source tensors are held at a time."""
        keys = set(keys)
        for entry in self.derived:
            if entry.key in keys and not np.array_equal(read(entry.key), entry.make(self.config)):
                raise UserError(f"{entry.key} does not hold the values that this model's forward pass stands for")
        for r in self.rules:
            parts = [None if key is None else r.op.forward(read(key)) for key in r.keys]
            yield r.path, _join(parts)
        for entry in self.absent:
            if entry.path in skeleton.entries:
                yield entry.path, entry.make(self.config)

    def write(self, flat: Mapping[str, Any]) -> list[Tensor]:
        """The source tensors that `flat` holds, each made when asked for; leaves without a key are left out."""
        tensors = []
        for r in self.rules:
            array, start = flat[r.path], 0
            size = array.shape[-1] // len(r.keys)
            for n, key in enumerate(r.keys):
                part = _Part(array, r.op, start + n * size, size if len(r.keys) > 1 else None)
                if key is not None:
                    tensors.append(Tensor(key, part.shape(), np.dtype(array.dtype), part))
        for entry in self.derived:
            value = entry.make(self.config).astype(flat[entry.like].dtype)
            tensors.append(Tensor(entry.key, value.shape, value.dtype, lambda value=value: value))
        return tensors

    def lost(self, flat: Mapping[str, Any]) -> list[str]:
        """Leaves of `flat` that the layout has no key for."""
        kept = {r.path for r in self.rules}
        return [path for path in flat if path not in kept]


@dataclasses.dataclass(frozen=True)
class _Part:
    """A slice of a leaf on its way out."""

    array: Any
    op: Op
    start: int
    size: int | None

    def _cut(self, array):
        return array if self.size is None else array[..., self.start : self.start + self.size]

    def shape(self) -> tuple[int, ...]:
        return self.op.inverse(self._cut(np.broadcast_to(np.zeros((), bool), self.array.shape))).shape

    def __call__(self) -> np.ndarray:
        return np.ascontiguousarray(self.op.inverse(self._cut(np.asarray(self.array))))


def _floats(dtype: np.dtype) -> bool:
    return jax.dtypes.issubdtype(dtype, np.floating)


def _expand(r: Rule, depth: int) -> list[Rule]:
    return [r.at(i) for i in range(depth)] if "{i}" in r.path else [r]


def _join(parts: list[np.ndarray | None]) -> np.ndarray:
    given = next(part for part in parts if part is not None)
    parts = [np.zeros_like(given) if part is None else part for part in parts]
    return np.ascontiguousarray(parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1))


def _missing(r: Rule, shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    gone = [key for key in r.keys if key and key not in shapes]
    return [f"missing {key} for {r.path} (nearest: {', '.join(nearest(key, shapes))})" for key in gone]


def _mismatched(r: Rule, shapes: Mapping[str, tuple[int, ...]], skeleton: Skeleton) -> list[str]:
    if r.path not in skeleton.entries:
        return [f"the model has no {r.path} for {r.keys[0]} (nearest: {', '.join(nearest(r.path, skeleton.entries))})"]
    given = [r.op.shape(shapes[key]) for key in r.keys if key]
    want = skeleton.entries[r.path].shape
    if None not in given and len(set(given)) == 1 and (*given[0][:-1], given[0][-1] * len(r.keys)) == want:
        return []
    held = ", ".join(f"{key} {shapes[key]}" for key in r.keys if key)
    return [f"mismatched {held} do not make {r.path} {want}"]
