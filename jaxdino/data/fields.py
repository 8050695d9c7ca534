"""Fields of a record: how each is read, moved with the image, and left blank when the image cannot be read.

A batch has the entries of every field that a task reads, next to image, weight and index (see `pipeline`).
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

import numpy as np

from jaxdino.data.bad_images import BadImage
from jaxdino.data.clicks import draw_points, fixed_points, no_points
from jaxdino.data.crops import Box
from jaxdino.data.geometry import Geometry
from jaxdino.data.mask_reading import IGNORED
from jaxdino.data.masking import Masking
from jaxdino.data.prompted import Prompt
from jaxdino.data.prompts import PromptConfig
from jaxdino.data.ranges import remark

Element = dict[str, Any]
"""A record on its way: "image", a value of each field, "index" in its split, "place" in the global batch."""
Row = dict[str, np.ndarray]
VISIBLE = 0.1  # smallest share of a mask in a training crop


class Field(Protocol):
    """One thing that is known about an image. `rng` is None in evaluation."""

    def read(self, element: Element, rng: np.random.Generator | None) -> Any:
        """Return the value, read before the image is decoded. Raises BadImage."""

    def size(self, value: Any) -> tuple[int, int] | None:
        """Return (width, height) of a value of each pixel, which must be the image's; None for other fields."""

    def wanted(self, value: Any, box: Box) -> bool:
        """Return whether a training crop shows enough of the value; else another one is drawn."""

    def move(self, value: Any, geometry: Geometry, element: Element, rng: np.random.Generator | None) -> Row:
        """Return the entries of the row, after what happened to the image."""

    def blank(self, element: Element, size: tuple[int, int], rng: np.random.Generator | None) -> Row:
        """Return the entries for an image that could not be read, or for padding; `size` is the (height, width)."""


class Unmoved:
    """What most fields do: nothing that depends on the image's geometry."""

    def read(self, element: Element, rng: np.random.Generator | None) -> Any:
        """Nothing is read."""

    def size(self, value: Any) -> tuple[int, int] | None:
        """Return None."""

    def wanted(self, value: Any, box: Box) -> bool:
        """Return True."""
        return True

    def move(self, value: Any, geometry: Geometry, element: Element, rng: np.random.Generator | None) -> Row:
        """Return the entries of a blank row: they do not depend on the image."""
        return self.blank(element, geometry.size, rng)

    def blank(self, element: Element, size: tuple[int, int], rng: np.random.Generator | None) -> Row:
        """Return the entries."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Number(Unmoved):
    """Numbers of an image: its class, or a value for each class. The entry has the field's name.

    Attributes:
      dtype: of the entry. shape: () for one number; (C,) for C.
    """

    name: str = "label"
    dtype: str = "int32"
    shape: tuple[int, ...] = ()

    def blank(self, element: Element, size: tuple[int, int], rng: np.random.Generator | None) -> Row:
        """Return the numbers, 0 for padding."""
        value = element.get(self.name)
        return {self.name: np.zeros(self.shape, self.dtype) if value is None else np.asarray(value, self.dtype)}


LABEL = Number()


@dataclasses.dataclass(frozen=True)
class ClassMap(Unmoved):
    """The class of each pixel: the entry "mask", uint8 (H, W), 255 where ignored, outside the image too."""

    max_pixels: int
    name: ClassVar[str] = "class_mask"

    def read(self, element: Element, rng: np.random.Generator | None) -> np.ndarray:
        """Return uint8 (H, W) of the whole image. Raises BadImage."""
        mask = element[self.name]
        return mask(self.max_pixels) if callable(mask) else mask

    def size(self, value: np.ndarray) -> tuple[int, int]:
        """Return the size of the mask."""
        return value.shape[1], value.shape[0]

    def wanted(self, value: np.ndarray, box: Box) -> bool:
        """Return whether any pixel of the box has a class."""
        left, top, right, bottom = box
        return bool((value[top:bottom, left:right] != IGNORED).any())

    def move(self, value: np.ndarray, geometry: Geometry, element: Element, rng: np.random.Generator | None) -> Row:
        """Move the mask with the image."""
        return {"mask": geometry.plane(value, IGNORED)}

    def blank(self, element: Element, size: tuple[int, int], rng: np.random.Generator | None) -> Row:
        """Return a mask that is ignored everywhere."""
        return {"mask": np.full(size, IGNORED, np.uint8)}


@dataclasses.dataclass(frozen=True)
class HiddenPatches(Unmoved):
    """iBOT's masks of the global views, drawn: the entry "mask", bool (G, h, w).

    Attributes:
      counts: (B, G), hidden patches of the views at each position of the global batch. grid: (h, w).
    """

    masking: Masking
    counts: np.ndarray
    grid: tuple[int, int]

    def blank(self, element: Element, size: tuple[int, int], rng: np.random.Generator | None) -> Row:
        """Draw the masks, which depend on the position in the batch alone."""
        return {"mask": self.masking.draw(rng, self.counts[element["place"]], self.grid)}


@dataclasses.dataclass(frozen=True)
class Prompts:
    """The prompts of an image with their masks, P slots (`slots`), K point slots (`PromptConfig.slots`).

    Entries:
      mask: uint8 (P, H, W), 1 where the mask shows the prompt, 0 elsewhere, 255 where ignored.
      masked: float32 (P,), 0 for a prompt without a mask (then all 0).
      asked: float32 (P,), 0 for an empty slot or a prompt whose mask cannot be read.
      label: int32 (P,), index of the prompt in the source's names.
      points: float32 (P, K, 2), x, y in pixels of the crop; absent if K = 0.
      point_labels: int32 (P, K): 1 and 0 are clicks inside and outside the mask, 2 and 3 the top left and bottom right
        corner of a box, -1 is an empty slot; absent if K = 0.

    A prompt with masked 1 may have an empty mask: negatives, crops that miss the mask, and empty masks that are kept.

    Attributes:
      names: number of prompts of the source. spatial: whether evaluation gives all clicks and the box.
    """

    prompts: PromptConfig
    slots: int
    names: int
    max_pixels: int
    spatial: bool = False

    def read(self, element: Element, rng: np.random.Generator | None) -> list[tuple[int, np.ndarray | None, bool]]:
        """Return (label, mask, whether it was read) of each prompt; a negative one in training has an empty mask.

        Raises:
          BadImage: if no mask can be read; with several, the others are a remark.
        """
        found, failed = [], []
        for prompt in element["prompts"]:
            try:
                found.append((*self._read(prompt, rng), True))
            except BadImage as err:
                failed.append(str(err))
                found.append((prompt.label, None, False))
        if failed and len(failed) == len(found):
            raise BadImage(failed[0])
        if failed:
            remark(f"{len(failed)} of {len(found)} prompts are left out: {failed[0]}")
        return found

    def _read(self, prompt: Prompt, rng: np.random.Generator | None) -> tuple[int, np.ndarray | None]:
        mask = prompt.read_mask(self.max_pixels)
        if mask is None:
            return prompt.label, None
        if self.prompts.empty == "skip" and not (mask == 1).any():
            raise BadImage('its mask is empty (prompts.empty = "keep" keeps it)')
        if rng is not None and rng.random() < self.prompts.negatives:
            absent = [label for label in range(self.names) if label not in prompt.present]
            if absent:
                return int(rng.choice(absent)), np.where(mask == IGNORED, mask, np.uint8(0))
        return prompt.label, mask

    def size(self, value: Sequence) -> tuple[int, int] | None:
        """Return the size of the first mask that differs from the others, or of all."""
        shapes = [mask.shape[::-1] for _, mask, _ in value if mask is not None]
        return next((shape for shape in shapes if shape != shapes[0]), shapes[0]) if shapes else None

    def wanted(self, value: Sequence, box: Box) -> bool:
        """Return whether the box contains a tenth of each mask of this image, or of one if there are several."""
        left, top, right, bottom = box
        shown = []
        for _, mask, _ in value:
            inside = None if mask is None else mask == 1
            needed = 0 if inside is None else VISIBLE * np.count_nonzero(inside)
            shown.append(not needed or np.count_nonzero(inside[top:bottom, left:right]) >= needed)
        return any(shown)

    def move(self, value: Sequence, geometry: Geometry, element: Element, rng: np.random.Generator | None) -> Row:
        """Move every mask, and draw its points: exact ones in evaluation."""
        rows = []
        for slot, (label, whole, asked) in enumerate(value):
            mask = None if whole is None else geometry.plane(whole, IGNORED)
            points = no_points(self.prompts.slots)
            if rng is not None:
                points = draw_points(mask, self.prompts, rng)
            elif self.spatial:
                points = fixed_points(mask, self.prompts, element["prompts"][slot].seed)
            rows.append(self._slot(mask, geometry.size, label, asked) | points)
        return self._stacked(rows, geometry.size)

    def blank(self, element: Element, size: tuple[int, int], rng: np.random.Generator | None) -> Row:
        """Return empty masks; the labels stay."""
        given = element.get("prompts") or ()
        return self._stacked([self._slot(None, size, prompt.label, False) for prompt in given], size)

    def _slot(self, mask: np.ndarray | None, size: tuple[int, int], label: int, asked: bool) -> Row:
        return {
            "mask": np.zeros(size, np.uint8) if mask is None else mask,
            "masked": np.float32(mask is not None),
            "asked": np.float32(asked),
            "label": np.int32(label),
            **no_points(self.prompts.slots),
        }

    def _stacked(self, rows: list[Row], size: tuple[int, int]) -> Row:
        rows = rows + [self._slot(None, size, 0, False)] * (self.slots - len(rows))
        return {name: np.stack([row[name] for row in rows]) for name in rows[0]}
