"""Runs as processes of their own: on one device, compiled as the suite compiles."""

import os
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def environment() -> dict[str, str]:
    """The variables of such a process; the modules of this folder can be imported in it."""
    flags = re.sub(r"device_count=\d+", "device_count=1", os.environ["XLA_FLAGS"])
    return os.environ | {"PYTHONPATH": f"{ROOT}:{Path(__file__).parent}", "XLA_FLAGS": flags}
