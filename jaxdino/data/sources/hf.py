"""The source "hf": data sets of Hugging Face's `datasets` on this disk, written by `save_to_disk` or as parquet."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from jaxdino.core.errors import UserError
from jaxdino.core.words import few
from jaxdino.data.config import DataConfig
from jaxdino.data.record import Source
from jaxdino.data.roots import existing
from jaxdino.data.sources.stored_images import Classes, chosen_column, chosen_splits, source_of
from jaxdino.data.split_names import split_word

CHUNK = 10_000  # rows whose classes are read at a time


class HfStore:
    """The images of a split, see `stored.Store`: bytes in the table, or files below the folder."""

    def __init__(self, table: Any, column: str, split: str, top: str):
        self.table, self.column, self.split, self.top = table, column, split, top

    def __len__(self) -> int:
        return len(self.table)

    def name(self, row: int) -> str:
        """Return the name of an image: the split and its number."""
        return f"{self.split}/{row}"

    def size(self, row: int) -> int:
        """Return -1: the size is known only by reading."""
        return -1

    def read(self, row: int) -> bytes:
        """Return the bytes of an image. Raises OSError if they are neither in the table nor in a file of the folder."""
        value = self.table[row][self.column]
        if isinstance(value, bytes):
            return value
        content, path = (value or {}).get("bytes"), (value or {}).get("path")
        if content is not None:
            return content
        file = os.path.realpath(os.path.join(self.top, path or ""))
        if not path or not file.startswith(os.path.join(os.path.realpath(self.top), "")):
            raise OSError(
                f"the image has no bytes, and its path {path!r} is not in {self.top}: write the data set by "
                "save_to_disk, which stores the images"
            )
        return Path(file).read_bytes()


def hf(cfg: DataConfig, field: str) -> Source:
    """List the images of a folder that `datasets.save_to_disk` wrote, or that holds parquet files.

    Parquet files belong to the splits that their names say (train-00000-of-00002.parquet), or the folders they are in.
    The images are the column of images or of bytes; the classes a column of class labels, numbers or texts, or of lists
    of them; `image_column` and `columns` name others.

    Raises:
      UserError: without the library, for a folder of neither kind, columns that do not fit, and as
        `stored_images.source_of`.
    """
    library = _library()
    top = existing(cfg.root, "hf")
    tables = _tables(library, top)
    called = chosen_splits(cfg, list(tables), str(top))
    features = dict(tables[called["train"]].features)
    images = [name for name, one in features.items() if _is_image(library, one)]
    image = chosen_column(images, cfg.image_column, ("image", "img"), "image", "--config.data.image_column", str(top))
    kinds = {name: one for name, one in features.items() if name != image and _is_class(library, one)}
    usual = ("label", "labels", "fine_label")
    label = chosen_column(list(kinds), cfg.columns, usual, "classes", "--config.data.columns", str(top))
    inner = getattr(kinds[label], "feature", kinds[label])
    names = tuple(inner.names) if isinstance(inner, library.ClassLabel) else None
    stores, classes = {}, {}
    for split, name in called.items():
        table = tables[name]
        if image not in table.column_names or label not in table.column_names:
            raise UserError(f"{top}: the split {name} lacks the column {image!r} or {label!r} of train")
        alone = table.select_columns([image])
        if isinstance(features[image], library.Image):
            alone = alone.cast_column(image, library.Image(decode=False))
        stores[split] = HfStore(alone, image, name, str(top))
        classes[split] = Classes.of(_classes(table.select_columns([label]), label, names, f"{top}, {name}"))
    notes = [f"images from the column {image!r}, classes from {label!r}"]
    return source_of("hf", cfg, field, stores, classes, names, called, notes)


FIELDS: dict[str, Callable[[DataConfig], Source]] = {
    "label": lambda cfg: hf(cfg, "label"),
    "labels": lambda cfg: hf(cfg, "labels"),
}


def _library() -> Any:
    try:
        import datasets
    except ImportError:
        raise UserError("data.name=hf needs the library datasets: pip install 'jaxdino[datasets]'") from None
    return datasets


def _tables(library: Any, top: Path) -> dict[str, Any]:
    """Return {name of a split: its table}."""
    try:
        if (top / "dataset_dict.json").is_file() or (top / "state.json").is_file():
            found = library.load_from_disk(str(top))
            return dict(found) if isinstance(found, library.DatasetDict) else {"train": found}
        files: dict[str, list[str]] = {}
        for path in sorted(top.rglob("*.parquet")):
            name = split_word(path.stem) or split_word(path.parent.name) or "train"
            files.setdefault(name, []).append(str(path))
        if files:
            return dict(library.load_dataset("parquet", data_files=files))
    except Exception as err:  # datasets and pyarrow raise many error types for damaged files
        raise UserError(f"{top} cannot be read by datasets: {type(err).__name__}: {err}") from None
    there = few(sorted(os.listdir(top)), 5) or "nothing"
    raise UserError(
        f"{top} was not written by datasets.save_to_disk and holds no parquet files; found: {there}. A data set of "
        "the hub is saved with datasets.load_dataset(NAME).save_to_disk(DIR)"
    )


def _is_image(library: Any, feature: Any) -> bool:
    return isinstance(feature, library.Image) or getattr(feature, "dtype", "") in ("binary", "large_binary")


def _is_class(library: Any, feature: Any) -> bool:
    inner = getattr(feature, "feature", feature)
    kind = str(getattr(inner, "dtype", ""))
    return isinstance(inner, library.ClassLabel) or kind.removeprefix("u").startswith(("int", "string", "large_string"))


def _classes(table: Any, label: str, names: tuple[str, ...] | None, where: str) -> Iterator[tuple[str, ...]]:
    """Iterate over the classes of each image of a split."""
    for start in range(0, len(table), CHUNK):
        for value in table[start : start + CHUNK][label]:
            several = value if isinstance(value, list) else [value]
            if any(one is None or (names and not -1 <= one < len(names)) for one in several):
                raise UserError(f"{where}: the column {label!r} holds {value!r}, which is no class")
            yield tuple(sorted({names[one] if names else str(one) for one in several if one != -1 or not names}))
