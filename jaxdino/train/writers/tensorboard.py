"""TensorBoard: event files in the run's folder, written by tensorboardX."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from jaxdino.train.writers.writer import Target

FOLDER = "events"


class TensorBoard:
    """Write events. Those of an earlier start are removed and written again, so that nothing appears twice."""

    def __init__(self, target: Target):
        from tensorboardX import SummaryWriter

        self.reached, self.kept, self._step = 0, {}, 0
        for old in (target.folder / FOLDER).glob("events.*"):
            old.unlink()
        self._events = SummaryWriter(str(target.folder / FOLDER))
        lines = json.dumps(target.config, indent=1).splitlines()
        self._events.add_text("config", "\n".join(f"    {line}" for line in lines), 0)

    def write(self, values: Mapping[str, float], step: int, time: float) -> None:
        """Add a scalar for each metric."""
        self._step = step
        for name, number in values.items():
            self._events.add_scalar(name, number, step, time)

    def finish(self, summary: Mapping[str, float], files: Sequence[Path]) -> None:
        """Add the results as scalars of the last step; files are not copied, they are in the same folder."""
        self.write(summary, self._step, 0.0)

    def close(self, finished: bool) -> None:
        """Flush and close the files."""
        try:
            self._events.close()
        except OSError:
            self._events.all_writers = None  # or it is closed once more when the interpreter ends, and fails again
            raise
