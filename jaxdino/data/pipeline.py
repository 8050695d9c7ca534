"""Batches through Grain: deterministic for a seed, resumable at any batch, shared out among hosts.

A batch is a dict of arrays, B being the batch of one host:
  image   uint8 (B, H, W, C)
  label   int32 (B,)
  weight  float32 (B,), 0 for an image that could not be read (then all black) and for padding
  index   int64 (B,), the record's place in its split, -1 for padding
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import grain
import numpy as np

from jaxdino.core.errors import UserError
from jaxdino.core.resize import Resize
from jaxdino.data.bad_images import BadImages
from jaxdino.data.channels import RGB
from jaxdino.data.rows import PADDING, Batch, Records, read_row
from jaxdino.data.sources import DataConfig, Split
from jaxdino.data.transforms import EvalTransform, TrainTransform, as_size, get_filter, get_preset
from jaxdino.data.workers import ProcessStream

DEFAULT = Resize()
Reader = Callable[[dict[str, Any], np.random.Generator], Batch]


def make_train_iter(
    split: Split,
    cfg: DataConfig | Mapping | None = None,
    *,
    seed: int,
    batch_size: int,
    image_size: int | tuple[int, int],
    preset: str | Mapping[str, Any] = "light",
    resize: Resize = DEFAULT,
    channels: int = RGB,
    process_index: int = 0,
    process_count: int = 1,
) -> "TrainIter":
    """An endless iterator of training batches, in a new order each epoch.

    An epoch is floor(len(split) / batch_size) batches; the records left over differ from epoch to epoch.
    Order and crops follow from the seed alone: threads, worker processes and the number of hosts change
    nothing about the global batch k, whose records p, p + process_count, ... go to host p.

    Args:
      split: what to read.
      cfg: threads, workers, max_pixels, sixteen_bit, on_bad, draft (see `DataConfig`).
      seed: at least 0.
      batch_size: global, over all hosts.
      image_size: pixels, one number or (height, width).
      preset: the host part of an augmentation preset is applied here (see `transforms.PRESETS`).
      resize: its filter; and all of it for a preset without random crops ("none"), which crops as evaluation does.
      channels: C of the images.
      process_index, process_count: this host among all.

    Raises:
      UserError: a batch larger than the split or not divisible by the hosts; under on_bad="stop", while
        iterating, the first bad image.
    """
    cfg, size, preset = DataConfig.of(cfg), as_size(image_size), get_preset(preset)
    read = _train_reader(cfg, size, preset, resize, channels)
    return train_batches(split, cfg, read, seed, batch_size, process_index, process_count)


def train_batches(
    split: Split, cfg: DataConfig, read: Reader, seed: int, batch_size: int, process_index: int, process_count: int
) -> "TrainIter":
    """The endless iterator behind `make_train_iter`, of whatever `read` makes of a record.

    Args:
      read: takes {"record", "label", "index", "place"} and random numbers of its own, gives one batch row, as
        `read_row` does; "place" is the row's in the global batch.
    """
    _check_shares(batch_size, process_index, process_count)
    if batch_size > len(split):
        raise UserError(
            f"batch_size {batch_size} is larger than the {len(split)} images of {split.name}; "
            f"set it to {len(split)} or less"
        )
    order_seed, crop_seed = (int(word) for word in np.random.SeedSequence(seed).generate_state(2))
    steps = len(split) // batch_size
    records = grain.MapDataset.source(Records(split, len(split))).shuffle(seed=order_seed)[: steps * batch_size]
    # A record's random numbers belong to its place in the global, endless order: map before sharing out.
    records = records.map_with_index(partial(_with_place, batch_size)).random_map(read, seed=crop_seed)
    batches = _share(records, batch_size, process_index, process_count).repeat()
    identity = {"seed": seed, "batch_size": batch_size, "records": len(split)}
    return TrainIter(batches, cfg, BadImages(split, cfg.on_bad), steps, identity)


def make_eval_iter(
    split: Split,
    cfg: DataConfig | Mapping | None = None,
    *,
    batch_size: int,
    image_size: int | tuple[int, int],
    resize: Resize = DEFAULT,
    channels: int = RGB,
    process_index: int = 0,
    process_count: int = 1,
) -> "EvalBatches":
    """Every record once, in order, resized and centre-cropped; the last batch is filled up with weight 0.

    The arguments are those of `make_train_iter`. The result can be iterated again and again; its length is
    the number of batches, the same on every host.
    """
    cfg, size = DataConfig.of(cfg), as_size(image_size)
    get_filter(resize.interpolation)
    read = ReadEval(EvalTransform(size, resize, cfg.reading(channels)))
    return eval_batches(split, cfg, read, batch_size, process_index, process_count)


def eval_batches(
    split: Split, cfg: DataConfig, read: Callable, batch_size: int, process_index: int, process_count: int
) -> "EvalBatches":
    """The pass behind `make_eval_iter`, of whatever `read` makes of a record, as `train_batches`'s, without chance."""
    _check_shares(batch_size, process_index, process_count)
    steps = -(-len(split) // batch_size)
    records = grain.MapDataset.source(Records(split, steps * batch_size)).map(read)
    batches = _share(records, batch_size, process_index, process_count)
    return EvalBatches(batches, cfg, BadImages(split, cfg.on_bad))


class TrainIter:
    """Endless iterator over batches with an exact position.

    Attributes:
      steps_per_epoch: batches in an epoch.
      bad: the `BadImages` met so far.
    """

    def __init__(self, batches, cfg: DataConfig, bad: BadImages, steps_per_epoch: int, identity: dict[str, int]):
        self.steps_per_epoch = steps_per_epoch
        self.bad = bad
        self._batches, self._cfg, self._identity = batches, cfg, identity
        self._next = 0
        self._stream = None

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        if self._stream is None:
            self._stream = _open_stream(self._batches[self._next :], self._cfg)
        batch = _received(next(self._stream), self.bad)
        self._next += 1
        return batch

    def state(self) -> dict[str, int]:
        """The position, as a small dict that JSON can hold: batches given out, and what they depend on."""
        return {"next_batch": self._next, **self._identity}

    def restore(self, state: Mapping[str, int]) -> None:
        """Goes to a position: the next batches are bit for bit those that followed `state()`.

        Threads, workers and the number of hosts may be others than those of the run that saved it. Raises
        UserError if the state belongs to another seed, batch size or data set.
        """
        for key, ours in self._identity.items():
            if state.get(key) != ours:
                raise UserError(
                    f"the saved data position has {key} = {state.get(key)}, this run {ours}: "
                    "it would go on with other images. Use the same setting, or start a new run"
                )
        self.close()
        self._next = int(state["next_batch"])

    def close(self) -> None:
        """Stops reading ahead and ends the worker processes. Iterating again starts them anew."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None


class EvalBatches:
    """One pass over a split each time it is iterated. `bad` holds the `BadImages` met so far."""

    def __init__(self, batches, cfg: DataConfig, bad: BadImages):
        self.bad = bad
        self._batches, self._cfg = batches, cfg

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        stream = _open_stream(self._batches, self._cfg)
        try:
            for batch in stream:
                yield _received(batch, self.bad)
        finally:
            stream.close()


@dataclasses.dataclass(frozen=True)
class ReadTrain:
    """Element with a record -> element with an image, by a random crop."""

    crop: TrainTransform

    def __call__(self, element: dict[str, Any], rng: np.random.Generator) -> Batch:
        return read_row(element, {"image": _shape(self.crop)}, lambda record: {"image": self.crop(record, rng)})


@dataclasses.dataclass(frozen=True)
class ReadEval:
    """Element with a record -> element with an image, by the centre crop; a generator is left alone."""

    crop: EvalTransform

    def __call__(self, element: dict[str, Any], rng: np.random.Generator | None = None) -> Batch:
        return read_row(element, {"image": _shape(self.crop)}, lambda record: {"image": self.crop(record)})


def _train_reader(
    cfg: DataConfig, size: tuple[int, int], preset: dict[str, Any], resize: Resize, channels: int
) -> ReadTrain | ReadEval:
    """The host part of a preset."""
    get_filter(resize.interpolation)  # an unknown name is an error here, not in a reading thread
    if preset["scale"] is None:
        return ReadEval(EvalTransform(size, resize, cfg.reading(channels)))
    scale, ratio = tuple(preset["scale"]), tuple(preset["ratio"])
    return ReadTrain(TrainTransform(size, scale, ratio, resize.interpolation, cfg.reading(channels), cfg.draft))


def _shape(crop: TrainTransform | EvalTransform) -> tuple[int, ...]:
    """(H, W, C) of what a transform makes."""
    return (*crop.size, crop.reading.channels)


def _with_place(batch_size: int, index: int, element: dict[str, Any]) -> dict[str, Any]:
    return element | {"place": index % batch_size}


def _check_shares(batch_size: int, process_index: int, process_count: int) -> None:
    if not 0 <= process_index < process_count:
        raise UserError(f"process_index {process_index} is not among {process_count} host(s)")
    if batch_size < 1 or batch_size % process_count:
        raise UserError(f"batch_size {batch_size} must be a positive multiple of the {process_count} host(s)")


def _share(records, batch_size: int, process_index: int, process_count: int):
    """This host's rows of each global batch, batched."""
    return records[process_index::process_count].batch(batch_size // process_count, drop_remainder=True)


def _open_stream(batches, cfg: DataConfig):
    """A Grain iterator over `batches`. Threads and workers take whole batches, which keeps their order."""
    ahead = max(2, cfg.num_threads)
    options = grain.ReadOptions(num_threads=cfg.num_threads, prefetch_buffer_size=ahead)
    stream = batches.to_iter_dataset(options)
    return ProcessStream(stream, cfg.num_workers) if cfg.num_workers else iter(stream)


def _received(batch: Batch, bad: BadImages) -> Batch:
    """Move the reasons and remarks from a batch to `bad`.

    What a worker process sent lies in shared memory that Grain takes back: it is copied out.
    """
    batch = {key: value if type(value) is np.ndarray else np.array(value) for key, value in batch.items()}
    reasons = batch.pop("reason")
    for row in np.flatnonzero(batch["index"] != PADDING):
        if batch["weight"][row] == 0:
            bad.add(int(batch["index"][row]), reasons[row].decode())
        elif reasons[row]:
            bad.remark(int(batch["index"][row]), reasons[row].decode())
    return batch
