"""The field "boxes" of images: boxes that cannot be right are left out and counted, or are an error, before a run."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from jaxdino.core.errors import UserError
from jaxdino.core.words import few
from jaxdino.data.boxes import BEYOND, COLUMNS, FAULTS, BoxedSource, Boxes, BoxLists
from jaxdino.data.config import DataConfig
from jaxdino.data.dimensions import dimensions
from jaxdino.data.record import Source, Split

BOXES = "boxes"
SHOWN = 3  # boxes named for each fault
OUTSIDE = "it lies outside of the image"
REASONS = (*FAULTS, OUTSIDE)
HEADERS = 200_000  # images; of more, only a share is looked up before a run
SAMPLE = 20_000  # images of that share
PART = 1 << 16  # boxes that are checked at a time


def field(lister: Callable[[DataConfig], BoxedSource]) -> dict[str, Callable[[DataConfig], Source]]:
    """Return {"boxes": function that lists the images of a source with their boxes}."""
    return {BOXES: lambda cfg: with_boxes(cfg, lister(cfg))}


def around(masks: Mapping[str, np.ndarray], names: Sequence[str]) -> np.ndarray:
    """Return the boxes (n, 6) around masks (H, W) by class, see `boxes.COLUMNS`; an empty mask has none."""
    found = []
    for name, mask in masks.items():
        rows, columns = np.nonzero(mask)
        if len(rows):
            box = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
            found.append((*box, names.index(name), 0))
    return np.array(found, np.float32).reshape(-1, 6)


def with_boxes(cfg: DataConfig, found: BoxedSource) -> Source:
    """Return the source with the field "boxes", see `BoxLists`; the headers of images are read for their sizes.

    Of more than `HEADERS` images with boxes in pixels, only `SAMPLE` headers are read, evenly spaced: boxes of the
    other images are not compared with their size.

    A box that reaches out of its image is cut off at the edge. A box without area, outside of its image, of an unknown
    class or whose corners are no numbers is left out. Both are counted, and named in a note; with
    data.on_bad="stop" they are errors. Images whose file of boxes is missing or cannot be read are left out.

    Raises:
      UserError: with file and line, if more than the share data.max_missing of images or boxes are left out, or train
        has no box.
    """
    source, every = found.source, list(found.source.splits.values())
    looked = _looked_up(sum(map(len, every)), found.boxes.relative)
    sizes = _sizes(cfg, every, looked)
    _check_images(cfg, every, sizes, looked)
    dropped = _dropped(cfg, found, every)
    boxes = found.boxes.in_pixels(sizes)
    rows, reasons = _checked(found.boxes, sizes)
    notes = _notes(cfg, boxes, source.class_names, reasons)
    if len(looked) < len(sizes):
        notes.append(
            f"{len(looked):,} of {len(sizes):,} images were looked up: boxes of others are not compared with their size"
        )
    unread = np.zeros(len(sizes), bool)
    unread[looked] = sizes[looked].min(axis=1) == 0
    good = ((reasons < 0) | (reasons == REASONS.index(BEYOND))) & ~unread[boxes.row]
    counts = np.bincount(boxes.row, weights=good, minlength=len(sizes)).astype(np.int64)
    lists = BoxLists(rows if good.all() else rows[good], np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)]))
    splits, start = {}, 0
    for split in every:
        kept = np.flatnonzero(~dropped[start : start + len(split)])
        held = lists[start : start + len(split)]
        start += len(split)
        whole = dataclasses.replace(split, fields={BOXES: held})
        splits[split.name] = whole if len(kept) == len(split) else whole.chosen(kept.tolist())
    ignored = {why: count for why, count in source.ignored.items() if why != "image without annotation"}
    ignored |= {"image whose annotation is missing or not readable": int(dropped.sum())} if dropped.any() else {}
    _check_train(source, splits)
    notes = [*source.notes, *notes, *_summary(splits, source.class_names)]
    return dataclasses.replace(source, splits=splits, ignored=ignored, notes=tuple(notes))


def _looked_up(count: int, relative: bool) -> np.ndarray:
    """Return the images whose headers are read: all if boxes are shares of the image's size."""
    if relative or count <= HEADERS:
        return np.arange(count)
    return np.unique(np.linspace(0, count - 1, SAMPLE).astype(np.int64))


def _sizes(cfg: DataConfig, splits: Sequence[Split], looked: np.ndarray) -> np.ndarray:
    """Return the (width, height) of each image, int32 (N, 2); 0, 0 if it was not looked up or cannot be read."""
    sizes, start = np.zeros((sum(map(len, splits)), 2), np.int32), 0
    for split in splits:
        rows = looked[(looked >= start) & (looked < start + len(split))]
        some = split if len(rows) == len(split) else split.chosen((rows - start).tolist())
        sizes[rows] = dimensions(some, cfg.max_pixels)
        start += len(split)
    return sizes


def _check_images(cfg: DataConfig, splits: Sequence[Split], sizes: np.ndarray, looked: np.ndarray) -> None:
    """Raise UserError if too many images are missing or have no header; the run counts the others."""
    unread = looked[sizes[looked].min(axis=1) == 0]
    if len(unread) > cfg.max_missing * len(looked) or (len(unread) and cfg.on_bad == "stop"):
        names = [split.record_name(row) for split in splits for row in range(len(split))]
        raise UserError(
            f"{len(unread)} of {len(looked)} images are missing or cannot be read: "
            f"{few([names[row] for row in unread[:SHOWN]], SHOWN)}. Restore them, or allow a larger share with "
            "--config.data.max_missing=0.5"
        )


def _dropped(cfg: DataConfig, found: BoxedSource, splits: Sequence[Split]) -> np.ndarray:
    """Return which images are left out, bool (N,). Raise UserError if they are too many."""
    count = sum(map(len, splits))
    dropped = np.zeros(count, bool) if found.unmarked is None else found.unmarked.copy()
    dropped[list(found.boxes.broken)] = True
    rows = np.flatnonzero(dropped)
    if len(rows) > cfg.max_missing * count or (len(rows) and cfg.on_bad == "stop"):
        names = [split.record_name(row) for split in splits for row in range(len(split))]
        shown = [f"{names[row]} ({found.boxes.broken.get(int(row), 'it has none')})" for row in rows[:SHOWN]]
        raise UserError(
            f"the annotations of {len(rows)} of {count} images are missing or cannot be read: {few(shown, SHOWN)}. "
            "Restore them, or allow a larger share with --config.data.max_missing=0.5"
        )
    return dropped


def _checked(found: Boxes, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the boxes cut off at the edges, float32 (M, 6), see `boxes.COLUMNS`, and the reasons as `_cut`.

    They are looked at in parts: many boxes take little more memory than their rows.
    """
    rows, reasons = np.zeros((len(found.row), COLUMNS), np.float32), np.empty(len(found.row), np.int8)
    for start in range(0, len(found.row), PART):
        part = slice(start, start + PART)
        some = found.some(part)
        rows[part, :4], reasons[part] = _cut(some.in_pixels(sizes), some.faults(sizes), sizes)
        rows[part, 4] = some.label
        rows[part, 5] = 0 if some.crowd is None else some.crowd
    return rows, reasons


def _cut(boxes: Boxes, faults: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the corners inside the images, and the reason against each box, int8 (M,) in `REASONS`; -1 for none."""
    edge = np.tile(sizes[boxes.row], 2).astype(np.float64)
    corners = np.where(edge > 0, np.clip(boxes.corners, 0, edge), boxes.corners).astype(np.float32)
    flat = ((corners[:, 2:] - corners[:, :2]) <= 0).any(axis=1) & (edge[:, 0] > 0)
    flat &= (faults < 0) | (faults == FAULTS.index(BEYOND))
    return corners, np.where(flat, REASONS.index(OUTSIDE), faults).astype(np.int8)


def _notes(cfg: DataConfig, boxes: Boxes, names: Sequence[str], reasons: np.ndarray) -> list[str]:
    """Return a line for each kind of fault. Raise UserError if faults stop the run."""
    found = [(REASONS[number], np.flatnonzero(reasons == number).tolist()) for number in range(len(REASONS))]
    kinds = dict(sorted([one for one in found if one[1]], key=lambda one: one[1][0]))
    lines = []
    for reason, wrong in kinds.items():
        shown = [f"{boxes.place(box)} ({_box(boxes, names, box)})" for box in wrong[:SHOWN]]
        done = "cut off at the edge" if reason == BEYOND else "left out"
        rest = f" and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        lines.append(f"{len(wrong)} of {len(reasons)} boxes are {done}, since {reason}: {', '.join(shown)}{rest}")
    lost = sum(len(wrong) for reason, wrong in kinds.items() if reason != BEYOND)
    if lines and cfg.on_bad == "stop":
        raise UserError(f"{lines[0]} (on_bad is 'stop'). `jaxdino check-data` lists all of them")
    if lost > cfg.max_missing * len(reasons):
        raise UserError(
            f"{'; '.join(lines)}. That is more than data.max_missing={cfg.max_missing:g}: correct them "
            "(`jaxdino check-data` lists all of them), or allow a larger share with --config.data.max_missing=0.5"
        )
    return lines


def _box(boxes: Boxes, names: Sequence[str], box: int) -> str:
    label = int(boxes.label[box])
    name = names[label] if label >= 0 else boxes.names.get(box, "") or "unknown class"
    return f"{name}, {', '.join(f'{one:g}' for one in boxes.corners[box].tolist())}"


def _check_train(source: Source, splits: dict[str, Split]) -> None:
    lists: BoxLists = splits["train"].fields[BOXES]
    if not lists.counts.any():
        raise UserError(
            f"the training images of the data source {source.name!r} have no box: there is nothing to learn"
        )


def _summary(splits: dict[str, Split], names: Sequence[str]) -> list[str]:
    """Return lines about the number of boxes, images without one, and classes that train lacks."""
    lines, seen = [], Counter()
    for name, split in splits.items():
        rows = split.fields[BOXES].every
        crowds = int(rows[:, 5].sum())
        more = f", {crowds} of them crowds or difficult, which count neither way" if crowds else ""
        empty = int((split.fields[BOXES].counts == 0).sum())
        lines.append(f"{name}: {len(rows):,} boxes{more}; {empty:,} images without one")
        if name == "train":
            seen.update(np.flatnonzero(np.bincount(rows[:, 4].astype(np.int32), minlength=1)).tolist())
    if absent := [name for label, name in enumerate(names) if not seen[label]]:
        lines.append(f"classes without a box in train: {few(absent, 8)}")
    return lines
