"""Read a cache of features: check that it is whole, and load features and classes of a split."""

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxdino.core.bars import bar
from jaxdino.core.errors import UserError
from jaxdino.core.rules import did_you_mean
from jaxdino.features import manifest
from jaxdino.features.index import read_index
from jaxdino.features.storage import SCALE, decoded, map_array
from jaxdino.features.writer import INDEX


@dataclasses.dataclass(frozen=True)
class FeatureCache:
    """A complete cache.

    Attributes:
      about: the manifest. made: what the features were made of.
    """

    folder: Path
    about: Mapping[str, Any]
    made: manifest.Made

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes, in label order."""
        return self.made.identity.class_names

    @property
    def names(self) -> list[str]:
        """The names of the features."""
        return list(self.about["features"])

    @property
    def images(self) -> dict[str, int]:
        """The number of images of each split that have features."""
        return dict(self.about["images"])

    @property
    def multilabel(self) -> bool:
        """Whether an image may have several classes."""
        return self.made.data["field"] == "labels"

    def width(self, name: str) -> int:
        """Return the width of a feature."""
        return self.about["features"][name][-1]

    def load(self, split: str, name: str, view: int = 0) -> np.ndarray:
        """Load a feature of a split into memory: float32 (N, D), or patch tokens (N, h, w, D).

        Args:
          view: 0 for the images as in evaluation, else the number of an augmented view of train.

        Raises:
          UserError: for an unknown split, feature or view, and for files that are missing or damaged.
        """
        self._check(split, name, view)
        parts = [shard for shard in self.about["shards"] if shard["split"] == split]
        found = np.empty((self.images[split], *self.about["features"][name]), np.float32)
        first = 0
        for values in bar(self._arrays(parts, name, view), f"reading {split}", total=len(parts), unit="shard"):
            found[first : first + len(values)] = values
            first += len(values)
        return found

    def _arrays(self, parts: Sequence[Mapping[str, Any]], name: str, view: int) -> Iterator[np.ndarray]:
        store = self.made.settings["store"]
        base = f"{name}.view{view}" if view else name
        for part in parts:
            arrays = {}
            for ending in ("", SCALE) if store == "int8" else ("",):
                file = f"{base}{ending}.npy"
                arrays[ending] = map_array(self.folder / part["place"] / file, part["files"].get(file, -1))
            yield decoded(arrays, store)

    def labels(self, split: str) -> np.ndarray:
        """Return the classes of a split: int32 (N,), or float32 (N, C) of 0 and 1 if an image may have several.

        Raises:
          UserError: if the images have no classes, or the index does not fit the features.
        """
        self._check(split)
        field = self.made.data["field"]
        if not field:
            raise UserError(f"the images of {self.folder} have no classes: a probe needs a source with classes")
        found = read_index(self.folder / INDEX, split, [field])[field]
        if len(found) != self.images[split]:
            raise UserError(f"{self.folder / INDEX} has {len(found)} images of {split}, not {self.images[split]}")
        if field == "label":
            return found.astype(np.int32)
        table = np.zeros((len(found), len(self.class_names)), np.float32)
        for row, labels in enumerate(found):
            table[row, labels] = 1
        return table

    def paths(self, split: str) -> list[str]:
        """Return the names of the images of a split, in the order of their features."""
        self._check(split)
        return read_index(self.folder / INDEX, split, ["path"])["path"].tolist()

    def _check(self, split: str, name: str | None = None, view: int = 0) -> None:
        if not self.images.get(split):
            there = ", ".join(f"{key} ({count} images)" for key, count in self.images.items() if count)
            raise UserError(f"{self.folder} has no features of the split {split!r}; it has: {there}")
        if name is not None and name not in self.about["features"]:
            raise UserError(f"{self.folder} has no feature {name!r}; {did_you_mean(name, self.names)}")
        views = self.made.settings["views"] if split == "train" else 0
        if not 0 <= view <= views:
            raise UserError(f"{self.folder} has {views} augmented views of {split}: there is no view {view}")


def open_features(folder: str | Path) -> FeatureCache:
    """Open a cache.

    Raises:
      UserError: for a folder without features, an extraction that is not finished, or a cache of another version.
    """
    folder = Path(folder)
    about = manifest.read_manifest(folder)
    if not about.get("complete"):
        raise UserError(f"the extraction to {folder} is not finished: run the same jaxdino extract again, to go on")
    try:
        made = manifest.made_of(about)
        _ = {split: int(count) for split, count in about["images"].items()}, json.dumps(about["features"])
        if made.code != manifest.CODE:
            raise UserError(
                f"{folder} has features of code version {made.code}, and this jaxdino makes version {manifest.CODE}: "
                "make them anew with jaxdino extract --overwrite"
            )
    except (KeyError, TypeError, AttributeError):
        raise UserError(f"{folder / manifest.FILE} is damaged: make the features anew with --overwrite") from None
    return FeatureCache(folder, about, made)
