"""Train a planned run: in a process of its own, so that its memory is measured alone, or in this one."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from jaxdino.comparison.plan import PlannedRun
from jaxdino.core.errors import UserError
from jaxdino.train.stop import Stopped


def train(run: PlannedRun, config: Any, in_process: bool = False) -> str:
    """Train a run, or resume it; its output goes to the terminal. Return "" or why it failed.

    Both ways take the same config and give the same weights.

    Args:
      config: as `plan.checked` returns it.

    Raises:
      Stopped: after SIGTERM, when the process of the run has ended, even if the run was finished by then.
    """
    if not in_process:
        line = [sys.executable, "-m", "jaxdino.main", f"--config={run.config}", f"--workdir={run.folder}", *run.flags]
        child = subprocess.Popen(line)
        with _passed_on(child) as asked:
            status = child.wait()
        if asked:
            raise Stopped
        return "" if status == 0 else f"exit status {status}; its output is above"
    from jaxdino.train.loop import run as run_here

    try:
        run_here(config, run.folder, name=run.strategy)
    except UserError as err:
        return str(err)
    return ""


@contextmanager
def _passed_on(child: subprocess.Popen) -> Iterator[list[int]]:
    """Pass SIGTERM on to a run, which saves and ends; Ctrl-C reaches it from the terminal. Yields what was passed."""
    asked: list[int] = []

    def pass_on(number: int, _: Any) -> None:
        asked.append(number)
        child.terminate()

    signals = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.getsignal(number) for number in signals}
    try:
        signal.signal(signal.SIGTERM, pass_on)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        yield asked
    finally:
        for number, how in before.items():
            signal.signal(number, how)
