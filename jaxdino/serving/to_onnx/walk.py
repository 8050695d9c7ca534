"""Walk a jaxpr: evaluate what is known, go into calls, and turn every other equation into ONNX nodes."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal

from jaxdino.core.errors import UserError
from jaxdino.serving.to_onnx.graph import Constant, Graph, Operand, Tensor
from jaxdino.serving.to_onnx.operators import ELEMENTWISE, OPERATORS, broadcast
from jaxdino.serving.to_onnx.wholes import WHOLES


def convert(
    function: Callable[..., Mapping[str, jax.Array]],
    flat: Mapping[str, np.ndarray],
    inputs: Mapping[str, jax.ShapeDtypeStruct],
) -> tuple[Graph, dict[str, Operand], dict[str, jax.ShapeDtypeStruct]]:
    """Convert (parameters, inputs) -> outputs by name into a graph whose constants are the parameters.

    Args:
      inputs: {name: shape and dtype} of the inputs in order, their first axis the same symbolic batch.

    Returns:
      The graph, and the operand and the shape of each output.

    Raises:
      UserError: for a primitive that has no ONNX nodes here.
    """
    shapes = {path: jax.ShapeDtypeStruct(value.shape, value.dtype) for path, value in flat.items()}
    closed, out = jax.make_jaxpr(function, return_shape=True)(shapes, *inputs.values())
    first = next(iter(inputs))
    graph = Graph(inputs[first].shape[0], first)
    given: list[Operand] = [Constant(np.asarray(flat[path]), path) for path in sorted(flat)]
    given += [Tensor(name, one.shape) for name, one in inputs.items()]
    found = walk(graph, closed.jaxpr, [Constant(np.asarray(one)) for one in closed.consts], given)
    names = sorted(out)
    whole = [graph.widened(one, out[name].shape) for one, name in zip(found, names, strict=True)]
    return graph, dict(zip(names, whole, strict=True)), dict(out)


def walk(graph: Graph, jaxpr: Any, constants: Sequence[Operand], given: Sequence[Operand]) -> list[Operand]:
    """Add the nodes of a jaxpr; return its outputs."""
    values = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*constants, *given), strict=True))

    def read(one: Any) -> Operand:
        return _literal(one) if isinstance(one, Literal) else values[one]

    for equation in jaxpr.eqns:
        found = _equation(graph, equation, [read(one) for one in equation.invars])
        values.update(zip(equation.outvars, found, strict=True))
    return [read(one) for one in jaxpr.outvars]


def _literal(one: Any) -> Constant:
    """Return a number of the jaxpr, in the dtype that it has there: a Python number has none of its own."""
    return Constant(np.asarray(one.val, one.aval.dtype))


def _equation(graph: Graph, equation: Any, given: list[Operand]) -> list[Operand]:
    name, params = equation.primitive.name, equation.params
    if name == "platform_index":  # of code for several platforms, that for all others
        return [Constant(np.array(params["platforms"].index(None), np.int32))]
    if name == "cond" and isinstance(given[0], Constant):
        return _inside(graph, params["branches"][int(given[0].value)], given[1:])
    inner = params.get("call_jaxpr", params.get("jaxpr"))
    if inner is not None and name not in ("while", "scan"):
        whole = WHOLES.get(str(getattr(inner, "jaxpr", inner).debug_info.func_name))
        made = whole and not all(isinstance(one, Constant) for one in given) and whole(graph, equation, inner, *given)
        return [made] if made else _inside(graph, inner, given)
    if name == "broadcast_in_dim":
        return [broadcast(graph, equation, given[0])]
    if all(isinstance(one, Constant) for one in given) and (known := _evaluated(graph, equation, given)):
        return known
    if name not in OPERATORS:
        raise UserError(
            f"the primitive {name!r} has no ONNX form here: export with --to stablehlo, which takes every program"
        )
    if name not in ELEMENTWISE:
        given = [graph.widened(one, var.aval.shape) for one, var in zip(given, equation.invars, strict=True)]
    found = OPERATORS[name](graph, equation, *given)
    return found if isinstance(found, list) else [found]


def _inside(graph: Graph, inner: Any, given: Sequence[Operand]) -> list[Operand]:
    constants = [Constant(np.asarray(one)) for one in getattr(inner, "consts", ())]
    return walk(graph, getattr(inner, "jaxpr", inner), constants, given)


def _evaluated(graph: Graph, equation: Any, given: Sequence[Any]) -> list[Operand] | None:
    """Compute an equation of constants; None if its shape depends on the batch."""
    if equation.primitive.name in ELEMENTWISE:
        values = np.broadcast_arrays(*(one.value for one in given))
    elif any(graph.symbolic(n) for var in (*equation.invars, *equation.outvars) for n in var.aval.shape):
        return None
    else:
        shapes = [var.aval.shape for var in equation.invars]
        values = [np.broadcast_to(one.value, shape) for one, shape in zip(given, shapes, strict=True)]
    found = equation.primitive.bind(*map(jnp.asarray, values), **equation.params)
    found = found if equation.primitive.multiple_results else [found]
    return [Constant(np.asarray(one)) for one in found]
