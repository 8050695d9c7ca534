"""Read one record: its fields, then the geometry of its views, then the image, and move every field with it."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxdino.core.resize import Resize
from jaxdino.data import policies, policy_geometry
from jaxdino.data.bad_images import BadImage
from jaxdino.data.channels import Reading
from jaxdino.data.checks import Part, open_image
from jaxdino.data.crops import short_side
from jaxdino.data.decoder import PILLOW, Decoder
from jaxdino.data.fields import Element, Field, Row
from jaxdino.data.geometry import Geometry, evaluated
from jaxdino.data.random_geometry import drawn
from jaxdino.data.ranges import remarks
from jaxdino.data.recipe import KINDS, View
from jaxdino.data.record import Split

PADDING = -1
OPERATIONS = "_operations"  # after the name of an entry: what automatic augmentation draws for its crops
DRAWN = ("place", *(f"{entry}{OPERATIONS}" for entry in ("image", *KINDS)))
"""Entries of a batch that the augmentation on the device reads."""
REASON = "S240"  # dtype in which reasons and remarks are sent from a reading process to the main process


class Records:
    """A split as Grain reads it: {"image", "index", each field}, padded to `length` records."""

    def __init__(self, split: Split, length: int):
        self.split, self.length = split, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Element:
        if index >= len(self.split):
            return {"image": None, "index": PADDING}
        fields = {name: values[index] for name, values in self.split.fields.items()}
        return {"image": self.split.records[index], "index": index, **fields}


@dataclasses.dataclass(frozen=True)
class Crops:
    """The views that make up one entry of the batch.

    Attributes:
      size: (height, width). views: one `View` for each crop.
      several: whether the entry has an axis for the views, (V, H, W, C), or is the only one, (H, W, C).
    """

    size: tuple[int, int]
    views: tuple[View, ...]
    several: bool = False

    @property
    def operations(self) -> int:
        """How many operations of automatic augmentation are drawn for a crop, at most."""
        return policies.most([view.auto for view in self.views])

    def entry(self, of_crops: Sequence[np.ndarray]) -> np.ndarray:
        """Return the batch entry of one array for each crop."""
        return np.stack(of_crops) if self.several else of_crops[0]


class Plan(NamedTuple):
    """How the crops of a record and its fields move, and {entry: the operations that the device applies to it}."""

    moves: list[Geometry]
    of_fields: Geometry
    operations: dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Reader:
    """Map an element (see `Records`) to a row of the batch; an unreadable image is black, with weight 0 and its reason.

    A JPEG is decoded at a smaller scale only if every crop keeps at least its output resolution.

    Attributes:
      crops: {entry: its views}; the fields move with the first view.
      fields: the fields that the task reads. how: the resize of evaluation, and the interpolation.
      reading: how pixels are read. draft: whether JPEGs may be decoded smaller.
      decoder: decodes JPEGs and resizes crops.
    """

    crops: Mapping[str, Crops]
    fields: tuple[Field, ...]
    how: Resize
    reading: Reading
    draft: bool = True
    decoder: Decoder = PILLOW

    def __call__(self, element: Element, rng: np.random.Generator | None = None) -> Row:
        """Return the row; without a generator, as evaluation does. An element may have the "view_size" of all views."""
        if (size := element.get("view_size")) is not None:
            own = {name: dataclasses.replace(crops, size=size) for name, crops in self.crops.items()}
            element = {name: value for name, value in element.items() if name != "view_size"}
            return dataclasses.replace(self, crops=own)(element, rng)
        found, weight, reason = None, 0, ""
        if element["image"] is not None:
            try:
                with remarks() as said:
                    found, weight = self.read(element, rng), 1
                reason = "; ".join(said)
            except BadImage as err:
                reason = str(err)
        place = {"place": np.int32(element["place"])} if "place" in element else {}
        return {
            **(self._blank(element, rng) if found is None else found),
            **place,
            "weight": np.float32(weight),
            "index": np.int64(element["index"]),
            "reason": np.array(reason.encode("ascii", "backslashreplace"), REASON),
        }

    def read(self, element: Element, rng: np.random.Generator | None = None) -> Row:
        """Return the crops and fields of a record. Raises BadImage."""
        values = [field.read(element, rng) for field in self.fields]
        planned: list[Plan] = []

        def plan(full: tuple[int, int]) -> Part:
            self._check_sizes(full, values)
            planned[:] = [self._geometry(full, values, rng)]
            return _part(planned[0].moves, self.draft)

        image = open_image(element["image"], self.reading, plan, self.decoder)
        moves, of_fields, row = planned[0]
        turns = iter(moves)
        for name, crops in self.crops.items():
            row[name] = crops.entry([next(turns).image(image, self.decoder) for _ in crops.views])
        for field, value in zip(self.fields, values, strict=True):
            row |= field.move(value, of_fields, element, rng)
        return row

    def image(self, record: Any) -> np.ndarray:
        """Return uint8 (H, W, C) of one image as evaluation does. Raises BadImage."""
        return self.read({"image": record, "index": 0})["image"]

    def _geometry(self, full: tuple[int, int], values: list[Any], rng: np.random.Generator | None) -> Plan:
        """Draw what happens to each view, and to the fields."""
        if rng is None:
            moves = [evaluated(full, crops.size, self.how) for crops in self.crops.values() for _ in crops.views]
            return Plan(moves, moves[0], {})
        views = [view for crops in self.crops.values() for view in crops.views]
        sizes = [crops.size for crops in self.crops.values() for _ in crops.views]
        pairs = list(zip(self.fields, values, strict=True))
        moves = drawn(
            views, sizes, full, self.how, rng, lambda box: all(field.wanted(value, box) for field, value in pairs)
        )
        turns, moves, operations = iter(moves), [], {}
        for name, crops in self.crops.items():
            own = [policy_geometry.applied(view.auto, next(turns), rng, crops.operations) for view in crops.views]
            moves += [move for move, _ in own]
            if crops.operations:
                operations[name + OPERATIONS] = crops.entry([others for _, others in own])
        return Plan(moves, moves[0], operations)

    def _check_sizes(self, full: tuple[int, int], values: list[Any]) -> None:
        """Raise BadImage if a field has a value for each pixel and not the image's (width, height)."""
        for field, value in zip(self.fields, values, strict=True):
            if (size := field.size(value)) is not None and size != full:
                what = getattr(field, "word", "mask")
                raise BadImage(f"the image has {full[0]} x {full[1]} pixels, its {what} {size[0]} x {size[1]}")

    def _blank(self, element: Element, rng: np.random.Generator | None) -> Row:
        row = {}
        for name, crops in self.crops.items():
            row[name] = crops.entry([np.zeros((*crops.size, self.reading.channels), np.uint8)] * len(crops.views))
            if rng is not None and crops.operations:
                none = np.zeros((crops.operations, 2), np.float32)
                row[name + OPERATIONS] = crops.entry([none] * len(crops.views))
        size = next(iter(self.crops.values())).size
        for field in self.fields:
            row |= field.blank(element, size, rng)
        return row


@dataclasses.dataclass(frozen=True)
class WholeReader(Reader):
    """Map an element to a row with the whole image, whose size differs from row to row; fields keep their own size.

    Attributes:
      short: the short side of the image, pixels; 0 keeps its size.
      squashed: (height, width) of all images, in place of `short`.
    """

    short: int = 0
    squashed: tuple[int, int] | None = None

    def _geometry(self, full: tuple[int, int], values: list[Any], rng: np.random.Generator | None) -> Plan:
        own = Geometry(full, (full[1], full[0]), self.how, box=(0, 0, *full))
        return Plan([dataclasses.replace(own, size=self.squashed or short_side(own.size, self.short))], own, {})


def eval_reader(size: tuple[int, int], how: Resize, reading: Reading, fields: tuple[Field, ...] = ()) -> Reader:
    """Return the reader of evaluation: one image of `size` (height, width), resized and centre-cropped."""
    return Reader({"image": Crops(size, (View(),))}, fields, how, reading)


def _part(moves: Sequence[Geometry], draft: bool) -> Part:
    """Return what all views together read of an image; with `draft`, as small as the largest may be decoded."""
    scale = min(move.draft for move in moves) if draft else 1
    boxes = [move.reads(scale) for move in moves]
    if None in boxes:
        return Part(scale)
    lefts, tops, rights, bottoms = zip(*boxes, strict=True)
    return Part(scale, (min(lefts), min(tops), max(rights), max(bottoms)))
