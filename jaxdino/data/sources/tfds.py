"""The source "tfds": a data set that TensorFlow Datasets has prepared on this disk, read without TensorFlow.

Nothing is downloaded or prepared here: the files must be there, in the format array_record.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jaxdino.core.bars import bar
from jaxdino.core.errors import UserError
from jaxdino.core.json_file import JsonError, read_json
from jaxdino.core.rules import did_you_mean
from jaxdino.core.words import few
from jaxdino.data.config import DataConfig
from jaxdino.data.record import Source
from jaxdino.data.roots import existing
from jaxdino.data.sources.stored_images import Classes, chosen_column, chosen_splits, source_of

OWN = "tensorflow_datasets."
INFO = "dataset_info.json"
DEPTHS = ("", "*/", "*/*/", "*/*/*/")  # the root may be that of all data sets, of one, or of a version
SHOWN = 8


class TfdsStore:
    """The images of a split, see `stored.Store`; each process opens the files itself."""

    def __init__(self, folder: Path, split: str, image: str, count: int):
        self.folder, self.split, self.image, self.count = folder, split, image, count
        self._source: Any = None

    def __len__(self) -> int:
        return self.count

    def name(self, row: int) -> str:
        """Return the name of an image: the split and its number."""
        return f"{self.split}/{row}"

    def size(self, row: int) -> int:
        """Return -1: the size is known only by reading."""
        return -1

    def read(self, row: int) -> bytes:
        """Return the bytes of an image. Raises OSError for a damaged file."""
        if self._source is None:
            self._source = _opened(self.folder, self.split)
        try:
            return self._source[row][self.image]
        except Exception as err:  # array_record and protobuf raise errors of their own for damaged files
            raise OSError(f"record {row} of {self.split} in {self.folder} is damaged: {err}") from err

    def __reduce__(self) -> tuple[Any, ...]:
        return TfdsStore, (self.folder, self.split, self.image, self.count)


def tfds(cfg: DataConfig, field: str) -> Source:
    """List the images of `data.dataset`, NAME[/CONFIG][:VERSION], in the folder `data.root`.

    The classes are those of the feature "label" or "labels", or of the only one of classes; `columns` names another, as
    `image_column` does for the images. All records are read once for their classes.

    Raises:
      UserError: if the data set is not on the disk, or not in a format that is read record by record; for features that
        do not fit; see also `stored_images.source_of`.
    """
    folder = _folder(cfg)
    _check_features(folder)
    try:
        builder = _library().builder_from_directory(str(folder))
        features, splits, form = dict(builder.info.features), builder.info.splits, builder.info.file_format
    except Exception as err:  # TFDS raises many error types for damaged descriptions
        raise UserError(f"{folder} cannot be read as a data set of TFDS: {err}") from None
    if form is None or form.value != "array_record":
        raise UserError(
            f"{folder} is stored as {form.value if form else 'an unknown format'}, which cannot be read record by "
            "record. Convert it where TFDS is installed with TensorFlow: tfds convert_format --root_data_dir=DIR "
            "--out_file_format=array_record"
        )
    library = _library()
    images = [name for name, one in features.items() if isinstance(one, library.features.Image)]
    image = chosen_column(images, cfg.image_column, ("image",), "image", "--config.data.image_column", str(folder))
    of_classes = {name: names for name, one in features.items() if (names := _names(one)) is not None}
    usual = ("label", "labels")
    label = chosen_column(list(of_classes), cfg.columns, usual, "classes", "--config.data.columns", str(folder))
    names = tuple(of_classes[label])
    called = chosen_splits(cfg, list(splits), str(folder))
    stores = {s: TfdsStore(folder, called[s], image, splits[called[s]].num_examples) for s in called}
    classes = {split: Classes.of(_classes(folder, name, label, names)) for split, name in called.items()}
    notes = [f"images from {image!r}, classes from {label!r} of {folder}"]
    return source_of("tfds", cfg, field, stores, classes, names, called, notes)


FIELDS: dict[str, Callable[[DataConfig], Source]] = {
    "label": lambda cfg: tfds(cfg, "label"),
    "labels": lambda cfg: tfds(cfg, "labels"),
}


def _library() -> Any:
    import tensorflow_datasets

    return tensorflow_datasets


def _opened(folder: Path, split: str) -> Any:
    """Open a split; its images stay bytes."""
    library = _library()
    builder = library.builder_from_directory(str(folder))
    images = [name for name, one in builder.info.features.items() if isinstance(one, library.features.Image)]
    decoders = {name: library.decode.SkipDecoding() for name in images}
    return builder.as_data_source(split=split, decoders=decoders)


def _check_features(folder: Path) -> None:
    """Raise UserError for features that TFDS would import from elsewhere: a data set must not run code."""
    try:
        given = read_json(folder / "features.json", dict)
    except JsonError as err:
        raise UserError(str(err)) from None
    open_ones: list[Any] = [given]
    while open_ones:
        one = open_ones.pop()
        if isinstance(one, dict):
            name = one.get("pythonClassName", OWN)
            if not isinstance(name, str) or not name.startswith(OWN):
                raise UserError(f"{folder}: the feature {name!r} is not one of TFDS, and is not loaded")
            open_ones += one.values()
        elif isinstance(one, list):
            open_ones += one


def _classes(folder: Path, split: str, label: str, names: tuple[str, ...]) -> Any:
    """Iterate over the classes of each image of a split."""
    try:
        records = _opened(folder, split)
        with bar(len(records), f"reading the classes of {split}") as watched:
            for row in range(len(records)):
                value = records[row][label]
                numbers = [int(one) for one in value] if hasattr(value, "__len__") else [int(value)]
                yield tuple(sorted({names[number] for number in numbers if number >= 0}))
                watched.update(1)
    except Exception as err:  # see `TfdsStore.read`
        raise UserError(f"{split} of {folder} cannot be read: {type(err).__name__}: {err}") from None


def _names(feature: Any) -> list[str] | None:
    """Return the names of the classes of a feature, one class or several; None for other features."""
    features = _library().features
    inner = getattr(feature, "feature", feature)
    return list(inner.names) if isinstance(inner, features.ClassLabel) and inner.num_classes else None


def _folder(cfg: DataConfig) -> Path:
    """Return the folder of the version. Raise UserError if it is not on the disk."""
    if not cfg.root:
        raise UserError(
            "the data source 'tfds' needs the folder where TFDS keeps its data: --config.data.root=DATA_DIR"
        )
    top = existing(cfg.root, "tfds")
    found = {
        path.parent.relative_to(top).as_posix(): path.parent for depth in DEPTHS for path in top.glob(depth + INFO)
    }
    name, _, version = (cfg.dataset or "").partition(":")
    fits = {key: path for key, path in found.items() if _fits(path, top, name, version)}
    bases = {os.path.dirname(key) for key in fits}
    if len(bases) == 1:  # several versions of one data set: the newest
        return fits[max(fits, key=lambda key: [int(part) for part in key.split("/")[-1].split(".") if part.isdigit()])]
    there = few(sorted(found), SHOWN) or "none"
    if fits:
        raise UserError(
            f"{top} holds several data sets: {there}. Name one: --config.data.dataset=NAME[/CONFIG][:VERSION]"
        )
    near = f"; {did_you_mean(cfg.dataset or '', sorted(found))}" if found and cfg.dataset else ""
    what = f"the data set {cfg.dataset!r} is not in {top}" if cfg.dataset else f"{top} holds no data set of TFDS"
    raise UserError(
        f"{what}; found: {there}{near}. Nothing is downloaded here: "
        "prepare it where TFDS has TensorFlow and a network, tfds build NAME --file_format=array_record --data_dir=DIR"
    )


def _fits(path: Path, top: Path, name: str, version: str) -> bool:
    parts = path.resolve().parts
    wanted = tuple(name.split("/")) if name else ()
    body = parts[:-1]
    named = not wanted or body[-len(wanted) :] == wanted or (len(body) > 1 and body[-2:-1] == wanted)
    return named and (not version or parts[-1] == version)
