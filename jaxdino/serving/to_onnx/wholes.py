"""Functions of the models that become one ONNX node, or the nodes that runtimes recognise and compute as one.

Layer norm, GELU, softmax attention and ReLU: written as their primitives, runtimes pass over the memory once for each.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from jax.extend.core import Literal

from jaxdino.serving.to_onnx.graph import Constant, Graph, Operand


def _layer_norm(graph: Graph, equation: Any, inner: Any, *given: Operand) -> Operand | None:
    """`layer_norm(x, scale, bias, eps)` as LayerNormalization, whose sums are also float32."""
    x, scale, bias = (graph.widened(one, var.aval.shape) for one, var in zip(given, equation.invars, strict=True))
    added = [e for e in inner.jaxpr.eqns if e.primitive.name == "add"]
    eps = [float(one.val) for e in added for one in e.invars if isinstance(one, Literal)]
    if len(eps) != 1:
        return None
    return graph.add("LayerNormalization", x, scale, bias, shape=x.shape, axis=-1, epsilon=eps[0])


def _gelu(graph: Graph, equation: Any, inner: Any, x: Operand) -> Operand:
    """`gelu(x)` in the order of operations that onnxruntime, OpenVINO and TensorRT fuse."""
    shape = x.shape
    ratio = graph.add("Erf", graph.add("Div", x, _number(math.sqrt(2)), shape=shape), shape=shape)
    product = graph.add("Mul", x, graph.add("Add", ratio, _number(1), shape=shape), shape=shape)
    return graph.add("Mul", product, _number(0.5), shape=shape)


def _attention(graph: Graph, equation: Any, inner: Any, *given: Operand) -> Operand | None:
    """`attention(q, k, v)` without a mask as two products around a Softmax."""
    if any(e.primitive.name not in _PLAIN for e in inner.jaxpr.eqns):
        return None
    q, k, v = (graph.widened(one, var.aval.shape) for one, var in zip(given, equation.invars, strict=True))
    scaled = graph.add("Mul", q, _number(1 / math.sqrt(q.shape[-1])), shape=q.shape)
    scores = graph.add("MatMul", scaled, graph.transpose(k, (0, 1, 3, 2)), shape=(*q.shape[:-1], k.shape[-2]))
    weights = graph.add("Softmax", scores, shape=scores.shape, axis=-1)
    return graph.add("MatMul", weights, v, shape=(*q.shape[:-1], v.shape[-1]))


def _relu(graph: Graph, equation: Any, inner: Any, x: Operand) -> Operand:
    return graph.add("Relu", x, shape=x.shape)


def _number(value: float) -> Constant:
    return Constant(np.array(value, np.float32))


_PLAIN = {"mul", "dot_general", "reduce_max", "broadcast_in_dim", "sub", "exp", "reduce_sum", "div"}
"""Primitives of attention without a mask."""

WHOLES: dict[str, Callable[..., Operand | None]] = {
    "layer_norm": _layer_norm,
    "gelu": _gelu,
    "_attention": _attention,
    "relu": _relu,
}
"""{name of the function: its nodes}; None where it is used in another way, and its primitives are walked."""
