"""The folder of a step that is not finite: its state, batch and settings, enough to take it again."""

import dataclasses
import os
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors.numpy import load_file, save_file

from jaxdino.core.errors import UserError
from jaxdino.core.json_file import JsonError, read_json, write_json
from jaxdino.train.checkpoint import flatten
from jaxdino.train.recorded import CONFIG, plain

STATE, BATCH, STEP = "state.safetensors", "batch.npz", "step.json"


@dataclasses.dataclass(frozen=True)
class BadStep:
    """A step to take again.

    Attributes:
      step: its number in the run, from 1. stage: name of its stage. stage_step: its number in the stage.
      seed: seed of the stage; the random key is in the state. images: name of the image of each row of the batch.
      not_finite: what was not finite after the step: "loss", "gradient", ...
    """

    step: int
    stage: str
    stage_step: int
    seed: int
    images: list[str]
    not_finite: list[str]


def save(folder: Path, about: BadStep, config: Any, state: Any, batch: dict[str, np.ndarray]) -> None:
    """Write the folder, in place of an earlier one; it is complete or not there.

    Args:
      config: the run's settings, as the setup resolved them. state: {"moving", "frozen"} before the step, on the host.
      batch: the arrays of the whole batch, as they were sent to the devices.
    """
    beside = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir()
    save_file({name: np.asarray(leaf, order="C") for name, leaf in flatten(state).items()}, beside / STATE)
    np.savez(beside / BATCH, **batch)
    write_json(beside / CONFIG, plain(config))
    write_json(beside / STEP, dataclasses.asdict(about))
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(beside, folder)


def load(folder: Path) -> tuple[BadStep, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return (what is known of the step, leaves of the state by name, the batch).

    Raises:
      UserError: if this is not such a folder, or it is damaged.
    """
    missing = [name for name in (STATE, BATCH, STEP, CONFIG) if not (folder / name).is_file()]
    if missing:
        raise UserError(
            f"{folder} is not a folder of a step that is not finite ({missing[0]} is missing): give a nan_stepN of a "
            "run with --config.debug.nan=True"
        )
    try:
        about = BadStep(**read_json(folder / STEP, dict))
        with np.load(folder / BATCH) as found:
            batch = dict(found)
        return about, load_file(folder / STATE), batch
    except (JsonError, TypeError, ValueError, OSError) as err:
        raise UserError(f"{folder} is damaged: {err}") from None


def as_tree(leaves: dict[str, np.ndarray], like: Any) -> Any:
    """Return the state as a tree like `like`. Raises UserError if the leaves are others."""
    wanted = flatten(like)
    for name, leaf in wanted.items():
        if name not in leaves or leaves[name].shape != tuple(leaf.shape):
            raise UserError(
                f"the state in the folder does not fit its config ({name}): was it written by another version?"
            )
    return jax.tree.unflatten(jax.tree.structure(like), [leaves[name] for name in wanted])
