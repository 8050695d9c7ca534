"""Write a program as an ONNX file, with its batch free and what a user must know in its metadata."""

import json
from pathlib import Path
from typing import Any

import numpy as np

import jaxdino
from jaxdino.core.errors import UserError
from jaxdino.serving.program import Program
from jaxdino.serving.to_onnx.walk import convert

OPSET, IR = 17, 8
"""LayerNormalization came with 17; runtimes of the last years read both."""
BATCH = "batch"
LARGE = 1_800_000_000
"""Bytes of weights from which they stand in a file beside: a protobuf has at most 2 GB."""
METADATA = "jaxdino"


def write(program: Program, folder: Path) -> Path:
    """Write `model.onnx` (the program's name) into a folder; weights beyond 1.8 GB go into a file beside it.

    Raises:
      UserError: without the package onnx, and for a program that has no ONNX form.
    """
    check_installed()
    import onnx

    if any(isinstance(length, str) for one in program.inputs for length in one.sides):
        raise UserError("--resize is for --to stablehlo: ONNX images have the model's size, as the JSON says")
    given = {one.name: shape for one, shape in zip(program.inputs, program.shapes(BATCH), strict=True)}
    flat = {path: np.asarray(value) for path, value in program.flat.items()}
    if wrong := sorted({str(value.dtype) for value in flat.values() if value.dtype.itemsize < 4}):
        raise UserError(f"weights of {wrong[0]} have no ONNX form here: export float32, --int8 makes it small")
    graph, outputs, shapes = convert(program.run, flat, given)
    graph.reached([one.name for one in map(_tensor, outputs.values())])
    nodes = [
        onnx.helper.make_node(node.op, list(node.inputs), list(node.outputs), name=node.outputs[0], **node.attributes)
        for node in graph.nodes
    ]
    nodes += [onnx.helper.make_node("Identity", [_tensor(one).name], [name]) for name, one in outputs.items()]
    constants = [onnx.numpy_helper.from_array(value, name) for name, value in graph.constants.items()]
    made = onnx.helper.make_model(
        onnx.helper.make_graph(
            nodes,
            program.about["model"],
            [_info(name, one) for name, one in given.items()],
            [_info(name, shapes[name]) for name in program.about["outputs"]],
            constants,
        ),
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
        ir_version=IR,
        producer_name="jaxdino",
        producer_version=jaxdino.__version__,
    )
    large = sum(value.nbytes for value in graph.constants.values()) > LARGE
    target = folder / f"{program.name}.onnx"
    if large:
        onnx.save(made, target, save_as_external_data=True, location=f"{target.name}.data")
    else:
        onnx.checker.check_model(made)
        onnx.save(made, target)
    return target


def tell(file: Path, about: dict[str, Any]) -> None:
    """Write what a user must know into a model's metadata: one JSON text, and the classes by themselves."""
    import onnx

    model = onnx.load(file, load_external_data=False)
    onnx.helper.set_model_props(model, {METADATA: json.dumps(about), "classes": json.dumps(about["classes"])})
    onnx.save(model, file)


def check_installed() -> None:
    """Raise UserError without onnx and onnxruntime."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError as err:
        raise UserError(f"ONNX is written and checked with {err.name}: pip install 'jaxdino[export]'") from None


def _tensor(one: Any) -> Any:
    if not hasattr(one, "name") or not one.name:
        raise UserError("an output does not depend on the inputs: ONNX export cannot give it")
    return one


def _info(name: str, like: Any) -> Any:
    import onnx

    shape = [int(n) if isinstance(n, int | np.integer) else str(n) for n in like.shape]
    return onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(np.dtype(like.dtype)), shape)
