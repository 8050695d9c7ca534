"""The rows that heads are trained and measured on: standardised features of one input, their classes and folds."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from jaxdino.core.errors import UserError
from jaxdino.evals.linear_heads import standardisation
from jaxdino.features.names import PATCHES
from jaxdino.features.reader import FeatureCache


@dataclasses.dataclass(frozen=True)
class Rows:
    """Features (N, ...) of images and their classes: int32 (N,), or float32 (N, C) if an image may have several."""

    x: np.ndarray
    y: np.ndarray

    def __len__(self) -> int:
        return len(self.x)


@dataclasses.dataclass(frozen=True)
class Sets:
    """The rows of one input.

    Attributes:
      train: rows to train on: of train, with folds of train and val, with the augmented views after them.
      choose: rows to choose by: those of val, or with folds the unaugmented ones of `train`.
      test: rows to measure, None without a test split.
      fold_of: the fold of each row of `train`, int32, or None. folds: their number, 0 for none.
      images: number of first rows of `train` that are not augmented.
      mean, scale: x = (feature - mean) * scale; (D,), not of patch tokens.
    """

    name: str
    parts: tuple[str, ...]
    train: Rows
    choose: Rows
    test: Rows | None
    fold_of: np.ndarray | None
    folds: int
    images: int
    mean: np.ndarray
    scale: np.ndarray


@dataclasses.dataclass(frozen=True)
class Split:
    """Which rows of the cache are trained on and measured; the same for all inputs.

    Attributes:
      fit: splits to train on. choose: the split to choose by, None with folds.
    """

    fit: tuple[str, ...]
    choose: str | None
    folds: int
    test: str | None
    fold_of_image: np.ndarray | None


def split_of(cache: FeatureCache, folds: int, seed: int) -> Split:
    """Decide what is trained on, chosen by and measured.

    Raises:
      UserError: without train or val, with images of one class only, or with more folds than images of a class.
    """
    there = {split for split, count in cache.images.items() if count}
    if "train" not in there:
        raise UserError(f"{cache.folder} has no images of train: there is nothing to train a head on")
    test = "test" if "test" in there else None
    fit = ("train", "val") if folds and "val" in there else ("train",)
    labels = np.concatenate([cache.labels(split) for split in fit])
    counts = labels.sum(axis=0) if cache.multilabel else np.bincount(labels, minlength=len(cache.class_names))
    if not cache.multilabel and np.count_nonzero(counts) < 2:
        raise UserError(
            f"train of {cache.folder} has images of one class only ({cache.class_names[int(counts.argmax())]}): "
            "there is nothing to tell apart"
        )
    if not folds:
        if "val" not in there:
            raise UserError(
                f"{cache.folder} has no images of val to choose a head by: give --folds 5 to choose by "
                "cross-validation on train, or extract again with --data.val_ratio=0.2"
            )
        return Split(fit, "val", 0, test, None)
    if folds < 2 or folds > len(labels):
        raise UserError(f"--folds {folds} must be from 2 to the {len(labels)} images to choose by")
    return Split(fit, None, folds, test, stratified(labels, folds, seed))


def stratified(labels: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """Return the fold of each image, int32 (N,): each fold gets its share of every class, as even as possible.

    Images with several classes are spread by their rarest class.
    """
    if labels.ndim == 2:
        rarity = np.where(labels > 0.5, labels.sum(axis=0)[None], np.inf)
        labels = np.where(np.isfinite(rarity.min(axis=1)), rarity.argmin(axis=1), -1)
    rng, found, first = np.random.default_rng([seed, 4]), np.zeros(len(labels), np.int32), 0
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        found[rows] = (first + np.arange(len(rows))) % folds
        first += len(rows)
    return found


def load_sets(cache: FeatureCache, name: str, parts: Sequence[str], split: Split) -> Sets:
    """Load the features of an input, side by side, and standardise them by the statistics of the training rows.

    Raises:
      UserError: for files that are missing or damaged, and features that are not finite.
    """
    patches = PATCHES in parts

    def rows(of: str, view: int = 0) -> np.ndarray:
        found = [cache.load(of, part, view) for part in parts]
        x = found[0] if len(found) == 1 else np.concatenate(found, axis=-1)
        if not np.isfinite(x).all():
            raise UserError(f"features of {of} in {cache.folder} are not finite: the model is broken")
        return x

    labels = np.concatenate([cache.labels(of) for of in split.fit])
    plain = np.concatenate([rows(of) for of in split.fit])
    views = [rows("train", view) for view in range(1, cache.made.settings["views"] + 1)]
    x = np.concatenate([plain, *views]) if views else plain
    of_train = cache.images["train"]
    y = np.concatenate([labels, *(labels[:of_train] for _ in views)])
    width = x.shape[-1]
    mean, scale = (np.zeros(width), np.ones(width)) if patches else standardisation(x)
    mean, scale = mean.astype(np.float32), scale.astype(np.float32)

    def ready(found: np.ndarray) -> np.ndarray:
        return found if patches else (found - mean) * scale

    train = Rows(ready(x), y)
    choose = Rows(train.x[: len(plain)], labels)
    if split.choose is not None:
        choose = Rows(ready(rows(split.choose)), cache.labels(split.choose))
    test = None if split.test is None else Rows(ready(rows(split.test)), cache.labels(split.test))
    fold_of = split.fold_of_image
    if fold_of is not None:
        fold_of = np.concatenate([fold_of, *(fold_of[:of_train] for _ in views)])
    return Sets(name, tuple(parts), train, choose, test, fold_of, split.folds, len(plain), mean, scale)
