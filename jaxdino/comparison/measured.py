"""What is measured of a finished run, kept in a file beside the runs, so that it is measured once."""

import dataclasses
import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jaxdino.api.history import History
from jaxdino.comparison.forgetting import ProbeSet, forgetting
from jaxdino.comparison.plan import PlannedRun, metric_of
from jaxdino.core.errors import UserError
from jaxdino.core.json_file import JsonError, read_json, write_json
from jaxdino.evaluation.calibration.measures import measures, reliability
from jaxdino.evaluation.figure import plain
from jaxdino.evaluation.finished_run import FIELDS, chosen_split, open_run
from jaxdino.evaluation.intervals import Resampling
from jaxdino.evaluation.predictions import predicted
from jaxdino.train.workdir import STAGES

FOLDER = "measured"
MEMORY = {"device_memory_gib": "peak of the device", "process_memory_gib": "peak of the process"}
VERSION = 1


@dataclasses.dataclass(frozen=True)
class Measured:
    """A finished run.

    Attributes:
      found: what is kept in the file: "val" and "measured" ({metric: value}), "split", "images", "calibration",
        "reliability", "seconds", "memory_gib", "trainable", "stages", "forgetting".
    """

    run: PlannedRun
    found: dict[str, Any]

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.run.folder

    def drop(self, name: str) -> float | None:
        """Return how much "knn" or "linear" of the held-back set is lower at the end than at the start."""
        rows = self.found["forgetting"]
        return rows[0][name] - rows[-1][name] if len(rows) > 1 else None


def measured(
    run: PlannedRun, config: Any, out: Path, probe: ProbeSet | None, keep_models: bool, say: Callable[[str], None]
) -> Measured:
    """Return the measures of a finished run: those kept, or new ones, which are kept.

    The models of its stages are deleted once they are measured.

    Args:
      probe: the held-back data set; None measures no forgetting.

    Raises:
      UserError: if the run cannot be read.
    """
    file, key = out / FOLDER / f"{run.name}.json", _key(run.folder, probe)
    try:
        found = read_json(file, dict) if file.exists() else {}
    except JsonError as err:
        say(f"{err}: measured again")
        found = {}
    if found.get("key") != key:
        found = {"key": key, "version": VERSION} | _measure(run, config, probe, say)
        if probe is not None and not found["forgetting"]:
            say(f"{run.name}: no forgetting, since the models of its stages are gone; --keep_stage_models keeps them")
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, found)
    if probe is not None and not keep_models:
        shutil.rmtree(run.folder / STAGES, ignore_errors=True)
    return Measured(run, found)


def _key(folder: Path, probe: ProbeSet | None) -> str:
    """Return what the measures depend on: the delivered model, and the held-back set."""
    card = folder / "best" / "model.json"
    if not card.is_file():
        raise UserError(f"{folder} has no model (best/model.json is missing): delete the folder, and start again")
    probed = {"data": "none"} if probe is None else probe.about()
    return hashlib.sha256(card.read_bytes() + repr((VERSION, sorted(probed.items()))).encode()).hexdigest()


def _measure(run: PlannedRun, config: Any, probe: ProbeSet | None, say: Callable[[str], None]) -> dict[str, Any]:
    opened = open_run(str(run.folder), say)
    split = chosen_split(opened.source, None)
    classes = opened.task in FIELDS
    size, what = probe.batch_size if probe else 64, f"{run.name}, {split.name}"
    images = predicted(opened, split, size, what, say) if classes else None
    summary, metric = opened.summary, metric_of(config)
    stages = summary["stages"]
    delivered = (summary.get("delivered") or {}).get("stage")
    entry = next((one for one in stages if one["name"] == delivered), stages[-1])
    tested = "test" if "test" in opened.source.splits else "val"
    names = [name.partition("/")[2] for name, one in summary.items() if name.startswith(f"{tested}/")]
    numbers = {name: summary[f"{tested}/{name}"] for name in names}
    memory, of = _memory(run.folder)
    return {
        "strategy": run.strategy,
        "seed": run.seed,
        "metric": metric,
        "val": {name.removeprefix("val/"): value for name, value in entry.items() if name.startswith("val/")},
        "val_images": len(opened.source.split("val")),
        "split": split.name,
        "measured": {name: value for name, value in numbers.items() if isinstance(value, int | float)},
        "images": len(split) if images is None else len(images),
        "calibration": {} if images is None else plain(measures(images.odds, images.labels, Resampling(seed=run.seed))),
        "reliability": [] if images is None else reliability(images.odds, images.labels, Resampling()),
        "seconds": sum(stage["seconds"] for stage in stages),
        "memory_gib": memory,
        "memory_of": of,
        "trainable": max(stage["trainable_fraction"] for stage in stages),
        "trainable_params": max(stage["trainable_params"] for stage in stages),
        "stages": [{name: stage.get(name) for name in ("name", "epochs", "steps", "seconds")} for stage in stages],
        "forgetting": [] if probe is None else forgetting(run.folder, probe),
    }


def _memory(folder: Path) -> tuple[float | None, str]:
    """Return (the largest memory in the lines of a run in GiB or None, whose it is)."""
    history = History.load(folder)
    for name, of in MEMORY.items():
        if name in history.metrics:
            return float(history.series(name)[1].max()), of
    return None, ""
