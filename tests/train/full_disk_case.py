"""A tiny run whose files may not grow beyond a size from some step on: `python full_disk_case.py DIR BYTES STEP`."""

import resource
import sys

import tiny

from jaxdino.core.command import finish
from jaxdino.train.loop import run
from tests import one_device

one_device.use()
folder, limit, at = sys.argv[1], *map(int, sys.argv[2:])


def on_step(step: int) -> None:
    """Lower the limit."""
    if step == at:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))


sys.exit(finish(lambda: run(tiny.config(1, batch_size=128, checkpoint__every_steps=1), folder, on_step) and None))
