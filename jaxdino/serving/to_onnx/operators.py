"""ONNX nodes of the primitives of jax. A function takes the graph, the equation and its operands."""

from collections.abc import Callable
from typing import Any

import numpy as np

from jaxdino.core.errors import UserError
from jaxdino.serving.to_onnx.convolutions import conv, max_pool
from jaxdino.serving.to_onnx.graph import Constant, Graph, Operand, Shape
from jaxdino.serving.to_onnx.indexing import argmax, gather, top_k
from jaxdino.serving.to_onnx.products import dot_general

SAME = {
    "add": "Add",
    "add_any": "Add",
    "sub": "Sub",
    "mul": "Mul",
    "div": "Div",
    "max": "Max",
    "min": "Min",
    "pow": "Pow",
    "exp": "Exp",
    "log": "Log",
    "erf": "Erf",
    "tanh": "Tanh",
    "sin": "Sin",
    "cos": "Cos",
    "sqrt": "Sqrt",
    "logistic": "Sigmoid",
    "neg": "Neg",
    "abs": "Abs",
    "sign": "Sign",
    "floor": "Floor",
    "ceil": "Ceil",
    "not": "Not",
    "and": "And",
    "or": "Or",
    "eq": "Equal",
    "lt": "Less",
    "le": "LessOrEqual",
    "gt": "Greater",
    "ge": "GreaterOrEqual",
}
"""Primitives on single elements that ONNX has under another name."""


def _joint(*given: Operand) -> Shape:
    """Return the shape of elementwise work on operands, of which some have length 1 where others have not."""
    wide = [one.shape for one in given if one.shape]
    return tuple(next((n for n in lengths if not (isinstance(n, int) and n == 1)), 1) for lengths in zip(*wide))  # noqa: B905


def _same(op: str) -> Callable[..., Operand]:
    return lambda graph, equation, *given: graph.add(op, *given, shape=_joint(*given))


def _square(graph: Graph, equation: Any, x: Operand) -> Operand:
    return graph.add("Mul", x, x, shape=x.shape)


def _rsqrt(graph: Graph, equation: Any, x: Operand) -> Operand:
    return graph.add("Reciprocal", graph.add("Sqrt", x, shape=x.shape), shape=x.shape)


def _erfc(graph: Graph, equation: Any, x: Operand) -> Operand:
    return graph.add("Sub", Constant(np.array(1, np.float32)), graph.add("Erf", x, shape=x.shape), shape=x.shape)


def _integer_pow(graph: Graph, equation: Any, x: Operand) -> Operand:
    return graph.add("Pow", x, Constant(np.array(equation.params["y"], np.float32)), shape=x.shape)


def _cast(graph: Graph, equation: Any, x: Operand) -> Operand:
    import onnx

    kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(equation.params["new_dtype"]))
    return graph.add("Cast", x, shape=x.shape, to=int(kind))


def _select(graph: Graph, equation: Any, which: Operand, *cases: Operand) -> Operand:
    if len(cases) != 2 or np.dtype(equation.invars[0].aval.dtype) != np.bool_:
        raise UserError("a choice among more than two values has no ONNX form here: export with --to stablehlo")
    return graph.add("Where", which, cases[1], cases[0], shape=_joint(which, *cases))


def _clamp(graph: Graph, equation: Any, low: Operand, x: Operand, high: Operand) -> Operand:
    above = graph.add("Max", x, low, shape=_joint(x, low))
    return graph.add("Min", above, high, shape=_joint(above, high))


def _alone(graph: Graph, equation: Any, x: Operand) -> Operand:
    return x


ELEMENTWISE: dict[str, Callable[..., Operand]] = {name: _same(op) for name, op in SAME.items()} | {
    "square": _square,
    "rsqrt": _rsqrt,
    "erfc": _erfc,
    "integer_pow": _integer_pow,
    "convert_element_type": _cast,
    "select_n": _select,
    "clamp": _clamp,
    "stop_gradient": _alone,
    "copy": _alone,
}
"""Primitives whose operands may be narrower than the jaxpr says (see `Tensor`)."""


def broadcast(graph: Graph, equation: Any, x: Operand) -> Operand:
    """Insert axes of length 1; nodes that need the full length ask for it (`Graph.widened`)."""
    target = equation.params["shape"]
    shape: list[Any] = [1] * len(target)
    for axis, place in enumerate(equation.params["broadcast_dimensions"]):
        shape[place] = x.shape[axis]
    return graph.reshape(x, tuple(shape))


def _reshape(graph: Graph, equation: Any, x: Operand) -> Operand:
    return graph.reshape(x, equation.outvars[0].aval.shape)


def _transpose(graph: Graph, equation: Any, x: Operand) -> Operand:
    return graph.transpose(x, equation.params["permutation"])


def _concatenate(graph: Graph, equation: Any, *given: Operand) -> Operand:
    return graph.add("Concat", *given, shape=equation.outvars[0].aval.shape, axis=int(equation.params["dimension"]))


def _stack(graph: Graph, equation: Any, *given: Operand) -> Operand:
    shape, axis = equation.outvars[0].aval.shape, int(equation.params["axis"])
    thin = (*shape[:axis], 1, *shape[axis + 1 :])
    return graph.add("Concat", *(graph.reshape(one, thin) for one in given), shape=shape, axis=axis)


def _split(graph: Graph, equation: Any, x: Operand) -> list[Operand]:
    axis, start, found = int(equation.params["axis"]), 0, []
    for size, out in zip(equation.params["sizes"], equation.outvars, strict=True):
        found.append(sliced(graph, x, {axis: (start, start + size, 1)}, out.aval.shape))
        start += size
    return found


def _slice(graph: Graph, equation: Any, x: Operand) -> Operand:
    params, rank = equation.params, len(x.shape)
    strides = params["strides"] or (1,) * rank
    bounds = zip(params["start_indices"], params["limit_indices"], strides, x.shape, strict=True)
    axes = {
        axis: (start, stop, step)
        for axis, (start, stop, step, n) in enumerate(bounds)
        if (start, step) != (0, 1) or stop != n
    }
    return sliced(graph, x, axes, equation.outvars[0].aval.shape)


def sliced(graph: Graph, x: Operand, axes: dict[int, tuple[int, int, int]], shape: Shape) -> Operand:
    """Take {axis: (start, stop, step)} of a tensor."""
    if not axes:
        return x
    starts, stops, steps = (graph.numbers(column) for column in zip(*axes.values(), strict=True))
    return graph.add("Slice", x, starts, stops, graph.numbers([*axes]), steps, shape=shape)


def _pad(graph: Graph, equation: Any, x: Operand, value: Operand) -> Operand:
    low, high, inner = zip(*equation.params["padding_config"], strict=True)
    if any(inner) or min(*low, *high) < 0:
        raise UserError("padding between values, or cutting by it, has no ONNX form here: export with --to stablehlo")
    return graph.add("Pad", x, graph.numbers([*low, *high]), value, shape=equation.outvars[0].aval.shape)


def _reduced(op: str) -> Callable[..., Operand]:
    def reduce(graph: Graph, equation: Any, x: Operand) -> Operand:
        axes, shape = list(map(int, equation.params["axes"])), equation.outvars[0].aval.shape
        if op == "ReduceSum":  # its axes have been an input since opset 13, those of the others since 18
            return graph.add(op, x, graph.numbers(axes), shape=shape, keepdims=0)
        return graph.add(op, x, shape=shape, axes=axes, keepdims=0)

    return reduce


def _any(graph: Graph, equation: Any, x: Operand) -> Operand:
    """Whether one of several is true: ONNX has no maximum of booleans."""
    import onnx

    numbers = graph.add("Cast", x, shape=x.shape, to=int(onnx.TensorProto.FLOAT))
    axes, shape = list(map(int, equation.params["axes"])), equation.outvars[0].aval.shape
    most = graph.add("ReduceMax", numbers, shape=shape, axes=axes, keepdims=0)
    return graph.add("Cast", most, shape=shape, to=int(onnx.TensorProto.BOOL))


OPERATORS: dict[str, Callable[..., Operand | list[Operand]]] = {
    **ELEMENTWISE,
    "reshape": _reshape,
    "squeeze": _reshape,
    "transpose": _transpose,
    "concatenate": _concatenate,
    "stack": _stack,
    "split": _split,
    "slice": _slice,
    "gather": gather,
    "top_k": top_k,
    "argmax": argmax,
    "pad": _pad,
    "reduce_sum": _reduced("ReduceSum"),
    "reduce_max": _reduced("ReduceMax"),
    "reduce_min": _reduced("ReduceMin"),
    "reduce_or": _any,
    "dot_general": dot_general,
    "conv_general_dilated": conv,
    "reduce_window_max": max_pool,
}
