"""Sources of images: list the records of each split, with their classes if any.

A source holds paths or small arrays; nothing is decoded here.
"""

import dataclasses
import functools
from collections import Counter
from collections.abc import Callable, Container, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxdino.core import options
from jaxdino.core.errors import UserError
from jaxdino.core.rules import nearest
from jaxdino.data.channels import RGB, Reading
from jaxdino.data.folders import CLASSES, list_folder, list_images, visible_folders
from jaxdino.data.ranges import Range
from jaxdino.data.split_names import SPLITS, split_of
from jaxdino.data.splitting import stratified


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """All options of `jaxdino.data`, with their defaults. `dataclasses.asdict(DataConfig())` is the config.

    Attributes:
      name: a key of `SOURCES`, or of `pair_sources.PAIR_SOURCES` for a task with masks.
      root: the folder, or for "images" one or more, separated by commas.
      val_ratio, test_ratio: share of each class to split off if the folder has no such split.
      split_seed: seed of these splits.
      train_split: the folder (list, file) of the training images; None looks for a usual name, "." is the root itself.
      val_split: the folder (list, file) of the validation images; None looks for a usual name, "none" uses none.
      test_split: the folder (list, file) of the test images; None looks for a usual name, "none" uses none.
      classes: "top": the folders of a split are the classes; "leaf": every folder below it that holds images is one.
      num_threads: reading threads in each process; 0 reads in the calling thread.
      num_workers: reading processes in addition to the main one; 0 reads in the main process.
      max_pixels: an image with more pixels (width x height) is refused before it is decoded.
      sixteen_bit: the values of black and white in 16-bit, 32-bit and float images: "auto" (the smallest bit depth that
        holds the training images' values), "full", each "image", "percentiles", "percentiles:1,99", or "0,4095".
      mean: mean of each channel, for pixels in 0..1: one number or one per channel; None: as the weights were trained.
      std: the standard deviation of each channel, likewise.
      on_bad: "skip" gives an unreadable image weight 0 and counts it; "stop" raises.
      draft: decode training JPEGs at 1/2, 1/4 or 1/8 if the crop stays large enough.
    """

    name: str = "digits"
    root: str | None = None
    val_ratio: float = 0.2
    test_ratio: float = 0.0
    split_seed: int = 0
    train_split: str | None = None
    val_split: str | None = None
    test_split: str | None = None
    classes: str = "top"
    num_threads: int = 2
    num_workers: int = 0
    max_pixels: int = 64 * 2**20
    sixteen_bit: str = "auto"
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    on_bad: str = "skip"
    draft: bool = True

    def __post_init__(self):
        if self.on_bad not in ("skip", "stop"):
            raise UserError(f"on_bad is {self.on_bad!r}; it is one of: skip, stop")
        if self.classes not in CLASSES:
            raise UserError(f"data.classes is {self.classes!r}; it is one of: {', '.join(CLASSES)}")
        if min(self.val_ratio, self.test_ratio) < 0 or self.val_ratio + self.test_ratio >= 1:
            raise UserError(
                f"val_ratio {self.val_ratio} and test_ratio {self.test_ratio} must be at least 0 and leave "
                "something to train on: their sum stays below 1"
            )
        if min(self.num_threads, self.num_workers) < 0 or self.max_pixels < 1:
            raise UserError("num_threads and num_workers must be at least 0, max_pixels at least 1")
        Range.of(self.sixteen_bit)

    def reading(self, channels: int = RGB) -> Reading:
        """Return how images are read for a model of `channels`."""
        return Reading(channels, Range.of(self.sixteen_bit), self.max_pixels)

    @property
    def given_splits(self) -> dict[str, str | None]:
        """Return {split: the name given for it, or None}."""
        return {"train": self.train_split, "val": self.val_split, "test": self.test_split}

    @classmethod
    def of(cls, cfg: "Mapping | DataConfig | None") -> "DataConfig":
        """Read a dict or ConfigDict (see `options.read`)."""
        return options.read(cls, cfg, "data")


@dataclasses.dataclass(frozen=True)
class Split:
    """One split: N records with their labels.

    Attributes:
      name: "train", "val" or "test".
      records: N paths (str), or N uint8 arrays (H, W, C), or N `pairs.Pair`.
      labels: int32 (N,), indices into `class_names`; all 0 if there are no classes.
      class_names: names in label order; empty for unlabelled images.
      root: record names are shown relative to this folder, if they are files.
    """

    name: str
    records: Sequence[Any]
    labels: np.ndarray
    class_names: tuple[str, ...]
    root: str | None = None

    def __len__(self) -> int:
        return len(self.records)

    def record_name(self, index: int) -> str:
        """Return the name of a record for messages: its path below the root (printable), or split and number."""
        record = getattr(self.records[index], "image", self.records[index])  # a pair is named by its image
        if not isinstance(record, str):
            return f"{self.name}[{index}]"
        path = Path(record)
        if self.root is not None and path.is_relative_to(self.root):
            path = path.relative_to(self.root)
        return path.as_posix().encode("utf-8", "backslashreplace").decode()

    def counts(self) -> dict[str, int]:
        """Return the number of records of each class, in label order."""
        found = Counter(self.labels.tolist())
        return {name: found[label] for label, name in enumerate(self.class_names)}


@dataclasses.dataclass(frozen=True)
class Source:
    """All splits of one data set.

    Attributes:
      ignored: counts of skipped files: {"hidden": 3, "not an image (.txt)": 1}.
      origins: {split: where it comes from, if its name does not say it: "Training", "20 % of train"}.
      notes: messages about the data for the user, one line each.
    """

    name: str
    class_names: tuple[str, ...]
    splits: dict[str, Split]
    ignored: dict[str, int] = dataclasses.field(default_factory=dict)
    origins: dict[str, str] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def split(self, name: str) -> Split:
        """Return the split of that name. Raise UserError with the available splits if there is none."""
        if name not in self.splits:
            sizes = ", ".join(f"{key} ({len(split)} images)" for key, split in self.splits.items())
            ways = (
                f". Name its sub-folder with --config.data.{name}_split=NAME, or split off a share of train with "
                f"--config.data.{name}_ratio=0.2"
            )
            hint = ways if name in SPLITS[1:] else ""
            raise UserError(f"the data source {self.name!r} has no split {name!r}; found: {sizes}{hint}")
        return self.splits[name]


def load_source(cfg: Mapping | DataConfig | None) -> Source:
    """List the records of the source named by `cfg.name`.

    Args:
      cfg: a `DataConfig`, or a dict or ConfigDict of its fields.

    Raises:
      UserError: for an unknown name or option, and for any error of the source (with what it found).
    """
    cfg = DataConfig.of(cfg)
    if cfg.name not in SOURCES:
        raise UserError(f"unknown data source {cfg.name!r}; nearest: {', '.join(nearest(cfg.name, SOURCES))}")
    return SOURCES[cfg.name](cfg)


def digits(cfg: DataConfig) -> Source:
    """Load scikit-learn's 1,797 handwritten digits as 8x8 RGB: 1,079 train, 359 val, 359 test, stratified.

    The split is fixed, independent of the seed and ratios in `cfg`, so that weights trained on the training part can be
    evaluated on the test part. Grey levels 0..16 become 0..255.
    """
    images, labels = _digit_arrays()
    keys = [f"digit-{index}" for index in range(len(labels))]
    parts = stratified(keys, labels, {"val": 0.2, "test": 0.2}, seed=0, class_names=list("0123456789"))
    names = tuple("0123456789")
    splits = {name: Split(name, [images[i] for i in parts[name]], labels[parts[name]], names) for name in SPLITS}
    return Source("digits", names, splits)


@functools.cache
def _digit_arrays() -> tuple[np.ndarray, np.ndarray]:
    """Return uint8 (1797, 8, 8, 3) and int32 (1797,)."""
    from sklearn.datasets import load_digits  # slow to import, and only this source needs it

    raw = load_digits()
    grey = np.rint(raw.images * (255 / 16)).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=-1), raw.target.astype(np.int32)


def folder(cfg: DataConfig) -> Source:
    """List image folders: root/{train,val,test}/<class>/**, or root/<class>/** with a stratified, seeded split.

    A missing validation (or test) folder is filled from the training images by `val_ratio` (`test_ratio`).

    Raises:
      UserError: for a missing root, no images, an empty class, fewer than two classes, a class of val or test that
        train lacks, a class too small to split, or an ambiguous layout (see `layout`).
    """
    listing = list_folder(cfg.root, cfg.given_splits, cfg.classes)
    class_names = tuple(listing.files["train"])
    flat = {name: _flatten(classes, class_names) for name, classes in listing.files.items()}
    ratios = ratios_of(cfg, flat)
    if ratios:
        paths, labels = flat["train"]
        keys = [Path(path).relative_to(listing.root).as_posix() for path in paths]
        for name, rows in stratified(keys, labels, ratios, cfg.split_seed, class_names).items():
            flat[name] = [paths[i] for i in rows], labels[rows]
    splits = {
        name: Split(name, flat[name][0], flat[name][1], class_names, listing.root) for name in SPLITS if name in flat
    }
    return Source("folder", class_names, splits, listing.ignored, origins(cfg, listing.called), listing.notes)


def ratios_of(cfg: DataConfig, found: Container[str]) -> dict[str, float]:
    """Return {split: share of train to split off} for the splits that were not found."""
    wanted = {"val": cfg.val_ratio, "test": cfg.test_ratio}
    return {name: ratio for name, ratio in wanted.items() if name not in found and ratio > 0}


def origins(cfg: DataConfig, called: Mapping[str, str], how: str = "stratified, ") -> dict[str, str]:
    """Return where splits come from (see `Source`): paths `called` below the root, and shares split off from train."""
    found = {split: name for split, name in called.items() if name not in (split, ".")}
    shares = ratios_of(cfg, called).items()
    return found | {name: f"{100 * ratio:.3g} % of train, {how}seed {cfg.split_seed}" for name, ratio in shares}


def _flatten(classes: dict[str, list[str]], class_names: tuple[str, ...]) -> tuple[list[str], np.ndarray]:
    """Flatten {class: paths} to one list of paths and its labels, class by class."""
    labels = {name: label for label, name in enumerate(class_names)}
    paths = [path for files in classes.values() for path in files]
    counts = [len(files) for files in classes.values()]
    return paths, np.repeat(np.array([labels[name] for name in classes], np.int32), counts)


def images(cfg: DataConfig) -> Source:
    """List unlabelled images: all below the root, or below several roots separated by commas, at any depth.

    There is one split, "train", and no class: folders that other sources read as splits or classes have no special
    meaning here, and no share is split off.

    Raises:
      UserError: if a root is missing or holds no image.
    """
    top, paths, ignored = list_images(cfg.root)
    split = Split("train", paths, np.zeros(len(paths), np.int32), (), top)
    return Source("images", (), {"train": split}, ignored, notes=_all_taken(top))


def _all_taken(top: str) -> tuple[str, ...]:
    """Return a line if validation or test folders are among the folders that are read."""
    found = [path.name for path in visible_folders(Path(top)) if split_of(path.name) in ("val", "test")]
    return (f"all folders are read, {' and '.join(found)} too: to leave them out, set a lower root",) * bool(found)


SOURCES: dict[str, Callable[[DataConfig], Source]] = {"digits": digits, "folder": folder, "images": images}
