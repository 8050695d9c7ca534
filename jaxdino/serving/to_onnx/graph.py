"""An ONNX graph under construction: nodes, constants, and tensors whose first axis may be the batch."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxdino.core.errors import UserError

SMALL = 1000  # numbers of a constant that is compared with the others by its values
Shape = tuple[Any, ...]
"""Lengths of axes: integers, or multiples of the symbolic batch."""


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor of the graph.

    Attributes:
      shape: its own shape. Where the jaxpr repeats a value along an axis, it may have length 1 there: ONNX nodes repeat
        it themselves, as numpy does.
    """

    name: str
    shape: Shape


@dataclasses.dataclass(frozen=True)
class Constant:
    """A value that is known at export; `shape` may have length 1 where the jaxpr repeats it, as in `Tensor`."""

    value: np.ndarray
    name: str = ""

    @property
    def shape(self) -> Shape:
        """Its own shape."""
        return self.value.shape


Operand = Tensor | Constant


@dataclasses.dataclass(frozen=True)
class Node:
    """An ONNX node: `op` of the default domain, names of its inputs and outputs, attributes."""

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]


class Graph:
    """The nodes and constants that have been added so far.

    Attributes:
      batch: the symbolic batch size. first: name of an input; its first axis is the batch.
    """

    def __init__(self, batch: Any, first: str):
        self.batch, self.first = batch, first
        self.nodes: list[Node] = []
        self.constants: dict[str, np.ndarray] = {}
        self._known: dict[Any, str] = {}
        self._held: list[Constant] = []  # so that no other constant gets the `id` of one that is known
        self._batch: str | None = None

    def add(self, op: str, *inputs: Operand | str, shape: Shape = (), **attributes: Any) -> Tensor:
        """Add a node and return its output, of this shape."""
        return self.add_several(op, 1, *inputs, shape=shape, **attributes)[0]

    def add_several(self, op: str, count: int, *inputs: Operand | str, shape: Shape, **attributes: Any) -> list[Tensor]:
        """Add a node with several outputs of the same shape, and return them."""
        first = f"{op}_{len(self.nodes)}"
        outputs = (first, *(f"{first}_{i}" for i in range(1, count)))
        self.nodes.append(Node(op, tuple(map(self.name, inputs)), outputs, attributes))
        return [Tensor(output, tuple(shape)) for output in outputs]

    def name(self, operand: Operand | str) -> str:
        """Return the name of an operand; a constant becomes one of the graph's, equal small ones the same."""
        if isinstance(operand, str):
            return operand
        if isinstance(operand, Tensor):
            return operand.name
        value = np.ascontiguousarray(operand.value).reshape(operand.shape)
        small = value.size < SMALL
        key = operand.name or ((value.dtype.str, value.shape, value.tobytes()) if small else id(operand))
        if key not in self._known:
            self._known[key] = operand.name or f"constant_{len(self.constants)}"
            self.constants[self._known[key]] = value
            self._held.append(operand)
        return self._known[key]

    def numbers(self, values: Sequence[int]) -> Constant:
        """Return int64 numbers, as nodes take shapes and axes."""
        return Constant(np.asarray([int(value) for value in values], np.int64))

    def reshape(self, x: Operand, shape: Shape) -> Operand:
        """Reshape; at most one axis has the batch in it."""
        if x.shape == tuple(shape):
            return x
        if isinstance(x, Constant):
            return Constant(x.value.reshape([int(one) for one in shape]))
        return self.add("Reshape", x, self.numbers([-1 if self.symbolic(one) else one for one in shape]), shape=shape)

    def transpose(self, x: Operand, order: Sequence[int]) -> Operand:
        """Permute the axes."""
        if list(order) == list(range(len(order))):
            return x
        if isinstance(x, Constant):
            return Constant(x.value.transpose(order))
        return self.add("Transpose", x, shape=tuple(x.shape[i] for i in order), perm=list(order))

    def widened(self, x: Operand, shape: Shape) -> Operand:
        """Repeat a value along the axes where it has length 1 and `shape` has not."""
        if x.shape == tuple(shape):
            return x
        if isinstance(x, Constant) and not any(map(self.symbolic, shape)):
            return Constant(np.broadcast_to(x.value, shape))
        return self.add("Expand", x, self._lengths(shape), shape=shape)

    def symbolic(self, length: Any) -> bool:
        """Return whether the length of an axis depends on the batch."""
        return not isinstance(length, int | np.integer)

    def _lengths(self, shape: Shape) -> Operand:
        """Return a shape as a tensor; axes with the batch are multiples of it."""
        if self._batch is None:
            bounds = [self.numbers([0]), self.numbers([1])]
            self._batch = self.add("Slice", self.add("Shape", self.first), *bounds, shape=(1,)).name
        parts: list[Operand] = []
        for length in shape:
            if not self.symbolic(length):
                parts.append(self.numbers([length]))
                continue
            times = length // self.batch
            if self.symbolic(times):
                raise UserError(f"an axis of length {length} is no multiple of the batch: ONNX export cannot give it")
            parts.append(self.add("Mul", self._batch, self.numbers([times]), shape=(1,)))
        return self.add("Concat", *parts, shape=(len(shape),), axis=0)

    def size(self, shape: Shape) -> Any:
        """Return the number of elements."""
        return math.prod(shape)

    def reached(self, outputs: Sequence[str]) -> None:
        """Leave out nodes and constants that no output needs."""
        needed, kept = set(outputs), []
        for node in reversed(self.nodes):
            if needed.intersection(node.outputs):
                needed.update(node.inputs)
                kept.append(node)
        self.nodes = kept[::-1]
        self.constants = {name: value for name, value in self.constants.items() if name in needed}
