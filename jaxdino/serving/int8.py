"""Quantise an ONNX file to int8 with onnxruntime, and count what runs in integers afterwards."""

import contextlib
import logging
import math
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxdino.core.errors import UserError
from jaxdino.serving.checking import Runner

KINDS = ("dynamic", "static")
PRODUCTS = ("MatMul", "Gemm", "Conv")
INTEGER = {
    "ConvInteger",
    "DynamicQuantizeMatMul",
    "MatMulInteger",
    "MatMulIntegerToFloat",
    "QGemm",
    "QLinearConv",
    "QLinearMatMul",
}
"""Nodes that onnxruntime computes in integers."""
SHARE = 0.5
"""Least share of the weights of products in int8, with which a model is called quantised."""
SECONDS, LEAST, MOST = 4.0, 10, 200
"""Each model is timed for so long, for so many passes."""


def quantise(source: Path, target: Path, kind: str, calibration: Sequence[np.ndarray] = ()) -> dict[str, Any]:
    """Write the int8 form of an ONNX file: the weights of matrix products and convolutions per output channel.

    Args:
      kind: "dynamic": the range of activations is measured when it runs, matrix products alone; "static": measured here
        on the batches in `calibration`, convolutions too.

    Returns:
      {"products": in the source, "integer": {node: count} as onnxruntime runs it, "weights": the share in int8}.

    Raises:
      UserError: if less than `SHARE` of the weights of products was quantised, or nothing is computed in integers.
    """
    from onnxruntime import quantization

    how: dict[str, Any] = {"per_channel": True, "weight_type": quantization.QuantType.QInt8}
    how["extra_options"] = {"MatMulConstBOnly": True}  # products of two activations, in attention, stay in float32
    with _quiet():
        if kind == "dynamic":
            quantization.quantize_dynamic(source, target, op_types_to_quantize=["MatMul", "Gemm"], **how)
        else:
            quantization.quantize_static(
                source,
                target,
                _Reader(calibration),
                op_types_to_quantize=list(PRODUCTS),
                nodes_to_exclude=[name for name, weights in _products(source).items() if not weights],
                activation_type=quantization.QuantType.QUInt8,
                **how,
            )
    integer, products, share = integer_nodes(target), sum(_products(source).values()), _share(source, target)
    if not integer or share < SHARE:
        raise UserError(
            f"{sum(integer.values())} of the {products} products of this model, with {100 * share:.0f} % of their "
            f"weights, are computed in int8 after --int8 {kind}, so it is not called quantised and nothing was written"
            + (": --int8 static also takes convolutions" if kind == "dynamic" else "")
        )
    return {"products": products, "integer": integer, "weights": share}


def _share(source: Path, target: Path) -> float:
    """Return how much of the weights of the products in `source` is int8 in `target`."""
    import onnx

    before, after = (onnx.load(file, load_external_data=False).graph for file in (source, target))
    sizes = {one.name: math.prod(one.dims) for one in before.initializer}
    used = {node.input[1] for node in before.node if node.op_type in PRODUCTS}
    total = sum(size for name, size in sizes.items() if name in used)
    small = sum(math.prod(one.dims) for one in after.initializer if one.data_type == onnx.TensorProto.INT8 and one.dims)
    return min(1.0, small / max(total, 1))


def integer_nodes(file: Path) -> dict[str, int]:
    """Return the nodes that onnxruntime computes in integers on this CPU, counted after its own optimisation."""
    import onnx
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = str(Path(folder) / "optimised.onnx")
        onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        model = onnx.load(options.optimized_model_filepath)
    found = Counter(node.op_type for node in model.graph.node)
    return {name: found[name] for name in sorted(INTEGER) if found[name]}


def _products(file: Path) -> dict[str, bool]:
    """Return the matrix products and convolutions of a model by name, and whether each is one with weights."""
    import onnx

    graph = onnx.load(file, load_external_data=False).graph
    weights = {one.name for one in graph.initializer}
    return {node.name: node.input[1] in weights for node in graph.node if node.op_type in PRODUCTS}


def latency(runners: Sequence[Runner], images: np.ndarray) -> list[float]:
    """Return the median seconds of a pass of each model, timed in turns so that other work slows them alike."""
    times: list[list[float]] = [[] for _ in runners]
    begun = time.perf_counter()
    while len(times[0]) < LEAST or (len(times[0]) < MOST and time.perf_counter() - begun < SECONDS):
        for run, found in zip(runners, times, strict=True):
            start = time.perf_counter()
            run(images)
            found.append(time.perf_counter() - start)
    return [float(np.median(found[2:])) for found in times]


class _Reader:
    """The images of a calibration, one batch a call, as onnxruntime asks for them."""

    def __init__(self, batches: Sequence[np.ndarray]):
        self.batches = iter(batches)

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self.batches, None)
        return None if batch is None else {"images": batch}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Leave out the advice to preprocess the graph, which the exporter has simplified already."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
