"""Convolutions and max pooling: ONNX has channels second, jaxdino last."""

from collections.abc import Sequence
from typing import Any

from jaxdino.core.errors import UserError
from jaxdino.serving.to_onnx.graph import Graph, Operand


def conv(graph: Graph, equation: Any, x: Operand, kernel: Operand) -> Operand:
    """Convolve; any order of axes, strides, dilated kernels and groups."""
    params = equation.params
    axes = params["dimension_numbers"]
    if params["batch_group_count"] != 1 or set(params["lhs_dilation"]) != {1}:
        raise UserError("a transposed convolution has no ONNX form here: export with --to stablehlo")
    x, kernel = graph.transpose(x, axes.lhs_spec), graph.transpose(kernel, axes.rhs_spec)
    found = graph.add(
        "Conv",
        x,
        kernel,
        shape=_ordered(equation.outvars[0].aval.shape, axes.out_spec),
        strides=_ints(params["window_strides"]),
        dilations=_ints(params["rhs_dilation"]),
        pads=_pads(params["padding"]),
        group=int(params["feature_group_count"]),
    )
    return graph.transpose(found, _inverse(axes.out_spec))


def max_pool(graph: Graph, equation: Any, x: Operand) -> Operand:
    """Take the maxima of windows over the middle axes of (B, H, W, C)."""
    params, rank = equation.params, len(x.shape)
    window, strides, padding = (params[name] for name in ("window_dimensions", "window_strides", "padding"))
    dilated = {*params["base_dilation"], *params["window_dilation"]} != {1}
    if dilated or rank != 4 or any(window[axis] != 1 or strides[axis] != 1 for axis in (0, 3)):
        raise UserError("this max pooling has no ONNX form here: export with --to stablehlo")
    order = (0, 3, 1, 2)
    found = graph.add(
        "MaxPool",
        graph.transpose(x, order),
        shape=_ordered(equation.outvars[0].aval.shape, order),
        kernel_shape=_ints(window[1:3]),
        strides=_ints(strides[1:3]),
        pads=_pads(padding[1:3]),
    )
    return graph.transpose(found, _inverse(order))


def _ordered(shape: Sequence[Any], order: Sequence[int]) -> tuple[Any, ...]:
    return tuple(shape[axis] for axis in order)


def _inverse(order: Sequence[int]) -> list[int]:
    return [list(order).index(axis) for axis in range(len(order))]


def _ints(values: Sequence[Any]) -> list[int]:
    return [int(value) for value in values]


def _pads(padding: Sequence[Sequence[Any]]) -> list[int]:
    return [int(pair[0]) for pair in padding] + [int(pair[1]) for pair in padding]
