"""Indexing: `gather` as ONNX Slice, Gather and GatherND, and the places of the largest values."""

from typing import Any

import numpy as np

from jaxdino.core.errors import UserError
from jaxdino.serving.to_onnx.graph import Constant, Graph, Operand


def gather(graph: Graph, equation: Any, x: Operand, places: Operand) -> Operand:
    """Take values at known places: one block of each indexed axis, or chosen rows of it; at others, rows.

    That is how jax writes `x[:, 3]`, `x[:, 1:5]`, `x[:, ::2, ::2]` and `repeat` for a batch of unknown size.

    Raises:
      UserError: for other ways of indexing.
    """
    if not isinstance(places, Constant):
        return _rows(graph, equation, x, places)
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


def _rows(graph: Graph, equation: Any, x: Operand, places: Operand) -> Operand:
    """Take rows at places that depend on the images, all inside of it: `take_along_axis(x, places, axis=1)`."""
    import onnx

    numbers, shape = equation.params["dimension_numbers"], equation.outvars[0].aval.shape
    batches = len(numbers.operand_batching_dims)
    leading, axes = tuple(range(batches)), tuple(range(batches, batches + places.shape[-1]))
    row = range(batches + len(axes), len(x.shape))
    of_batch = numbers.operand_batching_dims == numbers.start_indices_batching_dims == leading
    of_rows = numbers.start_index_map == numbers.collapsed_slice_dims == axes
    whole = all(equation.params["slice_sizes"][axis] == x.shape[axis] for axis in row)
    if not (of_batch and of_rows and whole and numbers.offset_dims == tuple(range(len(shape) - len(row), len(shape)))):
        raise UserError("this way of indexing has no ONNX form here: export with --to stablehlo")
    wide = graph.add("Cast", places, shape=places.shape, to=int(onnx.TensorProto.INT64))
    return graph.add("GatherND", x, wide, shape=shape, batch_dims=batches)


def top_k(graph: Graph, equation: Any, x: Operand) -> list[Operand]:
    """Return the largest values of an axis, largest first, and their places; of equal ones the first, as in jax."""
    import onnx

    params, shape = equation.params, equation.outvars[0].aval.shape
    count = graph.numbers([params["k"]])
    values, places = graph.add_several("TopK", 2, x, count, shape=shape, axis=int(params["axis"]))
    return [values, graph.add("Cast", places, shape=shape, to=int(onnx.TensorProto.INT32))]


def argmax(graph: Graph, equation: Any, x: Operand) -> Operand:
    """Return the place of the largest value of an axis; of equal ones the first, as in jax."""
    import onnx

    params, shape = equation.params, equation.outvars[0].aval.shape
    if np.dtype(equation.invars[0].aval.dtype) == np.bool_:  # ONNX compares numbers alone
        x = graph.add("Cast", x, shape=x.shape, to=int(onnx.TensorProto.INT32))
    places = graph.add("ArgMax", x, shape=shape, axis=int(params["axes"][0]), keepdims=0)
    return graph.add("Cast", places, shape=shape, to=int(onnx.helper.np_dtype_to_tensor_dtype(params["index_dtype"])))


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
