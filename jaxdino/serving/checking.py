"""Compare an artefact with the model that it was made of, on the same images."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxdino.core.errors import UserError
from jaxdino.serving.program import Program

LIMIT = 1e-4
"""Largest difference of an output, relative to its largest value."""
HALF_LIMIT = 5e-2
"""The same for programs in half precision, whose rounding depends on how they are compiled."""
BATCHES = (1, 3)
"""Batch sizes that are run, since the batch is free."""

Runner = Callable[[np.ndarray], Mapping[str, Any]]


def batches(program: Program, given: np.ndarray | None = None) -> list[np.ndarray]:
    """Return the images of a comparison: those given, in batches of several sizes, or random ones."""
    rng = np.random.default_rng(0)
    if given is None:
        return [program.images(count, rng) for count in BATCHES]
    return [given[:1], given[1:]] if len(given) > 1 else [given]


def difference(program: Program, run: Runner, images: Sequence[np.ndarray]) -> dict[str, float]:
    """Return the largest difference of each output, relative to the largest value of ours."""
    ours = jax.jit(program.run)
    worst = dict.fromkeys(program.about["outputs"], 0.0)
    with jax.default_matmul_precision("highest"):
        for batch in images:
            found, wanted = run(batch), ours(dict(program.flat), batch)
            for name in worst:
                right, theirs = np.asarray(wanted[name]), np.asarray(found[name])
                if right.shape != theirs.shape:
                    raise UserError(f"{name} has the shape {theirs.shape} in the artefact and {right.shape} here")
                largest = max(float(np.abs(right).max()), 1e-30)
                one = float(np.abs(right - theirs).max()) / largest
                worst[name] = max(worst[name], one) if one == one else float("nan")
    return worst


def refuse(found: Mapping[str, float], runtime: str, limit: float = LIMIT) -> float:
    """Return the largest difference. Raise UserError if it is above the limit, or not finite."""
    for name, value in found.items():
        if not value <= limit:
            raise UserError(
                f"{name} in {runtime} differs by {value:.1e} of its largest value, more than {limit:.0e}: nothing was "
                "written. --no-verify writes it all the same"
            )
    return max(found.values())


def onnxruntime(file: Path, threads: int = 0) -> Runner:
    """Return a function that runs an ONNX file on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_outputs()]
    key = session.get_inputs()[0].name
    return lambda images: dict(zip(names, session.run(names, {key: images}), strict=True))
