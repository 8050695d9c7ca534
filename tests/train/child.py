"""Runs as processes of their own, on one device: the programs are those that runs of the suite itself compiled."""

import os
from pathlib import Path

ROOT = Path(__file__).parents[2]


def environment() -> dict[str, str]:
    """The variables of such a process; the modules of this folder can be imported in it."""
    return os.environ | {"PYTHONPATH": f"{ROOT}:{Path(__file__).parent}"}
