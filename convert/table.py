"""Weight tables: invertible rules, applied forwards on import and backwards on export.

Keys and paths are templates that are filled in for each place of a configuration: `{i}` is a block's number, `{s}.{i}`
a stage's and a block's. A rule with several keys fuses them along the output axis, our last axis. `absent` marks a leaf
that the layout does not contain, `derive` a key that we can compute, and `drop` keys without information.
"""

import dataclasses
import fnmatch
import functools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from convert.lazy_array import LazyArray
from convert.ops import Op, contiguous, put
from convert.tensors import Part, Shared, Tensor
from jaxdino.core.errors import UserError
from jaxdino.core.params import Skeleton, natural_key
from jaxdino.core.rules import nearest

When = Callable[[Any], bool]
Reader = Callable[[str], np.ndarray]
Blocks = Callable[[str], Iterable[np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Rule:
    """One leaf from one or several source keys; a key of None is a part that is zero and missing in the layout."""

    keys: tuple[str | None, ...]
    path: str
    op: Op
    when: When

    def at(self, place: Mapping[str, int]) -> "Rule":
        """Return the rule for one place."""
        keys = tuple(key and key.format(**place) for key in self.keys)
        return dataclasses.replace(self, keys=keys, path=self.path.format(**place))


@dataclasses.dataclass(frozen=True)
class Derived:
    """A key that export computes as `make(config)`, in the dtype of the leaf `like` if given; import requires it."""

    key: str
    make: Callable[[Any], np.ndarray]
    like: str | None
    when: When

    def at(self, place: Mapping[str, int]) -> "Derived":
        """The key for one place."""
        return dataclasses.replace(self, key=self.key.format(**place), like=self.like and self.like.format(**place))


@dataclasses.dataclass(frozen=True)
class Repeated:
    """A key that repeats the leaf of another rule: import requires equal values, export writes it again."""

    key: str
    path: str
    op: Op
    when: When

    def at(self, place: Mapping[str, int]) -> "Repeated":
        """The key for one place."""
        return dataclasses.replace(self, key=self.key.format(**place), path=self.path.format(**place))


@dataclasses.dataclass(frozen=True)
class Absent:
    """A leaf without a key in the layout: import fills it with `make(config)`, export leaves it out."""

    path: str
    make: Callable[[Any], np.ndarray]
    when: When

    def at(self, place: Mapping[str, int]) -> "Absent":
        """Return the leaf at one place."""
        return dataclasses.replace(self, path=self.path.format(**place))


@dataclasses.dataclass(frozen=True)
class Dropped:
    """Source keys (a shell pattern) that the model does not use, and the reason."""

    pattern: str
    why: str


def always(config) -> bool:
    """Return True: the condition of a rule for every configuration."""
    return True


def rule(key: str, path: str, op: Op, when: When = always) -> Rule:
    """Map one key to one leaf."""
    return Rule((key,), path, op, when)


def fuse(keys: Sequence[str | None], path: str, op: Op, when: When = always) -> Rule:
    """Map several keys to one leaf, concatenated on our last axis."""
    return Rule(tuple(keys), path, op, when)


def derive(key: str, make: Callable, like: str | None, when: When = always) -> Derived:
    """Declare a buffer that follows from the configuration, in the dtype of the leaf `like` or its own."""
    return Derived(key, make, like, when)


def repeat(key: str, path: str, op: Op, when: When = always) -> Repeated:
    """Declare a second key of a leaf: one module with two names."""
    return Repeated(key, path, op, when)


def absent(path: str, make: Callable, when: When = always) -> Absent:
    """Declare a leaf that the layout does not contain."""
    return Absent(path, make, when)


MLP_HEAD = "a head of several layers (projection or prediction of pre-training), not part of the network"


def drop(pattern: str, why: str) -> Dropped:
    """Declare keys to leave out."""
    return Dropped(pattern, why)


class BoundTable:
    """A table bound to a configuration: places are filled in and conditions are evaluated."""

    def __init__(self, table: Iterable, config):
        self.config = config
        self.dropped = [entry for entry in table if isinstance(entry, Dropped)]
        chosen = [entry for entry in table if not isinstance(entry, Dropped) and entry.when(config)]
        places = config.places()
        entries = [entry.at(place) for entry in chosen for place in _places(entry, places)]
        rules = [entry for entry in entries if isinstance(entry, Rule)]
        self.rules = sorted(rules, key=lambda r: natural_key(r.path))  # the order in which leaves lie on disk
        self.derived = [entry for entry in entries if isinstance(entry, Derived)]
        self.repeated = [entry for entry in entries if isinstance(entry, Repeated)]
        self.absent = [entry for entry in entries if isinstance(entry, Absent)]
        self.keys = {key for r in self.rules for key in r.keys if key}
        self.keys |= {entry.key for entry in (*self.derived, *self.repeated)}

    def why_dropped(self, key: str, shape: tuple[int, ...] = ()) -> str | None:
        """Return why a key is left out, or None if it is not; empty tensors are always left out."""
        if 0 in shape and key not in self.keys:
            return f"an empty tensor of shape {shape}"
        return next((entry.why for entry in self.dropped if fnmatch.fnmatchcase(key, entry.pattern)), None)

    def check(
        self, shapes: Mapping[str, tuple[int, ...]], skeleton: Skeleton, dtypes: Mapping[str, np.dtype] | None = None
    ) -> list[str]:
        """Check the source's header; return a line for each key or leaf with a problem."""
        dtypes = dtypes or {}
        problems = []
        for r in self.rules:
            problems += _missing(r, shapes) or _mismatched(r, shapes, skeleton)
            problems += [_mistyped(r, key, dtypes[key]) for key in r.keys if key in dtypes]
        gone = [entry for entry in self.repeated if entry.key not in shapes]
        problems += [f"missing {entry.key}, which repeats {entry.path}" for entry in gone]
        for key in shapes:
            if key not in self.keys and self.why_dropped(key, shapes[key]) is None:
                problems.append(f"unexpected {key} {shapes[key]} (nearest: {', '.join(nearest(key, self.keys))})")
        filled = {r.path for r in self.rules} | {entry.path for entry in self.absent}
        problems += [f"nothing fills {path}" for path in skeleton.entries if path not in filled]
        return [problem for problem in problems if problem]

    def read(
        self, read: Reader, blocks: Blocks, dtypes: Mapping[str, np.dtype], skeleton: Skeleton
    ) -> dict[str, LazyArray]:
        """Return every leaf by path, each read on access.

        Args:
          read: reads the tensor of a key. blocks: reads it in blocks of its first axis.
          dtypes: of the source's keys.

        Raises:
          UserError: if a key of `derive` does not hold the expected values.
        """
        for entry in self.derived:
            if entry.key in dtypes and not np.array_equal(read(entry.key), entry.make(self.config)):
                raise UserError(f"{entry.key} does not hold the values that this model's forward pass assumes")
        leaves = {}
        for r in self.rules:
            dtype = r.op.ours or np.result_type(*(dtypes[key] for key in r.keys if key))
            shape = skeleton.entries[r.path].shape
            leaves[r.path] = LazyArray(shape, dtype, functools.partial(_joined, r, read, blocks, shape, dtype))
        for entry in self.repeated:
            if not np.array_equal(entry.op.forward(read(entry.key)), np.asarray(leaves[entry.path]), equal_nan=True):
                raise UserError(f"{entry.key} is another name of {entry.path}, but holds other values")
        for entry in self.absent:
            if entry.path in skeleton.entries:
                array = entry.make(self.config)
                leaves[entry.path] = LazyArray(array.shape, array.dtype, lambda array=array: array)
        return leaves

    def write(self, flat: Mapping[str, Any]) -> list[Tensor]:
        """Return the source tensors of `flat`, each computed on access; leaves without a key are left out."""
        tensors = []
        for r in self.rules:
            leaf = Shared(flat[r.path], sum(key is not None for key in r.keys))
            dtype = r.op.theirs or np.dtype(leaf.array.dtype)
            for n, key in enumerate(r.keys):
                if key is not None:
                    part = Part(leaf, r.op, n, len(r.keys))
                    tensors.append(Tensor(key, part.shape(), dtype, part))
        for entry in self.repeated:
            part = Part(Shared(flat[entry.path], 1), entry.op, 0, 1)
            tensors.append(Tensor(entry.key, part.shape(), np.dtype(flat[entry.path].dtype), part))
        for entry in self.derived:
            value = entry.make(self.config)
            value = value if entry.like is None else value.astype(flat[entry.like].dtype)
            tensors.append(Tensor(entry.key, value.shape, value.dtype, lambda value=value: value))
        return tensors

    def lost(self, flat: Mapping[str, Any]) -> list[str]:
        """Return leaves of `flat` without a key in the layout that an import would not restore."""
        kept = {r.path for r in self.rules} | {entry.path for entry in self.absent}
        return [path for path in flat if path not in kept]


def _mistyped(r: Rule, key: str, dtype: np.dtype) -> str | None:
    if r.op.theirs is not None:
        return None if dtype == r.op.theirs else f"not {r.op.theirs}: {key} is {dtype}"
    return None if jax.dtypes.issubdtype(dtype, np.floating) else f"not floating point: {key} is {dtype}"


def _places(entry: Rule | Derived | Repeated | Absent, places: Iterable[Mapping[str, int]]) -> list[dict[str, int]]:
    """Return the distinct places in the entry's template; one empty place if it has no placeholder."""
    templates = [*getattr(entry, "keys", ()), getattr(entry, "key", None), getattr(entry, "path", None)]
    names = dict.fromkeys(re.findall(r"{(\w+)}", " ".join(filter(None, templates))))
    if not names:
        return [{}]
    found = [{name: place[name] for name in names} for place in places if place.keys() >= set(names)]
    return [dict(items) for items in dict.fromkeys(tuple(place.items()) for place in found)]


def _joined(r: Rule, read: Reader, blocks: Blocks, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Build the leaf; a tensor whose order changes is read in blocks, so that it is not in memory beside the leaf."""
    if len(r.keys) == 1 and not r.op.turned:
        return contiguous(r.op.forward(read(r.keys[0])))
    leaf = np.zeros(shape, dtype) if None in r.keys else np.empty(shape, dtype)
    size = shape[-1] // len(r.keys)
    for n, key in enumerate(r.keys):
        at = n * size
        for block in () if key is None else blocks(key) if r.op.turned else (read(key),):
            part = r.op.forward(block)
            put(leaf[..., at : at + part.shape[-1]], part)
            at += part.shape[-1]
    return leaf


def _missing(r: Rule, shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    gone = [key for key in r.keys if key and key not in shapes]
    return [f"missing {key} for {r.path} (nearest: {', '.join(nearest(key, shapes))})" for key in gone]


def _mismatched(r: Rule, shapes: Mapping[str, tuple[int, ...]], skeleton: Skeleton) -> list[str]:
    if r.path not in skeleton.entries:
        return [f"the model has no {r.path} for {r.keys[0]} (nearest: {', '.join(nearest(r.path, skeleton.entries))})"]
    given = [r.op.shape(shapes[key]) for key in r.keys if key]
    want = skeleton.entries[r.path].shape
    if None not in given and len(set(given)) == 1 and _widened(given[0], len(r.keys)) == want:
        return []
    held = ", ".join(f"{key} {shapes[key]}" for key in r.keys if key)
    return [f"mismatched {held} do not make {r.path} {want}"]


def _widened(shape: tuple[int, ...], times: int) -> tuple[int, ...]:
    return shape if times == 1 else (*shape[:-1], shape[-1] * times)
