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

Runner = Callable[..., Mapping[str, Any]]
"""A function of an array for each input."""
Batch = tuple[np.ndarray, ...]


def batches(program: Program, known: Mapping[str, np.ndarray] | None = None) -> list[Batch]:
    """Return the inputs of a comparison in batches of several sizes: those that are known, the others random.

    Args:
      known: {name of an input: its array}; the shortest says how many there are.
    """
    rng = np.random.default_rng(0)
    own = {one.name: known[one.name] for one in program.inputs if known and one.name in known}
    count = min(map(len, (own or known or {}).values()), default=sum(BATCHES))
    arrays = [own[one.name] if one.name in own else one.random(count, rng) for one in program.inputs]
    cuts = [slice(0, 1), slice(1, count)] if count > 1 else [slice(0, 1)]
    return [tuple(array[cut] for array in arrays) for cut in cuts]


def passed_on(program: Program, given: Sequence[Batch], to: Sequence[Program]) -> dict[str, np.ndarray]:
    """Return the outputs of a program that others take as inputs, for these inputs."""
    names = {one.name for other in to for one in other.inputs}.intersection(program.about["outputs"])
    if not names:
        return {}
    found = [jax.jit(program.run)(dict(program.flat), *batch) for batch in given]
    return {name: np.concatenate([np.asarray(one[name]) for one in found]) for name in names}


def difference(program: Program, run: Runner, given: Sequence[Batch]) -> dict[str, float]:
    """Return the largest difference of each output, relative to the largest value of ours."""
    ours = jax.jit(program.run)
    worst = dict.fromkeys(program.about["outputs"], 0.0)
    with jax.default_matmul_precision("highest"):
        for batch in given:
            found, wanted = run(*batch), ours(dict(program.flat), *batch)
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


def compared(
    programs: Sequence[Program], runners: Sequence[Runner], given: np.ndarray | None, runtime: str, limit: float
) -> list[dict[str, float]]:
    """Return the largest differences of each program of a model, which takes the outputs of those before it.

    Args:
      given: images for the first program; None for random ones.

    Raises:
      UserError: for a difference above the limit.
    """
    known, found = {} if given is None else {programs[0].inputs[0].name: given}, []
    for program, run in zip(programs, runners, strict=True):
        some = batches(program, known)
        found.append(difference(program, run, some))
        refuse(found[-1], runtime, limit)
        known |= passed_on(program, some, programs)
    return found


def onnxruntime(file: Path, threads: int = 0) -> Runner:
    """Return a function that runs an ONNX file on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_outputs()]
    keys = [one.name for one in session.get_inputs()]
    return lambda *arrays: dict(zip(names, session.run(names, dict(zip(keys, arrays, strict=True))), strict=True))
