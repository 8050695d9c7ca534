"""Reader of run folders: a stopped run, and everything that a resumed run reads before it trains."""

import contextlib
import functools
import io
from pathlib import Path

from jaxdino.data.config import DataConfig
from jaxdino.data.record import Source
from jaxdino.data.sources import load_source
from jaxdino.train.checkpoint import Checkpoints
from jaxdino.train.data_record import DataRecord
from jaxdino.train.loop import run
from jaxdino.train.metric_log import MetricLog
from jaxdino.train.progress import Progress
from jaxdino.train.workdir import Workdir
from tests.soak.mutators import Rng
from tests.train import tiny

CONFIG = tiny.config(2, batch_size=128, checkpoint__every_steps=1)
DIGITS = DataConfig(name="few_digits", num_threads=0)


def make_run(folder: Path, rng: Rng) -> None:
    """Write the folder of a run of two epochs, with a summary."""
    with contextlib.redirect_stdout(io.StringIO()):
        run(tiny.config(2, batch_size=128, checkpoint__every_steps=1), folder / "run")


@functools.cache
def source() -> Source:
    """Return the data of the run."""
    return load_source(DIGITS)


def silent(line: str) -> None:
    """Say nothing."""


def read_run(folder: Path, changed: Path) -> None:
    """Read what a resumed run reads, in the order in which it does."""
    work = Workdir(folder / "run", CONFIG)
    with contextlib.redirect_stdout(io.StringIO()):
        _ = work.finished and work.advice()
        work.open()
        record = DataRecord(work, DIGITS, silent)
        record.check("data", source())
        checkpoints = Checkpoints(work / "checkpoints", 2, silent)
        try:
            saved = checkpoints.latest()
        finally:
            checkpoints.close()
        log = MetricLog(work.folder, Progress.of(saved[1]) if saved else Progress(), silent)
        log.close()
        work.records()
        work.lock.release()
