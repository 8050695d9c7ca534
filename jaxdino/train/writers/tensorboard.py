"""TensorBoard: event files in the run's folder, written by tensorboardX."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxdino.train.writers.writer import Target

FOLDER = "events"


def _imported() -> Any:
    """Import tensorboardX without torch, which it would import for torch's tensors: a fifth of the time of a start."""
    hidden = {} if "torch" in sys.modules else {"torch": None}
    sys.modules.update(hidden)  # type: ignore[arg-type]
    try:
        import tensorboardX
    finally:
        for name in hidden:
            del sys.modules[name]
    return tensorboardX


class TensorBoard:
    """Write events. Those of an earlier start are removed and written again, so that nothing appears twice."""

    def __init__(self, target: Target):
        self.reached, self.kept, self._step = 0, {}, 0
        for old in (target.folder / FOLDER).glob("events.*"):
            old.unlink()
        self._events = _imported().SummaryWriter(str(target.folder / FOLDER))
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
