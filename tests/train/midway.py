"""What a process that is killed in mid-run leaves, without a process: a copy of the run's folder."""

import shutil
import time
from pathlib import Path

from jaxdino.train.run_lock import LOCK


class Midway:
    """Copy a run's folder after some steps, as `on_step` of the run: checkpoints may be being written, as at a kill.

    The lock stays behind: its owner, this process, lives on. `test_run_lock.py` is about locks of dead processes.

    Args:
      copies: {step: the folder to make}.
      saved: the step of a checkpoint; before each copy, wait until it is whole.
    """

    def __init__(self, folder: Path, copies: dict[int, Path], saved: int | None = None):
        self.folder, self.copies, self.saved = folder, copies, saved

    def __call__(self, step: int) -> None:
        """Copy if it is time; again if a file went away meanwhile, since that is no moment in the folder's life."""
        if self.saved and step in self.copies:
            end = time.monotonic() + 120
            while not (self.folder / "checkpoints" / str(self.saved)).exists() and time.monotonic() < end:
                time.sleep(0.02)
        while step in self.copies:
            try:
                shutil.copytree(self.folder, self.copies[step], ignore=shutil.ignore_patterns(f"{LOCK}*"))
                return
            except (shutil.Error, FileNotFoundError):
                shutil.rmtree(self.copies[step])
