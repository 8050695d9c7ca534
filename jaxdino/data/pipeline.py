"""Batches through Grain: deterministic for a seed, resumable at any batch, divided among hosts.

A batch is a dict of arrays. B is the batch size of one host:
  image   uint8 (B, H, W, C); with several views, an entry for each kind, such as "global", uint8 (B, V, H, W, C)
  weight  float32 (B,), 0 for an image that could not be read (then all black) and for padding
  index   int64 (B,), the record's index in its split, -1 for padding
and the entries of the fields (see `fields`), such as
  label   int32 (B,)
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import grain
import numpy as np

from jaxdino.core.errors import UserError
from jaxdino.core.image_sizes import Sizes
from jaxdino.core.resize import Resize
from jaxdino.data.aspect import AspectBatches, EpochOrder, groups_of
from jaxdino.data.bad_images import BadImages
from jaxdino.data.channels import RGB
from jaxdino.data.config import DataConfig
from jaxdino.data.crops import as_size, get_filter
from jaxdino.data.decoder import decoder_of
from jaxdino.data.fields import LABEL, Field
from jaxdino.data.order import sampled
from jaxdino.data.presets import get_preset
from jaxdino.data.reader import PADDING, Crops, Reader, Records, WholeReader, eval_reader
from jaxdino.data.recipe import KINDS, View, check, expanded
from jaxdino.data.record import Split
from jaxdino.data.sampling import UNIFORM
from jaxdino.data.workers import ProcessStream

DEFAULT = Resize()
Batch = dict[str, np.ndarray]


def make_train_iter(
    split: Split,
    cfg: DataConfig | Mapping | None = None,
    *,
    seed: int,
    batch_size: int,
    image_size: int | tuple[int, int] | None = None,
    preset: str | Mapping[str, Any] | View = "light",
    views: Sequence[View | Mapping] | None = None,
    fields: Sequence[Field] = (LABEL,),
    sampling: str = UNIFORM,
    sizes: Sizes | None = None,
    shapes: np.ndarray | None = None,
    resize: Resize = DEFAULT,
    channels: int = RGB,
    process_index: int = 0,
    process_count: int = 1,
) -> "TrainIter":
    """Return an endless iterator of training batches, in a new order each epoch.

    An epoch has floor(len(split) / batch_size) batches; the records left out differ from epoch to epoch.
    Order, crops and everything drawn for a field depend only on the seed. Threads, worker processes and the number of
    hosts do not change the global batch k; host p reads the p-th of process_count equal parts of its rows.

    Args:
      split: the split to read.
      cfg: threads, workers, max_pixels, sixteen_bit, on_bad, draft, decoder (see `DataConfig`).
      seed: at least 0.
      batch_size: global, over all hosts.
      image_size: pixels, one number or (height, width), of the one view "image".
      preset: its geometry is applied here (see `presets.PRESETS`).
      views: the views of self-distillation in place of one image (see `recipe.check`).
      fields: what else is read of each record.
      sampling: how often the images of each class are drawn (see `sampling.POWERS`); not "uniform" needs labels.
      sizes: sizes that differ from batch to batch, in place of image_size: they depend on seed and batch alone.
      shapes: (width, height) of each record, (N, 2), for `sizes` with ratios (see `dimensions`).
      resize: its filter is used. A preset without random crops ("none") uses all of it and crops as in evaluation.
      channels: C of the images.
      process_index, process_count: index of this host and number of hosts.

    Raises:
      UserError: if the batch is larger than the split or not divisible by the number of hosts; for invalid views or an
        unknown sampling; with on_bad="stop", at the first bad image during iteration.
    """
    cfg = DataConfig.of(cfg)
    get_filter(resize.interpolation)  # raise for an unknown name here, not in a reading thread
    if views is None:
        crops = {"image": Crops(as_size(image_size or 224), (get_preset(preset),))}
    else:
        kinds = {kind: expanded(check(views), kind) for kind in KINDS}
        crops = {kind: Crops(as_size(found[0].size), found, several=True) for kind, found in kinds.items() if found}
    read = Reader(crops, tuple(fields), resize, cfg.reading(channels), cfg.draft, decoder_of(cfg.decoder))
    _check_shares(batch_size, process_index, process_count)
    if batch_size > len(split):
        raise UserError(
            f"batch_size {batch_size} is larger than the {len(split)} images of {split.name}; "
            f"set it to {len(split)} or less"
        )
    order_seed, crop_seed = (int(word) for word in np.random.SeedSequence(seed).generate_state(2))
    steps = len(split) // batch_size
    labels = split.fields.get("label", np.empty(0, np.int32))
    how, records = (labels, sampling), Records(split, len(split))
    if sizes and sizes.ratios:
        order = EpochOrder(
            groups_of(shapes, sizes.ratios), *how, batch_size=batch_size, total=steps * batch_size, seed=order_seed
        )
        records = AspectBatches(grain.MapDataset.source(records), order, batch_size)
    else:
        records = sampled(records, *how, steps * batch_size, order_seed)
    if sizes:
        records = records.map_with_index(partial(_with_size, sizes, batch_size, steps, seed))
    # A record's random numbers belong to its position in the global, endless order: map before dividing among hosts.
    records = records.map_with_index(partial(_with_place, batch_size)).random_map(read, seed=crop_seed)
    batches = _share(records, batch_size, process_index, process_count).repeat()
    identity = {"seed": seed, "batch_size": batch_size, "records": len(split), "sampling": sampling}
    identity |= {"sizes": str(sizes)} if sizes else {}
    return TrainIter(batches, cfg, BadImages(split, cfg.on_bad), steps, identity)


def make_eval_iter(
    split: Split,
    cfg: DataConfig | Mapping | None = None,
    *,
    batch_size: int,
    image_size: int | tuple[int, int],
    fields: Sequence[Field] = (LABEL,),
    resize: Resize = DEFAULT,
    channels: int = RGB,
    process_index: int = 0,
    process_count: int = 1,
    preset: str | View | None = None,
    seed: int = 0,
) -> "EvalBatches":
    """Return every record once, in order, resized and centre-cropped; the last batch is padded with weight 0.

    The arguments are those of `make_train_iter`. The result can be iterated repeatedly; its length is
    the number of batches, the same on every host.

    Args:
      preset: crop and move the images by its geometry as in training, drawn from the seed and the record's index.
    """
    cfg = DataConfig.of(cfg)
    get_filter(resize.interpolation)
    _check_shares(batch_size, process_index, process_count)
    steps = -(-len(split) // batch_size)
    records = grain.MapDataset.source(Records(split, steps * batch_size))
    if preset is None:
        records = records.map(eval_reader(as_size(image_size), resize, cfg.reading(channels), tuple(fields)))
    else:
        crops = {"image": Crops(as_size(image_size), (get_preset(preset),))}
        records = records.random_map(Reader(crops, tuple(fields), resize, cfg.reading(channels), cfg.draft), seed=seed)
    batches = _share(records, batch_size, process_index, process_count)
    return EvalBatches(batches, cfg, BadImages(split, cfg.on_bad))


def make_whole_iter(
    split: Split,
    cfg: DataConfig | Mapping | None = None,
    *,
    fields: Sequence[Field],
    short_side: int = 0,
    squashed: tuple[int, int] | None = None,
    resize: Resize = DEFAULT,
    channels: int = RGB,
) -> "EvalBatches":
    """Return every record once, in order and whole, in batches of one, on every host; fields keep their own size.

    Args:
      short_side: images are resized to this short side, pixels; 0 keeps their size.
      squashed: images are resized to this (height, width) instead.
      split, cfg, fields, channels: as in `make_train_iter`. resize: its filter is used.
    """
    cfg = DataConfig.of(cfg)
    get_filter(resize.interpolation)
    blank = {"image": Crops((1, 1), (View(),))}  # of an image that cannot be read
    how = dict(draft=False, short=short_side, squashed=squashed)
    read = WholeReader(blank, tuple(fields), resize, cfg.reading(channels), **how)
    batches = _share(grain.MapDataset.source(Records(split, len(split))).map(read), 1, 0, 1)
    return EvalBatches(batches, cfg, BadImages(split, cfg.on_bad))


class TrainIter:
    """Endless iterator over batches with an exact position.

    Attributes:
      steps_per_epoch: number of batches in an epoch.
      bad: the `BadImages` found so far.
    """

    def __init__(self, batches, cfg: DataConfig, bad: BadImages, steps_per_epoch: int, identity: dict[str, Any]):
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

    def state(self) -> dict[str, Any]:
        """Return the position as a small JSON-serialisable dict: the number of batches returned, and the settings."""
        return {"next_batch": self._next, **self._identity}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go to a saved position: the next batches are identical, bit for bit, to those that followed `state()`.

        Threads, workers and the number of hosts may differ from those of the run that saved it. Raises
        UserError if the state belongs to another seed, batch size or data set.
        """
        saved = {"sampling": UNIFORM, **state}  # earlier versions had no other
        for key, ours in self._identity.items():
            if saved.get(key) != ours:
                raise UserError(
                    f"the saved data position has {key} = {saved.get(key)}, this run {ours}: "
                    "it would go on with other images. Use the same setting, or start a new run"
                )
        self.close()
        self._next = int(state["next_batch"])

    def close(self) -> None:
        """Stop prefetching and end the worker processes. Iterating again restarts them."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None


class EvalBatches:
    """One pass over a split each time it is iterated. `bad` holds the `BadImages` found so far."""

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


def _with_place(batch_size: int, index: int, element: dict[str, Any]) -> dict[str, Any]:
    return element | {"place": index % batch_size}


def _with_size(
    sizes: Sizes, batch_size: int, steps: int, seed: int, index: int, element: dict[str, Any]
) -> dict[str, Any]:
    """Add the size of a record's batch; `index` counts all records of the endless order, `steps` batches an epoch."""
    batch, group = index // batch_size, element.pop("group", None)
    return element | {"view_size": sizes.fit(sizes.base(batch // steps, batch, seed), group)}


def _check_shares(batch_size: int, process_index: int, process_count: int) -> None:
    if not 0 <= process_index < process_count:
        raise UserError(f"process_index {process_index} is not among {process_count} host(s)")
    if batch_size < 1 or batch_size % process_count:
        raise UserError(f"batch_size {batch_size} must be a positive multiple of the {process_count} host(s)")


def _share(records, batch_size: int, process_index: int, process_count: int):
    """Return this host's rows of each global batch, batched."""
    return records.batch(batch_size // process_count, drop_remainder=True)[process_index::process_count]


def _open_stream(batches, cfg: DataConfig):
    """Return a Grain iterator over `batches`. Threads and workers read whole batches, which keeps their order."""
    ahead = max(2, cfg.num_threads)
    options = grain.ReadOptions(num_threads=cfg.num_threads, prefetch_buffer_size=ahead)
    stream = batches.to_iter_dataset(options)
    return ProcessStream(stream, cfg.num_workers) if cfg.num_workers else iter(stream)


def _received(batch: Batch, bad: BadImages) -> Batch:
    """Move the reasons and remarks from a batch to `bad`.

    Data from a worker process is in shared memory that Grain reuses, so it is copied.
    """
    batch = {key: value if type(value) is np.ndarray else np.array(value) for key, value in batch.items()}
    reasons = batch.pop("reason")
    for row in np.flatnonzero(batch["index"] != PADDING):
        if batch["weight"][row] == 0:
            bad.add(int(batch["index"][row]), reasons[row].decode())
        elif reasons[row]:
            bad.remark(int(batch["index"][row]), reasons[row].decode())
    return batch
