"""The run folder: what a run leaves behind, and how the same command finds its way back into it.

config.json    the full resolved config
metrics.jsonl  one JSON object a line
pixels.json    the range of 16-bit values that was chosen, if one had to be
summary.json   one entry a stage; the test metrics and what was printed at the end
events/        the same numbers for TensorBoard
checkpoints/   to go on from          best/   the best model
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

# What may differ when a run goes on: how it is computed and watched, not what is computed.
FREE = ("mesh", "checkpoint", "log_every", "time_limit", "model.attention", "model.remat")
FREE += ("data.num_workers", "data.num_threads")
# What may differ of the stage that a run has reached, and of later ones; see `jaxdino.train.extend`.
LENGTH = r"stages\[(\d+)\]\.(?:epochs|steps)"

ADDED = {"data": {"classes": "top"}}  # settings that older runs lack, with the value that is what these did


def say(line: str) -> None:
    """Prints a line for the user, above a progress bar if one is shown."""
    from tqdm import tqdm

    tqdm.write(line, file=sys.stdout)
    sys.stdout.flush()


def new_folder(label: str) -> Path:
    """A folder under runs/ that does not exist yet: runs/2025-01-31_12-00-00_gradual_dinov3_vits16."""
    stamp = time.strftime("%Y-%m-%d_%H-%M-%S")
    name = re.sub(r"[^\w.-]+", "-", f"{stamp}_{label}")
    folder, number = Path("runs") / name, 2
    while folder.exists():
        folder, number = Path("runs") / f"{name}_{number}", number + 1
    return folder


def write_json(file: Path, value: Any) -> None:
    """Writes JSON beside and renames it, so that a file is never half there. Not finite numbers become null."""
    beside = file.with_name(file.name + ".part")
    beside.write_text(json.dumps(_finite(value), indent=2, default=str) + "\n")
    os.replace(beside, file)


def _read_json(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_text())
    except (OSError, ValueError) as err:
        raise UserError(f"{file} cannot be read ({err}): mend it, or give a new --workdir") from None
    if not isinstance(value, dict):
        raise UserError(f"{file} is not what a run writes there: mend it, or give a new --workdir")
    return value


def recorded(folder: str | Path | None) -> dict[str, Any]:
    """The config of the run in a folder; {} without one."""
    file = Path(folder) / "config.json" if folder else None
    return _read_json(file) if file and file.is_file() else {}


def plain(config: Any) -> dict[str, Any]:
    """A config as JSON holds it: nested dicts and lists."""
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
    """JSON; of stages only their names."""
    if isinstance(value, list) and value and all(isinstance(one, dict) and "name" in one for one in value):
        return ", ".join(str(one["name"]) for one in value)
    return json.dumps(value)


def differences(old: Any, new: Any, path: str = "") -> list[Difference]:
    """The settings that differ between two configs, without those that may."""
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
      lengthened: the lengths of stages that differ from the run in the folder, and nothing else does. before: the
        config of that run, {} without one.

    Raises:
      UserError: if the folder holds a run of another config (naming the fields), or something else.
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
            raise UserError(f"--workdir={self.folder} cannot be written: {there} is no folder that lets you")
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
                    f"--workdir={self.folder} holds no run but other files ({', '.join(sorted(others)[:3])}): "
                    "give a new or empty folder"
                )
            return
        old = _read_json(file)
        old |= {part: values | old[part] for part, values in ADDED.items() if isinstance(old.get(part), dict)}
        self.before = renamed(old)
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
        """How to use what the run has learned in another one."""
        return f"To start a new run from this one: --config.model.weights={self.folder} --workdir=NEW"

    def advice(self) -> str:
        """How to train on when the run is finished."""
        last = self.summary()["stages"][-1]
        number = [stage["name"] for stage in self.config["stages"]].index(last["name"])
        if last["epochs"] < last.get("max_epochs", 0):
            return f"its last stage stopped early. {self.way_on()}"
        longer = f"a larger --config.stages[{number}].epochs trains stage {last['name']!r} on"
        return f"the same command with {longer}. {self.way_on()}"

    @property
    def finished(self) -> bool:
        """Whether the folder holds a run that came to its end."""
        return bool(self.summary().get("finished"))

    def open(self) -> None:
        """Makes the folder and writes config.json, unless an earlier start did with the same lengths of stages."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.lengthened and self.finished:
            found = {key: value for key, value in self.summary().items() if key != "result"}
            write_json(self / "summary.json", found | {"finished": False})
        if self.lengthened or not (self / "config.json").exists():
            write_json(self / "config.json", self.config)

    def summary(self) -> dict[str, Any]:
        """What summary.json holds; {} before the first stage's end."""
        file = self / "summary.json"
        return _read_json(file) if file.exists() else {}

    def records(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl."""
        file = self / "metrics.jsonl"
        return [renamed(json.loads(line)) for line in file.read_text().splitlines()] if file.exists() else []


class MetricLog:
    """metrics.jsonl, and the same numbers as TensorBoard events.

    Args:
      size: bytes of metrics.jsonl to go on from: what a checkpoint remembers. Later lines are cut off, and the
        event files are written anew from the lines that stay, so that nothing is there twice.
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
        """Bytes of metrics.jsonl so far, all of them handed to the system."""
        self._file.flush()
        return self._file.tell()

    def write(self, record: dict[str, Any]) -> None:
        """Adds a line; `step` counts over the whole run. Numbers that are not finite become null."""
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
        """Writes out what is buffered."""
        self._file.close()
        self._events.close()


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
