"""Matrix products: `dot_general` as ONNX MatMul."""

from typing import Any

from jaxdino.serving.to_onnx.graph import Graph, Operand


def dot_general(graph: Graph, equation: Any, a: Operand, b: Operand) -> Operand:
    """Order the axes as batch, free, contracted, and multiply; several free or contracted axes become one."""
    (sum_a, sum_b), (batch_a, batch_b) = equation.params["dimension_numbers"]
    free_a, free_b = (
        [axis for axis in range(len(x.shape)) if axis not in (*sums, *batch)]
        for x, sums, batch in ((a, sum_a, batch_a), (b, sum_b, batch_b))
    )
    a = graph.transpose(a, [*batch_a, *free_a, *sum_a])
    b = graph.transpose(b, [*batch_b, *sum_b, *free_b])
    lead, count = a.shape[: len(batch_a)], len(batch_a)
    summed = graph.size(a.shape[count + len(free_a) :])
    rows, columns = a.shape[count : count + len(free_a)], b.shape[count + len(sum_b) :]
    plain = not lead and len(columns) == 1 and rows  # any number of rows times a matrix: ONNX takes them as they are
    a = graph.reshape(a, (*lead, *(rows if plain else (graph.size(rows),)), summed))
    b = graph.reshape(b, (*lead, summed, graph.size(columns)))
    shape = (*a.shape[:-1], b.shape[-1])
    return graph.reshape(graph.add("MatMul", a, b, shape=shape), equation.outvars[0].aval.shape)
