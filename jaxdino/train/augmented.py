"""augmentations.png: training images as the network receives them in each stage, before the first step of a run."""

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jaxdino.data import pipeline
from jaxdino.data.record import Split
from jaxdino.data.sampling import UNIFORM
from jaxdino.evals.augmentation_pictures import Block, Tile, draw_blocks
from jaxdino.train import data
from jaxdino.train.task import Part, Task
from jaxdino.train.workdir import say

if TYPE_CHECKING:
    from jaxdino.train.session import Session

FILE = "augmentations.png"
IMAGES = 4
"""Training images that are shown, spread evenly over the split."""


def draw(session: "Session") -> None:
    """Draw some training images, with versions of them as the stages augment them."""
    if session.chief and (found := blocks(session.setup.task, session.setup.parts)):
        draw_blocks(found, session.folder / FILE)
        say(f"augmentations: {FILE} in the run folder shows training images as the network receives them")


def blocks(task: Task, parts: Sequence[Part]) -> list[Block]:
    """Return what is drawn: images that went through the run's own reading and augmentation.

    Stages that augment alike share a block. Images that cannot be read are left out.
    """
    alike: dict[Any, list[Part]] = {}
    for part in parts:
        alike.setdefault((part.stage.augment, part.image_size), []).append(part)
    return [block for some in alike.values() if (block := _block(task, some)).rows]


def _block(task: Task, parts: Sequence[Part]) -> Block:
    """Return the rows of stages that augment alike: each image as evaluation sees it, then its versions."""
    part, names = parts[0], ", ".join(part.stage.name for part in parts)
    train = task.source.split("train")
    rows = np.unique(np.linspace(0, len(train) - 1, min(IMAGES, len(train))).astype(int)).tolist()
    plain = _plain(task, part, train.chosen(rows))
    versions = _versions(task, part, train.chosen(rows))
    shown = [[plain[row], *versions[row]] for row in range(len(rows)) if row in plain and row in versions]
    title = f"{task.augment_words(part.stage)}, {part.image_size[0]} x {part.image_size[1]} pixels ({names})"
    return Block(title, ("not augmented", "as received"), shown, task.mask_names)


def _plain(task: Task, part: Part, split: Split) -> dict[int, Tile]:
    """Return {row: the image as evaluation prepares it}."""
    make = partial(pipeline.make_eval_iter, split, fields=())
    small = _small(part, len(split))
    batches = data.batches(make, task.config, small, task.card.spec, alone=True)
    return {
        int(row): Tile(image / 255)
        for batch in batches
        for row, weight, image in zip(batch["index"], batch["weight"], batch["image"], strict=True)
        if weight
    }


def _versions(task: Task, part: Part, split: Split) -> dict[int, list[Tile]]:
    """Return {row: its augmented versions}, one or more of each batch, which holds all images once."""
    small = _small(part, len(split))
    augment, batches = jax.jit(partial(task.augment, small)), task.train_batches(small, split)
    found: dict[int, list[Tile]] = {}
    for key in jax.random.split(jax.random.key(part.seed), task.shown_times):
        read = next(batches)
        augmented = jax.device_get(augment(key, data.sent(read, task.arrays)))
        for place in np.flatnonzero(read["weight"]):
            found.setdefault(int(read["index"][place]), []).extend(task.tiles(augmented, place))
    batches.close()
    return found


def _small(part: Part, size: int) -> Part:
    """Return the stage with batches of this size, of images drawn evenly."""
    stage = dataclasses.replace(part.stage, batch_size=size, sampling=UNIFORM, accumulate=1)
    return dataclasses.replace(part, stage=stage)
