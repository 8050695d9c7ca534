"""Finished batches of the long parts of an evaluation, on the disk: a call that was killed goes on."""

import dataclasses
import shutil
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

import jaxdino
from jaxdino.core.errors import UserError
from jaxdino.core.json_file import JsonError, finite, read_json, write_json
from jaxdino.data.identity import identify
from jaxdino.data.record import Split
from jaxdino.evaluation.finished_run import FinishedRun

FOLDER, FILE, KIND = "evaluation.unfinished", "manifest.json", "jaxdino evaluation, unfinished"
CODE = 1
"""Version of the code that computes the arrays: raised when the same images would give others."""
Arrays = dict[str, np.ndarray]


class Kept:
    """Arrays of finished batches by name. The folder is made with the first of them, and deleted by `done`.

    Args:
      folder: of the report; the arrays are in `FOLDER` in it.
      made: returns what the arrays depend on, as values of JSON. `say` names what differs in arrays that are not used.
    """

    def __init__(self, folder: Path, made: Callable[[], Mapping[str, Any]], say: Callable[[str], None]):
        self.folder, self._say, self._checked = folder / FOLDER, say, False
        self._now, self._made = made, {}

    def __call__(self, name: str, work: Callable[[], Arrays]) -> Arrays:
        """Return the arrays of a batch: those on the disk, or else what `work` computes, which is then written.

        Raises:
          UserError: if the folder holds something else, or cannot be written.
        """
        if not self._checked:
            self._check()
        file = self.folder / f"{name}.npz"
        try:
            with np.load(file, allow_pickle=False) as there:
                return {key: there[key] for key in there.files}
        except (OSError, ValueError, EOFError, zipfile.BadZipFile):  # not there, or cut off by a full disk
            found = work()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not (self.folder / FILE).exists():
                write_json(self.folder / FILE, self._made)
            draft = file.with_suffix(".part")
            with draft.open("wb") as out:
                np.savez(out, allow_pickle=False, **found)
            draft.replace(file)
        except OSError as err:
            raise UserError(f"{self.folder} cannot be written: {err}") from None
        return found

    def done(self) -> None:
        """Delete the folder: the report is written."""
        if self._checked:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _check(self) -> None:
        self._checked, self._made = True, {"kind": KIND, "code": CODE, **self._now()}
        if not self.folder.exists():
            return
        try:
            there = read_json(self.folder / FILE, dict)
        except (JsonError, OSError):
            there = {}
        if there.get("kind") != KIND:
            self._checked = False
            raise UserError(f"{self.folder} was not written by an evaluation: move it, or give another --out")
        if other := sorted(key for key in {*there, *self._made} if there.get(key) != self._made.get(key)):
            self._say(f"an evaluation that was stopped had another {', '.join(other)}: its batches are not used")
            shutil.rmtree(self.folder)
        elif count := sum(1 for _ in self.folder.glob("*.npz")):
            self._say(f"{count} batches are taken from an evaluation that was stopped ({self.folder})")


def made_of(run: FinishedRun, split: Split, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the errors of a run's model on a split depend on."""
    card = run.model.card
    one = dataclasses.replace(run.source, splits={split.name: split})
    made = {
        "model": run.model.digest,
        "thresholds": repr(card.head.choice),
        "preprocessing": dataclasses.asdict(card.spec.preprocess),
        "data": identify(one).splits[split.name],
        "jaxdino": jaxdino.__version__,
        **settings,
    }
    return finite(made)
