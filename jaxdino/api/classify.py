"""Classify images with a model's classification head, in batches."""

import operator
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from jaxdino.api.pictures import Record
from jaxdino.api.purpose import purpose
from jaxdino.api.several_views import scores
from jaxdino.core.command import program
from jaxdino.core.errors import UserError
from jaxdino.core.options import check_range
from jaxdino.data.bad_images import BadImage
from jaxdino.data.channels import Reading
from jaxdino.models.heads.choice import AboveThresholds, Choice

THREADS = min(8, os.cpu_count() or 1)

Classes = list[tuple[str, float]]
"""(class name, probability) of the chosen classes, in descending order."""


def check(model: Any, topk: int, batch_size: int) -> None:
    """Raise UserError for a model without a classification head, and for numbers below 1."""
    for name, value in (("topk", topk), ("batch_size", batch_size)):
        try:
            good = not isinstance(value, bool) and operator.index(value) >= 1
        except TypeError:
            good = False
        if not good:
            raise UserError(f"{name}={value!r}: give a whole number of at least 1")
    if not model.card.num_classes and hasattr(model, "segment"):
        raise UserError(f"{model.name} does not give classes of images: {purpose(model.card, model)}")
    if not model.card.num_classes:
        raise UserError(
            f"{model.name} has no classification head: train one ({program('train')} --config=linear), "
            "or load one with jaxdino.load(SRC, head=FILE)"
        )
    if model.card.head.choice is None:
        raise UserError(f"the head of {model.name} does not give classes of whole images: {purpose(model.card, model)}")


def chooser(model: Any, threshold: float | None, flag: str = "threshold") -> Choice:
    """Return how the classes of an image are chosen: as the head says, or all from one probability.

    Args:
      threshold: replaces the thresholds of a head for images with several labels. flag: its name in messages.

    Raises:
      UserError: for a threshold that is no probability, or a head for images with one label.
    """
    choice = model.card.head.choice
    if threshold is None:
        return choice
    check_range(flag, threshold, "[0, 1]")
    if not choice.several:
        raise UserError(f"{flag}={threshold} is for models of images with several labels; {model.name} gives one class")
    return AboveThresholds((threshold,) * model.card.num_classes, choice.calibration, calibrated=True)


def classify(
    model: Any,
    records: Sequence[Record],
    reading: Reading,
    choose: Choice,
    topk: int,
    batch_size: int,
    said: dict[str, str],
    of: int | None = None,
    tta: Sequence[str] = (),
) -> Iterator[Classes | BadImage]:
    """Return the classes of each image that `choose` chooses, in order, or why it could not be read.

    The next batch is read while the device computes. All batches have the same shape, compiled once. `said` collects
    the messages of `Model.prepare` about images. `of` is the number of images of which these are a part, so that
    batches have the shape that they have for all. `tta`: kinds of `several_views.views` that are averaged.
    """
    size = min(batch_size, of or len(records))
    names = model.class_names or tuple(map(str, range(model.card.num_classes)))
    waiting: tuple[list, Any] | None = None
    with ThreadPoolExecutor(THREADS) as pool:
        for first in range(0, len(records), size):
            places = range(first, min(first + size, len(records)))
            read = list(pool.map(lambda place: _read(model, records[place], reading, place, said), places))
            images = [image for image in read if not isinstance(image, BadImage)]
            logits = None
            if images:
                blank = [np.zeros_like(images[0])] * (size - len(images))
                logits = scores(model, np.stack([*images, *blank]), tta, choose.several)
            if waiting:
                yield from _named(*waiting, names, choose, topk)
            waiting = read, logits
    if waiting:
        yield from _named(*waiting, names, choose, topk)


def _read(model: Any, record: Record, reading: Reading, place: int, said: dict[str, str]) -> np.ndarray | BadImage:
    try:
        return model.prepare(record, reading, place, said)
    except BadImage as err:
        return err


def _named(
    read: list[np.ndarray | BadImage], logits: Any, names: Sequence[str], choose: Choice, topk: int
) -> Iterator[Classes | BadImage]:
    rows = iter(() if logits is None else np.asarray(logits, np.float64))
    for image in read:
        yield image if isinstance(image, BadImage) else [(names[i], odds) for i, odds in choose(next(rows), topk)]
