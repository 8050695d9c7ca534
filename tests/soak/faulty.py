"""A reader that crashes, hangs, raises, leaks or says too much, to test the suite itself."""

import ctypes
import time
from pathlib import Path

import numpy as np

from jaxdino.core.errors import UserError

FAULTS = ("fine", "crash", "hang", "raise", "memory", "control", "refuse")
_held: list[np.ndarray] = []


def make(folder: Path, rng: np.random.Generator) -> None:
    """Write a file for each fault."""
    for name in FAULTS:
        (folder / f"{name}.txt").write_text(name)


def read(folder: Path, changed: Path) -> None:
    """Do what the changed file is called."""
    fault = changed.stem
    if fault == "crash":
        ctypes.string_at(0)
    elif fault == "hang":
        time.sleep(60)
    elif fault == "raise":
        raise KeyError(fault)
    elif fault == "memory":
        _held.append(np.ones(300 << 17))  # 300 MB
    elif fault == "control":
        err = UserError("")
        err.args = ("\x1b[31m",)
        raise err
    elif fault == "refuse":
        raise UserError("refused")
