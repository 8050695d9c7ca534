"""A finished run to evaluate: its config, its best model, its data, and other data sets with the same classes."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from convert import assumptions
from jaxdino.api.model import Model
from jaxdino.api.opening import open_model
from jaxdino.core.command import program
from jaxdino.core.errors import UserError
from jaxdino.core.json_file import JsonError, read_json
from jaxdino.core.words import few
from jaxdino.data.config import DataConfig, settings_of_data
from jaxdino.data.fields import LABEL, Number
from jaxdino.data.record import Source, Split
from jaxdino.data.sources import SOURCES, load_source
from jaxdino.evals.report import check_sight
from jaxdino.train import pixels
from jaxdino.train.recorded import CONFIG, as_config, named, read_config
from jaxdino.train.workdir import SUMMARY

FIELDS = {"classify": "label", "knowledge_distillation": "label", "multilabel": "labels"}
"""Tasks of images with classes -> the field of the data that they learn."""
OTHERS = {"semantic": "class_mask", "depth": "depth", "detect": "boxes", "instances": "instances"}
"""Tasks with other answers that can be evaluated (`evaluation.tasks`) -> the same."""
OTHERWISE = {
    "segment": "its metrics are in {folder}/report.html, and `{segment}` gives its masks",
    "distill": "`{evaluate} --weights {folder} --root DIR` measures its features",
}
"""Other tasks -> what can be done instead."""


@dataclasses.dataclass(frozen=True)
class FinishedRun:
    """A run with its best model.

    Attributes:
      task: a key of `FIELDS` or `OTHERS`. model: the model in best/. data: how images are read.
      source: the run's own data.
    """

    folder: Path
    task: str
    config: Any
    model: Model
    data: DataConfig
    source: Source
    summary: dict[str, Any]

    @property
    def several(self) -> bool:
        """Whether an image has any number of classes."""
        return self.task == "multilabel"

    @property
    def names(self) -> tuple[str, ...]:
        """The classes of the model."""
        return self.model.class_names or tuple(map(str, range(self.model.card.num_classes)))

    @property
    def fields(self) -> tuple[Number]:
        """What is read of each image."""
        return (Number("labels", "float32", (len(self.names),)),) if self.several else (LABEL,)


def task_of(folder: str) -> str | None:
    """Return the task of a run's config; None if there is none that can be read, which `open_run` then says."""
    try:
        config = as_config(read_config(Path(folder) / CONFIG))
    except (UserError, OSError):
        return None
    return (config.get("objective") or {}).get("name")


def open_run(folder: str, say: Callable[[str], None]) -> FinishedRun:
    """Open a finished run, and list its data.

    Raises:
      UserError: if there is no such run, it is not finished, or it is of another task (with what can be done instead).
    """
    place = named(folder, "--workdir")
    if not place.is_dir():
        raise UserError(f"there is no folder {folder}: --workdir takes the folder of a training run")
    if not (place / CONFIG).is_file():
        raise UserError(f"{folder} holds no run ({CONFIG} is missing): --workdir takes the folder of a training run")
    config = as_config(read_config(place / CONFIG))
    task = (config.get("objective") or {}).get("name")
    if task not in FIELDS | OTHERS:
        other = OTHERWISE.get(str(task), OTHERWISE["distill"])
        words = {name: program(name) for name in ("segment", "evaluate")} | {"folder": folder}
        raise UserError(
            f"{folder} holds a run of the task {task!r}; --workdir evaluates {', '.join(FIELDS | OTHERS)}: "
            + other.format(**words)
        )
    summary = _summary(place)
    if not summary.get("finished") or not (place / "best").is_dir():
        raise UserError(
            f"the run in {folder} is not finished, so its model may still change: the command that started it resumes "
            f"it ({program('train')} ... --workdir={folder})"
        )
    model, lines = open_model(place, words=assumptions.IMPORT)
    for line in lines:
        say(line)
    check_sight(model)
    data = settings_of_data(config.data)
    source = load_source(data, (FIELDS | OTHERS)[task])
    data = pixels.of_model(data, model.card.spec.preprocess)
    if source.class_names != model.class_names and (task in FIELDS or source.class_names):
        raise UserError(
            f"the data now has other classes ({few(list(source.class_names), 3)}) than the model "
            f"({few(list(model.class_names), 3)}): restore it, or give other data with --root"
        )
    return FinishedRun(place, task, config, model, data, source, summary)


def _summary(folder: Path) -> dict[str, Any]:
    if not (folder / SUMMARY).exists():
        return {}
    try:
        return read_json(folder / SUMMARY, dict)
    except JsonError as err:
        raise UserError(f"{err}: the command that started the run writes it again") from None


def chosen_split(source: Source, asked: str | None) -> Split:
    """Return the split to measure: the one asked for, else test, or val if there is no test split.

    Raises:
      UserError: for a split that the data lacks.
    """
    if asked is not None:
        return source.split(asked)
    return source.split("test" if "test" in source.splits else "val")


def other_data(
    run: FinishedRun, root: str, name: str | None, say: Callable[[str], None], flag: str = "--root"
) -> Split:
    """Return the images of another data set with the labels of the model: its test split, else val, else all.

    Images whose classes the model does not know are left out, and counted.

    Raises:
      UserError: if the data cannot be listed, or has no class of the model.
    """
    kind = name or (run.data.name if run.data.root is not None else "folder")
    field = (FIELDS | OTHERS)[run.task]
    if kind not in SOURCES or field not in SOURCES[kind].of:
        known = [key for key, source in SOURCES.items() if field in source.of]
        raise UserError(f"--name {kind} is not a source with {field}; it is one of: {', '.join(known)}")
    given = DataConfig(
        name=kind,
        root=root,
        val_ratio=0.0,
        columns=run.data.columns if kind == run.data.name else None,
        num_threads=run.data.num_threads,
        max_pixels=run.data.max_pixels,
        sixteen_bit=run.data.sixteen_bit,
    )
    try:
        source = load_source(given, field)
    except UserError as err:
        raise UserError(f"{flag} {root}: {err}") from None
    split = next(source.splits[key] for key in ("test", "val", "train") if key in source.splits)
    if run.task in OTHERS and source.class_names not in ((), run.names):
        raise UserError(
            f"{flag} {root} has the classes {few(list(source.class_names), 5)}, the model {few(list(run.names), 5)}: "
            "they must be the same, in the same order"
        )
    if run.task in OTHERS:
        return split
    return with_classes(split, source.class_names, run.names, say, flag)


def with_classes(
    split: Split, theirs: tuple[str, ...], ours: tuple[str, ...], say: Callable[[str], None], flag: str
) -> Split:
    """Return a split with its classes numbered as the model's; images of other classes are left out, and counted."""
    if theirs == ours:
        return split
    known = [name for name in theirs if name in ours]
    if not known:
        raise UserError(
            f"{flag}: none of its classes ({few(list(theirs), 5)}) is a class of the model ({few(list(ours), 5)}): "
            "rename its folders or labels to those of the model"
        )
    if "label" in split.fields:
        table = np.array([ours.index(name) if name in ours else -1 for name in theirs], np.int32)
        labels = table[np.asarray(split.labels)]
        rows = np.flatnonzero(labels >= 0)
        fields = {"label": labels[rows]}
    else:
        labels = np.zeros((len(split), len(ours)), np.float32)
        given = np.asarray(split.fields["labels"])
        for place, name in enumerate(theirs):
            if name in ours:
                labels[:, ours.index(name)] = given[:, place]
        rows = np.flatnonzero(labels.any(axis=1) | ~(given > 0.5).any(axis=1))
        fields = {"labels": labels[rows]}
    if left := len(split) - len(rows):
        strange = [name for name in theirs if name not in ours]
        say(f"{flag}: {left} images are left out, of classes that the model does not know: {few(strange, 5)}")
    if not len(rows):
        raise UserError(f"{flag}: no image of {split.name} has a class of the model")
    kept = split.chosen(rows.tolist())
    return dataclasses.replace(kept, fields=fields, class_names=ours)
