"""Split a module into a skeleton and a flat dict of arrays keyed by path, and bind them again, with checks.

`skeleton, flat = split(model)` and `bind(skeleton, flat)` are the only functions that use `nnx.split` and
`nnx.merge`. `nnx.merge` is positional and silently accepts wrong names and shapes; `bind` does not.
"""

import hashlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from flax import nnx

from jaxdino.core.errors import UserError
from jaxdino.core.probe import probe_model
from jaxdino.core.rules import nearest

Flat = dict[str, jax.Array]


@dataclass(frozen=True)
class Entry:
    """The required shape, dtype and kind ("param", "buffer" or "batch_stat") of the array at a path."""

    shape: tuple[int, ...]
    dtype: np.dtype
    kind: str

    @property
    def size(self) -> int:
        """Return the number of elements."""
        return int(np.prod(self.shape, dtype=np.int64))


class Buffer(nnx.Variable):
    """An array that the forward pass reads and the optimiser never updates (DINOv3's RoPE periods)."""


KINDS = ((nnx.Param, "param"), (nnx.BatchStat, "batch_stat"), (Buffer, "buffer"))


@dataclass(frozen=True)
class Skeleton:
    """A module without its arrays: the graph definition and, in natural order, the entry of each path."""

    graphdef: nnx.GraphDef
    entries: Mapping[str, Entry]

    def paths(self, kind: str | None = None) -> list[str]:
        """Return the paths in natural order; only those of one kind if given."""
        return [path for path, entry in self.entries.items() if kind in (None, entry.kind)]

    @property
    def shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Return the shapes in place of the arrays, for `jax.eval_shape`."""
        return {path: jax.ShapeDtypeStruct(entry.shape, entry.dtype) for path, entry in self.entries.items()}

    @property
    def num_params(self) -> int:
        """Return the number of trainable elements (kind "param")."""
        return sum(entry.size for entry in self.entries.values() if entry.kind == "param")


def natural_key(path: str) -> tuple:
    """Return a sort key that puts blocks.2 before blocks.10."""
    return tuple((0, int(part), "") if part.isdigit() else (1, 0, part) for part in path.split("."))


def _key(path: tuple) -> str:
    return ".".join(str(part) for part in path)


def _kind(variable: nnx.Variable) -> str:
    for cls, kind in KINDS:
        if isinstance(variable, cls):
            return kind
    raise TypeError(f"{type(variable).__name__} is not a kind of variable that jaxdino trains or keeps")


def _skeleton(graphdef: nnx.GraphDef, variables: dict[str, nnx.Variable]) -> Skeleton:
    entries = {
        path: Entry(tuple(v.get_value().shape), np.dtype(v.get_value().dtype), _kind(v))
        for path, v in sorted(variables.items(), key=lambda item: natural_key(item[0]))
    }
    return Skeleton(graphdef, entries)


def _variables(state: nnx.State) -> dict[str, nnx.Variable]:
    return {_key(path): variable for path, variable in nnx.to_flat_state(state)}


def split(model: nnx.Module) -> tuple[Skeleton, Flat]:
    """Split a module into its skeleton and its arrays keyed by path, in natural order."""
    graphdef, state = nnx.split(model)
    variables = _variables(state)
    skeleton = _skeleton(graphdef, variables)
    return skeleton, {path: variables[path].get_value() for path in skeleton.entries}


def abstract(build: Callable[[], nnx.Module]) -> Skeleton:
    """Return the skeleton of the module that `build` would make, without allocating an array."""
    graphdef, state = nnx.split(nnx.eval_shape(build))
    return _skeleton(graphdef, _variables(state))


def check(skeleton: Skeleton, flat: Mapping[str, jax.Array]) -> None:
    """Raise UserError unless `flat` has exactly the skeleton's paths and shapes."""
    problems = []
    for path in skeleton.entries.keys() - flat.keys():
        problems.append(f"missing {path} {skeleton.entries[path].shape} (nearest: {', '.join(nearest(path, flat))})")
    for path in flat.keys() - skeleton.entries.keys():
        problems.append(f"unexpected {path} (nearest: {', '.join(nearest(path, skeleton.entries))})")
    for path, entry in skeleton.entries.items():
        if path in flat and tuple(flat[path].shape) != entry.shape:
            problems.append(f"shape of {path}: {tuple(flat[path].shape)} given, {entry.shape} wanted")
    if problems:
        listed = "\n  ".join(sorted(problems)[:20])
        more = f"\n  and {len(problems) - 20} more" if len(problems) > 20 else ""
        raise UserError(f"{len(problems)} of the parameters do not fit the model:\n  {listed}{more}")


def bind(skeleton: Skeleton, flat: Mapping[str, jax.Array]) -> Any:
    """Bind arrays to the module: the inverse of `split`, usable under `jax.jit`.

    Raises:
      UserError: if a path is missing or unknown or a shape differs, with the nearest names.
    """
    check(skeleton, flat)
    nested: dict = {}
    for path in skeleton.entries:
        *parents, leaf = (int(part) if part.isdigit() else part for part in path.split("."))
        node = nested
        for part in parents:
            node = node.setdefault(part, {})
        node[leaf] = flat[path]
    model = nnx.merge(skeleton.graphdef, nested)
    probe_model(model)
    return model


def values(model: nnx.Module, paths: Collection[str]) -> Flat:
    """Return current values of some leaves of a bound module, after a forward pass that updates them; no gradient."""
    if not paths:
        return {}
    _, flat = split(model)
    return {path: jax.lax.stop_gradient(flat[path]) for path in paths}


class Digest:
    """SHA-256 of a model's leaves, added one by one in any order."""

    def __init__(self):
        self._lines: dict[str, str] = {}

    def add(self, path: str, array: jax.Array | np.ndarray) -> None:
        """Add a leaf: its path, dtype, shape and bytes."""
        array = np.asarray(jax.device_get(array), order="C")
        data = hashlib.sha256(array.reshape(-1).view(np.uint8).data).hexdigest()
        self._lines[path] = f"{path} {array.dtype.name} {array.shape} {data}\n"

    def value(self) -> str:
        """Return SHA-256 over the lines (path, dtype, shape, SHA-256 of the bytes) in natural order: 64 hex digits."""
        lines = (self._lines[path] for path in sorted(self._lines, key=natural_key))
        return hashlib.sha256("".join(lines).encode()).hexdigest()


def digest(flat: Mapping[str, jax.Array]) -> str:
    """Return the `Digest` of all leaves."""
    whole = Digest()
    for path, array in flat.items():
        whole.add(path, array)
    return whole.value()
