"""Evaluate one model on one labelled source: nearest neighbours, linear classifier, with raw pixels as a baseline."""

import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from jaxdino.core.bars import bar
from jaxdino.core.errors import UserError
from jaxdino.core.intervals import wilson
from jaxdino.core.params import bind
from jaxdino.core.params import split as taken_apart
from jaxdino.core.table import format_table
from jaxdino.data.bad_images import BadImage, BadImages, check_read
from jaxdino.data.config import DataConfig
from jaxdino.data.photometric import normalize
from jaxdino.data.pipeline import EvalBatches, make_eval_iter
from jaxdino.data.reader import eval_reader
from jaxdino.data.record import Source, Split
from jaxdino.evals import features, pictures, pools
from jaxdino.evals.few_shot import check_shots, few_shot_accuracy
from jaxdino.evals.knn import TEMPERATURE, K, check_k, knn_accuracy
from jaxdino.evals.passes import Arrays, outputs
from jaxdino.evals.probe import linear_probe

PIXELS = 32  # side of the images of the raw pixel baseline
DRAWN = 6  # images in a picture

Embed = Callable[[jax.Array], jax.Array]


def report(
    model: Any,
    source: Source,
    data: DataConfig | None = None,
    *,
    split: str = "val",
    k: Sequence[int] = K,
    temperature: float = TEMPERATURE,
    pool: str = "cls",
    shots: Sequence[int] = (),
    probe: bool = False,
    random: bool = False,
    batch_size: int = 64,
    seed: int = 0,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Evaluate a model's features on labelled images: train is the bank, `split` is classified.

    Args:
      model: as from `jaxdino.load`. data: reading options, as for `pipeline.make_eval_iter`.
      k, temperature: as in `knn.knn_accuracy`. pool: the features, a key of `pools.FEATURES`.
      shots: numbers of labelled images per class, see `few_shot.few_shot_accuracy`; with the largest k.
      probe: run `probe.linear_probe` too. random: evaluate the same model with random weights too, drawn from `seed`.
      say: called with a line about images that could not be read.

    Returns:
      model, digest, data, split, pool, temperature, classes; images and skipped: {split: count}; rows: a list of
      {"features", "width", "knn_accuracy": {k: share}, "knn_interval", "few_shot": {n: {"mean", "std"}}, "linear": the
      result of the probe with its interval, or None} for the model, random weights if requested, and raw pixels.

    Raises:
      UserError: for a model that takes no colour images, a missing split or pool, or k above the bank's size,
        before an image is read; if no image could be read.
    """
    check(model, source, split, k, pool, batch_size)
    check_shots(shots, np.asarray(source.split("train").labels), len(source.class_names))
    size = min(PIXELS, *model.card.spec.preprocess.size)
    embeds: dict[str, Callable] = {model.name: functools.partial(pools.look, model, name=pool)}
    if random:
        embeds["random weights"] = functools.partial(pools.look, untrained(model, seed), name=pool)
    embeds[f"raw pixels {size} x {size}"] = jax.jit(functools.partial(features.flattened, size=size))
    classes, images, skipped, rows = len(source.class_names), {}, {}, []
    for name, embed in embeds.items():
        found = []
        for part in ("train", split):
            batches = batches_of(source.split(part), data, model, batch_size)
            found += _features(embed, batches, f"{name}, {part}", say if not rows else lambda line: None)
            images[part], skipped[part] = len(found[-1]), len(batches.bad)
        near = knn_accuracy(*found, k=k, temperature=temperature, num_classes=classes)
        how = dict(k=max(k), temperature=temperature, num_classes=classes, seed=seed)
        few = few_shot_accuracy(*found, shots=shots, **how)
        linear: dict[str, Any] | None = linear_probe(*found, num_classes=classes, seed=seed) if probe else None
        if linear is not None:
            span = wilson(round(linear["accuracy"] * images[split]), images[split])
            linear = {**linear, "interval": list(span)}
        spans = {count: list(wilson(round(share * images[split]), images[split])) for count, share in near.items()}
        row = {"features": name, "width": found[0].shape[1], "knn_accuracy": near, "knn_interval": spans}
        rows.append(row | {"few_shot": few, "linear": linear})
    about = {"model": model.name, "digest": model.digest, "data": source.name, "split": split, "pool": pool}
    about |= {"temperature": temperature, "classes": classes}
    return about | {"images": images, "skipped": skipped, "rows": rows}


def check(model: Any, source: Source, split: str, k: Sequence[int], pool: str, batch_size: int) -> None:
    """Raise UserError for what cannot be evaluated, before an image is read."""
    check_sight(model)
    pools.check(pool, model.card.spec)
    if split == "train":
        raise UserError("split 'train' is the bank that images are compared with: classify another, val or test")
    if batch_size < 1:
        raise UserError(f"batch_size {batch_size} must be at least 1")
    source.split(split)
    for count in k:
        check_k(count, len(source.split("train")))


def check_sight(model: Any) -> None:
    """Raise UserError for a model that takes no images."""
    config = model.card.spec.config
    if config.input_kernel not in model.flat:
        raise UserError(f"the weights are of a {model.name}, which takes no images: give a backbone or an image tower")


def untrained(model: Any, seed: int) -> Any:
    """Return the same model with random weights."""
    card = model.card
    _, flat = taken_apart(card.spec.build(head=card.head, rngs=nnx.Rngs(seed)))
    flat = {path: flat[path].astype(leaf.dtype) for path, leaf in model.flat.items()}
    return type(model)(card, model.skeleton, flat)


def batches_of(
    split: Split, data: DataConfig | None, model: Any, batch_size: int, part_of: int | None = None
) -> EvalBatches:
    """Return batches of a split, preprocessed for the model.

    Args:
      part_of: images of which the split is a part, if it is one: its batches then have the size that they have there.
    """
    how = model.card.spec.preprocess
    return make_eval_iter(
        split,
        data,
        batch_size=min(batch_size, part_of or len(split)),
        image_size=how.size,
        resize=how.resize,
        channels=len(how.mean),
    )


def readable(
    split: Split, data: DataConfig, model: Any, look: Embed, batch_size: int, part_of: int | None = None
) -> tuple[Iterator[tuple[np.ndarray, np.ndarray]], BadImages]:
    """Return batches of (rows of the readable images (n,), their features float32 (n, ...)), and the unreadable images.

    Args:
      look: images uint8 (B, H, W, C) -> features (B, ...). part_of: as in `batches_of`.
    """
    batches = batches_of(split, data, model, batch_size, part_of)

    def step(batch: Arrays) -> Arrays:
        return {"features": look(batch["image"]), "weight": batch["weight"], "index": batch["index"]}

    def read() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for one in outputs(step, batches, ("image", "weight", "index")):
            there = one["weight"] > 0
            if there.any():
                yield one["index"][there].astype(np.int64), np.asarray(one["features"], np.float32)[there]

    return read(), batches.bad


def _features(
    embed: Embed, batches: EvalBatches, what: str, say: Callable[[str], None]
) -> tuple[np.ndarray, np.ndarray]:
    try:
        found = features.extract(embed, bar(batches, what, unit="batch"))
    except features.NoImages:
        check_read(batches.bad, len(batches.bad), len(batches.bad), say)
        raise
    if batches.bad:
        say(batches.bad.report())
    return found


def draw(model: Any, split: Split, folder: str | Path, size: int | None = None) -> list[Path]:
    """Draw what the model sees in up to `DRAWN` images, spread over a split, with `pictures.draw`.

    Args:
      size: pixels a side, a multiple of the patch size; the model's own if None.

    Raises:
      UserError: as `pictures.draw`, for a size that does not fit the patches, or a model that takes no colour images.
    """
    check_sight(model)
    how = model.card.spec.preprocess
    shape = how.size if size is None else (size, size)
    read = eval_reader(shape, how.resize, model.reading(split.records))
    images = []
    for i in np.unique(np.linspace(0, len(split) - 1, DRAWN).astype(int)):
        try:
            images.append(read.image(split.records[i]))
        except BadImage:
            continue

    @jax.jit
    def see(flat, images):
        return pictures.look(bind(model.skeleton, flat).backbone, normalize(images, how.mean, how.std))

    return pictures.draw(functools.partial(see, model.flat), np.array(images), folder)


def _with_interval(share: float, n: int) -> str:
    low, high = wilson(round(share * n), n)
    return f"{share:.2%} [{low:.2%}, {high:.2%}]"


def table(found: dict[str, Any]) -> str:
    """Format a report as text lines."""
    first = found["rows"][0]
    counts, shots, probed = list(first["knn_accuracy"]), list(first["few_shot"]), first["linear"] is not None
    measured = (*(f"k-NN {k}" for k in counts), *(f"{n} a class" for n in shots), *(["linear"] if probed else []))
    images, what = found["images"], found["split"]
    cells = [["features", "width", *measured]]
    for row in found["rows"]:
        few = (f"{few['mean']:.2%} ± {few['std']:.2%}" for few in row["few_shot"].values())
        linear = [_with_interval(row["linear"]["accuracy"], images[what])] if probed else []
        near = [_with_interval(share, images[what]) for share in row["knn_accuracy"].values()]
        cells.append([row["features"], f"{row['width']:,}", *near, *few, *linear])
    lines = [
        f"{found['data']}: {images[what]:,} images of {what}, compared with {images['train']:,} of train; "
        f"{found['classes']} classes; intervals: 95 % (Wilson)"
        + ("; ± is the standard deviation of draws" if shots else "")
    ]
    return "\n".join([*lines, format_table(cells, rule=False)])
