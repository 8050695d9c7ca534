"""Make an ONNX file int8 and say what that costs and brings: accuracy, outputs, size and time before and after."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxdino.core.errors import UserError
from jaxdino.core.table import format_table
from jaxdino.core.words import few
from jaxdino.data.inputs import find_inputs
from jaxdino.data.photometric import normalize
from jaxdino.evaluation import finished_run, predictions
from jaxdino.serving import checking, int8
from jaxdino.serving.program import Program

CALIBRATED, MEASURED, BATCH = 128, 2000, 16
"""Most images that are looked at for the ranges of activations, and for the accuracy."""


class Images:
    """Where the images of a report come from: folders that the user gives, else the data of the run.

    Args:
      workdir: the run, or None for weights alone.
      calibration, labelled: folders, the latter with one for each class; None for the run's train and val.
      say: called with notes.

    Raises:
      UserError: if images for `kind` are needed and there are none, or the run cannot be opened.
    """

    def __init__(
        self,
        kind: str,
        model: Any,
        made: Program,
        workdir: str | None,
        calibration: str | None,
        labelled: str | None,
        say: Callable[[str], None],
    ):
        self.model, self.made, self.calibration, self.labelled, self.say = model, made, calibration, labelled, say
        needed = not calibration or not labelled
        has_classes = model.card.num_classes and model.card.head.choice
        self.run = finished_run.open_run(workdir, say) if workdir and needed and has_classes else None
        if kind == "static" and not (calibration or self.run):
            raise UserError("--int8 static measures activations on real images: --calibration DIR has them")

    def calibrating(self) -> list[np.ndarray]:
        """Return batches of images as the program takes them."""
        if self.calibration:
            paths = [image.path for image in find_inputs([self.calibration])[0]]
            rows = np.linspace(0, len(paths) - 1, min(CALIBRATED, len(paths))).astype(int)
            return list(self._read([paths[row] for row in rows]))
        assert self.run is not None  # `__init__`
        split = predictions.spread(self.run.source.split("train"), CALIBRATED)
        return [images for images, _ in self._of_run(split)]

    def measuring(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield (images, labels), from the folder or the run's val split; nothing without either."""
        if self.labelled:
            yield from self._of_folder(Path(self.labelled))
        elif self.run:
            yield from self._of_run(predictions.spread(self.run.source.split("val"), MEASURED))

    def _of_run(self, split: Any) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        assert self.run is not None
        field = self.run.fields[0].name
        for batch in predictions.batches_of(self.run, split, BATCH):
            read = np.asarray(batch["weight"]) > 0
            yield self._pixels(np.asarray(batch["image"])[read]), np.asarray(batch[field])[read]

    def _of_folder(self, root: Path) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        names = self.model.class_names
        found = [name for name in names if (root / name).is_dir()]
        if not found:
            raise UserError(f"--labelled {root} has no folder named as a class of the model ({few(list(names), 5)})")
        if len(found) < len(names):
            self.say(f"--labelled: there are folders of {len(found)} of the {len(names)} classes")
        for name in found:
            paths = [image.path for image in find_inputs([str(root / name)])[0]][: MEASURED // len(found)]
            for images in self._read(paths):
                yield images, np.full(len(images), names.index(name))

    def _read(self, paths: list[str]) -> Iterator[np.ndarray]:
        for start in range(0, len(paths), BATCH):
            yield self._pixels(self.model.preprocess(paths[start : start + BATCH]))

    def _pixels(self, images: np.ndarray) -> np.ndarray:
        how = self.model.card.spec.preprocess
        return (
            images
            if self.made.inputs[0].dtype == "uint8"
            else np.asarray(normalize(jnp.asarray(images), how.mean, how.std))
        )


def quantised(
    file: Path, kind: str, made: Program, data: Images, given: np.ndarray | None = None
) -> tuple[dict[str, Any], list[str]]:
    """Replace an ONNX file by its int8 form; return the facts for its metadata, and lines for the user.

    Args:
      given: images on which the outputs are compared; None for those of the calibration, or labelled, or random ones.

    Raises:
      UserError: if nothing of the model is computed in int8, or an image cannot be read.
    """
    images = data.calibrating() if kind == "static" else []
    target = file.with_suffix(".int8")
    counts = int8.quantise(file, target, kind, images)
    runners = [checking.onnxruntime(one) for one in (file, target)]
    facts: dict[str, Any] = {"kind": kind, "calibrated_on": sum(map(len, images)), **counts}
    facts["accuracy"] = _accuracy(data, runners)
    some, what = ([given], "images") if given is not None else (images[:2], "images")
    if not some:
        some, what = _images(made, data)
    facts |= {"output_error": _error(made, runners, some), "output_error_on": f"{sum(map(len, some))} {what}"}
    facts["seconds"] = int8.latency(runners, some[0][:1])
    facts["bytes"] = [one.stat().st_size for one in (file, target)]
    os.replace(target, file)
    return facts, _lines(facts)


def _images(made: Program, data: Images) -> tuple[list[np.ndarray], str]:
    """Return images to compare on, of the measured ones or else random ones, and what they are."""
    first = next(data.measuring(), None)
    return (
        ([made.inputs[0].random(4, np.random.default_rng(0))], "random images")
        if first is None
        else ([first[0]], "images")
    )


def _accuracy(data: Images, runners: list[checking.Runner]) -> dict[str, Any] | None:
    """Return the share of right classes before and after, and the number of images; None without labels."""
    right, count = np.zeros(2), 0
    thresholds = np.asarray(getattr(data.model.card.head, "thresholds", ()))
    for images, labels in data.measuring():
        for place, run in enumerate(runners):
            logits = np.asarray(run(images)["logits"])
            if len(thresholds):
                said = 1 / (1 + np.exp(-logits.astype(np.float64))) >= thresholds
                right[place] += (said == (labels > 0.5)).mean(axis=1).sum()
            else:
                right[place] += (logits.argmax(axis=1) == labels).sum()
        count += len(labels)
    if not count:
        return None
    return {"before": right[0] / count, "after": right[1] / count, "images": count}


def _error(made: Program, runners: list[checking.Runner], batches: list[np.ndarray]) -> dict[str, float]:
    """Return the length of the difference of each output, relative to the output's."""
    found = {}
    for name in made.about["outputs"]:
        pairs = [tuple(np.asarray(run(images)[name], np.float64) for run in runners) for images in batches]
        apart = sum(float(np.square(a - b).sum()) for a, b in pairs)
        found[name] = (apart / max(sum(float(np.square(a).sum()) for a, _ in pairs), 1e-30)) ** 0.5
    return found


def _lines(facts: dict[str, Any]) -> list[str]:
    before, after = facts["seconds"]
    rows = [["", "float32", f"int8 {facts['kind']}", ""]]
    if accuracy := facts["accuracy"]:
        shown = [f"{accuracy[key]:.4f}" for key in ("before", "after")]
        rows.append(["accuracy", *shown, f"{accuracy['images']} images"])
    rows.append(["latency, one image", f"{1000 * before:.1f} ms", f"{1000 * after:.1f} ms", f"{before / after:.2f} x"])
    old, new = facts["bytes"]
    rows.append(["size", f"{old / 1e6:.2f} MB", f"{new / 1e6:.2f} MB", f"{old / new:.2f} x"])
    on = facts["output_error_on"]
    rows += [[f"error of {name}", "", f"{100 * value:.2f} %", on] for name, value in facts["output_error"].items()]
    nodes = ", ".join(f"{count} {name}" for name, count in facts["integer"].items())
    return [
        format_table(rows),
        f"{sum(facts['integer'].values())} of {facts['products']} products in int8, "
        f"{100 * facts['weights']:.0f} % of their weights: {nodes}",
    ]
