"""Indexing with known places: `gather` as ONNX Slice and Gather."""

from typing import Any

import numpy as np

from jaxdino.core.errors import UserError
from jaxdino.serving.to_onnx.graph import Constant, Graph, Operand


def gather(graph: Graph, equation: Any, x: Operand, places: Operand) -> Operand:
    """Take values at known places: one block of each indexed axis, or chosen rows of it.

    That is how jax writes `x[:, 3]`, `x[:, 1:5]`, `x[:, ::2, ::2]` and `repeat` for a batch of unknown size.

    Raises:
      UserError: for places that depend on the images, and for other ways of indexing.
    """
    if not isinstance(places, Constant):
        raise UserError("places that depend on the images have no ONNX form here: export with --to stablehlo")
    numbers, shape = equation.params["dimension_numbers"], equation.outvars[0].aval.shape
    sizes, axes, index = equation.params["slice_sizes"], numbers.start_index_map, places.value
    if index.ndim == 1:
        found = x
        for axis, start in zip(axes, index.tolist(), strict=True):
            found = _block(graph, found, axis, np.arange(start, start + int(sizes[axis])))
        return graph.reshape(found, shape)
    apart = _apart(index) if numbers.collapsed_slice_dims == tuple(axes) else None
    kept = tuple(axis for axis in range(len(shape)) if axis not in numbers.offset_dims)
    if apart is None or kept != tuple(axes):
        raise UserError("this way of indexing has no ONNX form here: export with --to stablehlo")
    found = x
    for axis, rows in zip(axes, apart, strict=True):
        found = _block(graph, found, axis, rows)
    return found


def _apart(index: np.ndarray) -> list[np.ndarray] | None:
    """Return the rows of each axis if places (n, m, ..., axes) are all combinations of them, else None."""
    *lengths, count = index.shape
    if len(lengths) != count:
        return None
    rows = [np.moveaxis(index[..., i], i, 0).reshape(lengths[i], -1)[:, 0] for i in range(count)]
    same = np.stack(np.meshgrid(*rows, indexing="ij"), axis=-1)
    return rows if np.array_equal(same, index) else None


def _block(graph: Graph, x: Operand, axis: int, rows: np.ndarray) -> Operand:
    """Take rows of one axis: as a slice if they are evenly spaced."""
    shape = (*x.shape[:axis], len(rows), *x.shape[axis + 1 :])
    steps = set(np.diff(rows).tolist()) or {1}
    if len(steps) == 1 and (step := steps.pop()) > 0:
        bounds = [graph.numbers([one]) for one in (rows[0], rows[-1] + 1, axis, step)]
        return x if x.shape == shape else graph.add("Slice", x, *bounds, shape=shape)
    return graph.add("Gather", x, graph.numbers(rows.tolist()), shape=shape, axis=axis)
