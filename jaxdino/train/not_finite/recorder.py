"""Record which values of a step are finite: the inputs and outputs of every layer, and the gradients there."""

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxdino.core.probe import recording

INPUT, OUTPUT, VALUE = "input", "output", "value"
FORWARD, BACKWARD = "forward", "backward"


@dataclasses.dataclass
class Event:
    """A place in the program where values were looked at.

    Attributes:
      name: path of a layer, or name of a value. kind: INPUT or OUTPUT of a layer, or VALUE.
      leaves: {path in the tree of values: {direction: [rows that are finite (n,), ...]}}, a list entry for each slice
        of the batch. largest: the largest finite |value| in each direction.
    """

    name: str
    kind: str
    leaves: dict[str, dict[str, list[np.ndarray]]] = dataclasses.field(default_factory=dict)
    largest: dict[str, float] = dataclasses.field(default_factory=dict)

    def seen(self, direction: str) -> bool:
        """Return whether the program came here in this direction."""
        return any(found.get(direction) for found in self.leaves.values())

    def bad(self, direction: str) -> list[str]:
        """Return the paths in the tree whose values are not finite."""
        return [path for path, found in self.leaves.items() if not all(rows.all() for rows in found.get(direction, []))]

    def note(self, path: str, direction: str, finite: np.ndarray, largest: np.ndarray) -> None:
        """Note values: which rows are finite, and the largest finite one."""
        self.leaves.setdefault(path, {}).setdefault(direction, []).append(np.array(finite))
        self.largest[direction] = max(self.largest.get(direction, 0.0), float(largest))


class StepRecorder:
    """Record a step while it is traced, then while it runs. Only the layers of bound models are known by path.

    Attributes:
      events: in the order of the program's forward pass.
    """

    def __init__(self):
        self.events: list[Event] = []
        self._paths: dict[int, str] = {}
        self._models: list[Any] = []  # kept, since the paths are found by identity
        self._classes: dict[type, Callable] = {}

    def value(self, name: str, tree: Any) -> Any:
        """Watch a tree of arrays."""
        return self._watched(Event(name, VALUE), tree)

    def model(self, model: Any) -> None:
        """Watch the layers of a model."""
        self._models.append(model)
        for path, module in nnx.iter_modules(model):
            self._paths[id(module)] = ".".join(map(str, path))
            for cls in type(module).__mro__:
                if "__call__" in vars(cls) and issubclass(cls, nnx.Module) and cls not in self._classes:
                    self._classes[cls] = cls.__call__
                    cls.__call__ = self._calling(cls.__call__)

    def _calling(self, original: Callable) -> Callable:
        def called(module: Any, *args: Any, **how: Any) -> Any:
            path = self._paths.get(id(module))
            if path is None:
                return original(module, *args, **how)
            args, how = self._watched(Event(path, INPUT), (args, how))
            return self._watched(Event(path, OUTPUT), original(module, *args, **how))

        return called

    def _watched(self, event: Event, tree: Any) -> Any:
        self.events.append(event)

        def one(path: tuple, leaf: Any) -> Any:
            if not isinstance(leaf, jax.Array) or not jnp.issubdtype(leaf.dtype, jnp.inexact):
                return leaf
            return _tagged(event, jax.tree_util.keystr(path, simple=True, separator="/"), leaf)

        return jax.tree_util.tree_map_with_path(one, tree)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Record what is traced in the block; afterwards the classes of the layers are as they were."""
        try:
            with recording(self):
                yield
        finally:
            for cls, original in self._classes.items():
                cls.__call__ = original
            self._classes.clear()


def _tagged(event: Event, path: str, array: jax.Array) -> jax.Array:
    """Return the array; note its values when the program computes them, and those of its gradient."""

    @jax.custom_vjp
    def same(x: jax.Array) -> jax.Array:
        return _noted(event, path, FORWARD, x)

    same.defvjp(
        lambda x: (_noted(event, path, FORWARD, x), None),
        lambda _, gradient: (_noted(event, path, BACKWARD, gradient),),
    )
    return same(array)


def _noted(event: Event, path: str, direction: str, x: jax.Array) -> jax.Array:
    finite = jnp.isfinite(x)
    rows = finite.reshape(x.shape[0], -1).all(1) if x.ndim else finite.reshape(1)
    largest = jnp.max(jnp.where(finite, jnp.abs(x), 0).astype(jnp.float32), initial=0)
    jax.debug.callback(partial(event.note, path, direction), rows, largest)
    return x


def record(step: Callable, moving: Any, frozen: Any, batch: Any) -> list[Event]:
    """Run a step, not compiled before, and return what was seen in it, in the order of the forward pass."""
    recorder = StepRecorder()
    with recorder.watching():
        program = jax.jit(step).lower(moving, frozen, batch).compile()
    jax.block_until_ready(program(moving, frozen, batch))
    jax.effects_barrier()
    return [event for event in recorder.events if event.seen(FORWARD)]
