"""The run folder: the files of a run, and how the same command finds and resumes it.

config.json    the full resolved config
metrics.jsonl  one JSON object per line
run.lock       while a process writes here (`jaxdino.train.run_lock`)
pixels.json    the value range chosen for 16-bit images, and the measured mean and std, if there are any
data.json      what the data consists of, with data_files.gz (`jaxdino.train.data_record`)
summary.json   one entry per stage; the test metrics and the lines printed at the end
events/        the same numbers for TensorBoard; wandb/ and mlruns/ if these are chosen
writers.json   the ids of the run in Weights & Biases and MLflow (`jaxdino.train.writers`)
nan_stepN/     a step with values that are not finite (`jaxdino.train.not_finite`)
checkpoints/   to resume from          best/   the best model
stages/        the model at the start and after each stage, with checkpoint.stage_models
*.png          loss, learning rates, validation accuracy
report.html    the run as one page (`jaxdino.train.run_page`)
"""

import dataclasses
import json
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

from jaxdino.core import processes
from jaxdino.core.errors import UserError
from jaxdino.core.json_file import JsonError, read_json, write_json
from jaxdino.core.metric_names import renamed
from jaxdino.core.words import printable
from jaxdino.core.writable import check_writable
from jaxdino.train import metric_log, older_runs, writers
from jaxdino.train.metric_log import set_aside_name
from jaxdino.train.recorded import CONFIG, are_objects, named, plain, read_config
from jaxdino.train.run_lock import LOCK, RunLock
from jaxdino.train.writers import tensorboard

# Settings that may differ when a run is resumed: they affect how it is computed and logged, not its result.
FREE = ("mesh", "checkpoint", "log_every", "time_limit", "model.attention", "model.remat", "optimizer.accumulate")
FREE += ("data.num_workers", "data.num_threads", "data.max_missing")
FREE += ("data.follow_links", "data.digest", "data.accept_change", "writers", "tracking", "debug")
# Settings that may differ for the current stage and later ones; see `jaxdino.train.extend`.
SUMMARY = "summary.json"
STAGES = "stages"
FILES = (CONFIG, SUMMARY, metric_log.FILE, "pixels.json", "data.json", "data_files.gz", writers.KEPT)
FOLDERS = ("checkpoints", "best", STAGES, tensorboard.FOLDER, "damaged", "training")
LENGTH = r"stages\[(\d+)\]\.(?:epochs|steps)"


def say(line: str) -> None:
    """Print a line for the user, above a progress bar if one is shown; of several processes, the first one does."""
    if not processes.chief():
        return
    from tqdm import tqdm

    tqdm.write(printable(line), file=sys.stdout)
    sys.stdout.flush()


def new_folder(label: str) -> Path:
    """Return a new folder under runs/: runs/2025-01-31_12-00-00_gradual_dinov3_vits16."""
    stamp = time.strftime("%Y-%m-%d_%H-%M-%S")
    name = re.sub(r"[^\w.-]+", "-", f"{stamp}_{label}")[:120]  # a file system allows 255 bytes
    folder, number = Path("runs") / name, 2
    while folder.exists():
        folder, number = Path("runs") / f"{name}_{number}", number + 1
    return folder


@dataclasses.dataclass(frozen=True)
class Difference:
    """A setting that differs; as text, "optimizer.lr: 0.001 there, 0.01 now"."""

    path: str
    there: Any
    now: Any

    def __str__(self) -> str:
        texts = (_short(value) for value in (self.there, self.now))
        there, now = (text if len(text) <= 60 else f"{text[:57]}..." for text in texts)
        return f"{self.path}: {there} there, {now} now"


def _short(value: Any) -> str:
    """Format a value as JSON; stages as their names only."""
    if isinstance(value, list) and value and all(isinstance(one, dict) and "name" in one for one in value):
        return ", ".join(str(one["name"]) for one in value)
    return json.dumps(value)


def differences(old: Any, new: Any, path: str = "") -> list[Difference]:
    """List the settings that differ between two configs, except those that are allowed to."""
    if path in FREE or old == new:
        return []
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [*old, *(key for key in new if key not in old)]
        parts = [(old.get(key), new.get(key), f"{path}.{key}" if path else key) for key in keys]
        return [found for part in parts for found in differences(*part)]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = enumerate(zip(old, new, strict=True))
        return [found for i, pair in pairs for found in differences(*pair, f"{path}[{i}]")]
    return [Difference(path, old, new)]


class Workdir:
    """A run's folder. Nothing is written before `open`.

    Attributes:
      lengthened: lengths of stages that differ from the run in the folder, if nothing else differs. before: the config
        of that run, or {} if there is none.

    Raises:
      UserError: if the folder holds a run of another config (naming the fields), or other files.
    """

    def __init__(self, folder: Path, config: Any):
        self.folder = named(folder, "--workdir")
        self.config = renamed(plain(config))
        self.before: dict[str, Any] = {}
        self.lengthened: list[Difference] = []
        self._check()
        self.lock = RunLock(self.folder, say)

    def __truediv__(self, name: str) -> Path:
        return self.folder / name

    def _check(self) -> None:
        if self.folder.exists() and not self.folder.is_dir():
            raise UserError(f"--workdir={self.folder} is a file: give a folder, new or of an earlier run")
        check_writable(f"--workdir={self.folder}", self.folder)
        file = self / CONFIG
        if not file.exists():
            root = (self.config.get("data") or {}).get("root")
            if root and self.folder.resolve().is_relative_to(Path(root).resolve()):
                raise UserError(
                    f"--workdir={self.folder} is inside data.root={root}, where the run's pictures would be taken for "
                    "images: give a folder outside"
                )
            others = [path.name for path in self.folder.glob("*")] if self.folder.exists() else []
            others = [name for name in others if not name.startswith(LOCK)]
            if others:
                raise UserError(
                    f"--workdir={self.folder} does not hold a run but other files ({', '.join(sorted(others)[:3])}): "
                    "give a new or empty folder"
                )
            return
        self._check_kinds()
        old = read_config(file)
        self.before = renamed(older_runs.completed(old, self.config))
        fields = differences(self.before, self.config)
        if all(re.fullmatch(LENGTH, field.path) for field in fields):
            self.lengthened = fields
            return
        tasks = [(config.get("objective") or {}).get("name") for config in (self.before, self.config)]
        if tasks[0] != tasks[1]:
            raise UserError(
                f"--workdir={self.folder} holds a run of another task (objective {tasks[0]!r}, this is {tasks[1]!r}): "
                f"give another folder. {self.way_on()}"
            )
        raise UserError(
            f"--workdir={self.folder} holds a run of another config; give another folder, or the same values:\n  "
            + "\n  ".join([*map(str, fields), self.way_on()])
        )

    def way_on(self) -> str:
        """Return how to use this run's model in a new run."""
        return f"To start a new run from this one: --config.model.weights={self.folder} --workdir=NEW"

    def advice(self) -> str:
        """Return how to continue training after the run is finished."""
        last = self.summary()["stages"][-1]
        number = [stage["name"] for stage in self.config["stages"]].index(last["name"])
        if last["epochs"] < last.get("max_epochs", 0):
            return f"its last stage stopped early. {self.way_on()}"
        longer = f"a larger --config.stages[{number}].epochs trains stage {last['name']!r} on"
        return f"the same command with {longer}. {self.way_on()}"

    @property
    def finished(self) -> bool:
        """Return whether the folder holds a finished run, with a summary that can be read."""
        found, _ = self._summary()
        return bool(found.get("finished"))

    def hold(self) -> None:
        """Take the lock of the folder, then look again at what is in it.

        Raises:
          UserError: if another process uses the folder, or has changed it since this object was created.
        """
        self.lock.hold()
        before = self.before
        self.before, self.lengthened = {}, []
        self._check()
        if processes.any_of("the folder was changed", self.before != before and self.lock.chief):
            raise UserError(f"--workdir={self.folder} was changed by another process meanwhile: give the command again")

    def agree(self) -> None:
        """Raise UserError if the processes of the run do not see the same folder; before anything is written."""
        seen = {"config.json": "a run" if self.before else "no run", "summary.json": self.finished and "finished"}
        fix = f"--workdir={self.folder} must be on storage that all machines share, at the same path"
        processes.agree("run folder", seen, fix)

    def open(self) -> None:
        """Create the folder and write config.json, unless an earlier start did with the same lengths of stages.

        The lock is taken first, if `hold` has not taken it. Only the first process of a run writes.

        A damaged summary.json is put aside: the run writes it again from its checkpoint.
        """
        if not self.lock.held:
            self.hold()
        if not self.lock.chief:
            return
        found, fault = self._summary()
        if fault:
            aside = set_aside_name(self / SUMMARY)
            os.replace(self / SUMMARY, aside)
            say(f"WARNING: {self / SUMMARY} is damaged ({fault}) and written again (as it was: {aside.name})")
        if self.lengthened and self.finished:
            found = {key: value for key, value in found.items() if key not in ("result", "table")}
            write_json(self / SUMMARY, found | {"finished": False})
        if self.lengthened or not (self / CONFIG).exists():
            write_json(self / CONFIG, self.config)

    def summary(self) -> dict[str, Any]:
        """Read summary.json; {} before the end of the first stage. Raises UserError if it is damaged."""
        found, fault = self._summary()
        if fault:
            raise UserError(f"{self / SUMMARY} is damaged ({fault}): the same command writes it again")
        return found

    def _summary(self) -> tuple[dict[str, Any], str]:
        """Return (contents of summary.json, what is wrong with it or "")."""
        file = self / SUMMARY
        if not os.path.lexists(file):
            return {}, ""
        try:
            found = read_json(file, dict)
        except JsonError as err:
            return {}, err.reason
        stages, names = found.get("stages"), [stage["name"] for stage in self.config.get("stages") or []]
        if not are_objects(stages) or not all(stage.get("name") in names for stage in stages):
            return {}, "its stages are not those of the run"
        if found.get("finished") and not (
            stages
            and all(isinstance(stages[-1].get(name), int) for name in ("epochs", "max_epochs"))
            and isinstance(lines := found.get("result", []), list)
            and all(isinstance(line, str) for line in lines)
        ):
            return {}, "the results are not in it"
        return found, ""

    def records(self) -> list[dict[str, Any]]:
        """Read the lines of metrics.jsonl."""
        return metric_log.records(self / metric_log.FILE)

    def _check_kinds(self) -> None:
        """Raise UserError for a file where the run keeps a folder, or a folder where it keeps a file."""
        for names, is_kind, kind in ((FOLDERS, Path.is_dir, "folder"), (FILES, Path.is_file, "file")):
            for path in (self / name for name in names):
                if os.path.lexists(path) and not is_kind(path):
                    raise UserError(f"{path} is not a {kind}, and a run keeps a {kind} of that name: move it away")
