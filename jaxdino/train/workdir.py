"""The run folder: the files of a run, and how the same command finds and resumes it.

config.json    the full resolved config
metrics.jsonl  one JSON object per line
pixels.json    the value range chosen for 16-bit images, if there is one
summary.json   one entry per stage; the test metrics and the lines printed at the end
events/        the same numbers for TensorBoard
checkpoints/   to resume from          best/   the best model
*.png          loss, learning rates, validation accuracy
"""

import dataclasses
import json
import math
import os
import re
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxdino.core.errors import UserError
from jaxdino.core.metric_names import renamed
from jaxdino.data.recipe import View

# Settings that may differ when a run is resumed: they affect how it is computed and logged, not its result.
FREE = ("mesh", "checkpoint", "log_every", "time_limit", "model.attention", "model.remat")
FREE += ("data.num_workers", "data.num_threads")
# Settings that may differ for the current stage and later ones; see `jaxdino.train.extend`.
LENGTH = r"stages\[(\d+)\]\.(?:epochs|steps)"

# Settings missing in older runs, with the values that match their behaviour.
ADDED: dict[str, dict[str, Any]] = {"data": {"classes": "top", "background": True}, "prompts": {"per_image": 1}}
ADDED_TO_VIEWS = ("warp", "noise", "mixup", "cutmix", "mix_prob", "switch_prob")
ADDED_TO_VIEWS += ("erase_prob", "erase_area", "erase_ratio")


def say(line: str) -> None:
    """Print a line for the user, above a progress bar if one is shown."""
    from tqdm import tqdm

    tqdm.write(line, file=sys.stdout)
    sys.stdout.flush()


def new_folder(label: str) -> Path:
    """Return a new folder under runs/: runs/2025-01-31_12-00-00_gradual_dinov3_vits16."""
    stamp = time.strftime("%Y-%m-%d_%H-%M-%S")
    name = re.sub(r"[^\w.-]+", "-", f"{stamp}_{label}")
    folder, number = Path("runs") / name, 2
    while folder.exists():
        folder, number = Path("runs") / f"{name}_{number}", number + 1
    return folder


def write_json(file: Path, value: Any) -> None:
    """Write JSON to a temporary file and rename it, so that a file is never incomplete. NaN and inf become null."""
    beside = file.with_name(file.name + ".part")
    beside.write_text(json.dumps(_finite(value), indent=2, default=str) + "\n")
    os.replace(beside, file)


def _read_json(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_text())
    except (OSError, ValueError) as err:
        raise UserError(f"{file} cannot be read ({err}): fix it, or give a new --workdir") from None
    if not isinstance(value, dict):
        raise UserError(f"{file} was not written by a run: fix it, or give a new --workdir")
    return value


def recorded(folder: str | Path | None) -> dict[str, Any]:
    """Return the config of the run in a folder, or {} if there is none."""
    file = Path(folder) / "config.json" if folder else None
    return _read_json(file) if file and file.is_file() else {}


def plain(config: Any) -> dict[str, Any]:
    """Convert a config to plain nested dicts and lists, as in JSON."""
    config = config.to_dict() if hasattr(config, "to_dict") else config

    def one(value: Any) -> Any:
        if isinstance(value, Mapping) or hasattr(value, "to_dict"):
            return {str(key): one(item) for key, item in value.items()}
        return [one(item) for item in value] if isinstance(value, list | tuple) else value

    return json.loads(json.dumps(_finite(one(config)), default=str))


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
        self.folder = Path(folder)
        self.config = renamed(plain(config))
        self.before: dict[str, Any] = {}
        self.lengthened: list[Difference] = []
        self._check()

    def __truediv__(self, name: str) -> Path:
        return self.folder / name

    def _check(self) -> None:
        if self.folder.exists() and not self.folder.is_dir():
            raise UserError(f"--workdir={self.folder} is a file: give a folder, new or of an earlier run")
        there = next(path for path in (self.folder.absolute(), *self.folder.absolute().parents) if path.exists())
        if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
            raise UserError(f"--workdir={self.folder} cannot be written: {there} is not a writable folder")
        file = self / "config.json"
        if not file.exists():
            root = (self.config.get("data") or {}).get("root")
            if root and self.folder.resolve().is_relative_to(Path(root).resolve()):
                raise UserError(
                    f"--workdir={self.folder} is inside data.root={root}, where the run's pictures would be taken for "
                    "images: give a folder outside"
                )
            others = [path.name for path in self.folder.glob("*")] if self.folder.exists() else []
            if others:
                raise UserError(
                    f"--workdir={self.folder} does not hold a run but other files ({', '.join(sorted(others)[:3])}): "
                    "give a new or empty folder"
                )
            return
        old = _read_json(file)
        self.before = renamed(_completed(old, self.config))
        fields = differences(self.before, self.config)
        if all(re.fullmatch(LENGTH, field.path) for field in fields):
            self.lengthened = fields
            return
        tasks = [config.get("objective", {}).get("name") for config in (self.before, self.config)]
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
        """Return whether the folder holds a finished run."""
        return bool(self.summary().get("finished"))

    def open(self) -> None:
        """Create the folder and write config.json, unless an earlier start did with the same lengths of stages."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.lengthened and self.finished:
            found = {key: value for key, value in self.summary().items() if key != "result"}
            write_json(self / "summary.json", found | {"finished": False})
        if self.lengthened or not (self / "config.json").exists():
            write_json(self / "config.json", self.config)

    def summary(self) -> dict[str, Any]:
        """Read summary.json; {} before the end of the first stage."""
        file = self / "summary.json"
        return _read_json(file) if file.exists() else {}

    def records(self) -> list[dict[str, Any]]:
        """Read the lines of metrics.jsonl."""
        file = self / "metrics.jsonl"
        return [renamed(json.loads(line)) for line in file.read_text().splitlines()] if file.exists() else []


def _completed(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Return the config of an older run with the settings that it lacks and that a new one has."""
    for part, values in ADDED.items():
        if isinstance(old.get(part), dict):
            there = new.get(part) or {}
            old[part] = {name: value for name, value in values.items() if name in there} | old[part]
    if views := (old.get("data") or {}).get("views"):
        default = View()
        added = plain({name: getattr(default, name) for name in ADDED_TO_VIEWS})
        old["data"]["views"] = [added | view for view in views]
    return old


class MetricLog:
    """Write metrics.jsonl, and the same numbers as TensorBoard events.

    Args:
      size: size of metrics.jsonl in bytes, from the checkpoint that the run resumes from. Later lines are removed, and
        the event files are rewritten from the remaining lines, so that nothing appears twice.
    """

    def __init__(self, workdir: Workdir, size: int = 0):
        from tensorboardX import SummaryWriter

        file = workdir / "metrics.jsonl"
        file.touch()
        os.truncate(file, min(size, file.stat().st_size))
        for old in (workdir / "events").glob("events.*"):
            old.unlink()
        self._events = SummaryWriter(str(workdir / "events"))
        for record in workdir.records():
            self._add_events(record)
        self._file = file.open("a")

    @property
    def size(self) -> int:
        """Return the size of metrics.jsonl in bytes, after flushing it."""
        self._file.flush()
        return self._file.tell()

    def write(self, record: dict[str, Any]) -> None:
        """Add a line; `step` counts over the whole run. NaN and inf become null."""
        record = record | {"time": round(time.time(), 3)}
        self._file.write(json.dumps(_finite(record)) + "\n")
        self._file.flush()
        self._add_events(record)

    def _add_events(self, record: dict[str, Any]) -> None:
        for name, value in record.items():
            group = value if isinstance(value, dict) else {None: value}
            for key, number in group.items():
                if isinstance(number, int | float) and name not in ("step", "time"):
                    self._events.add_scalar(f"{name}/{key}" if key else name, number, record["step"], record["time"])

    def close(self) -> None:
        """Flush and close the files."""
        self._file.close()
        self._events.close()


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
