"""The field "boxes" of images: boxes that cannot be right are left out and counted, or are an error, before a run."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from jaxdino.core.errors import UserError
from jaxdino.core.words import few
from jaxdino.data.boxes import BEYOND, FAULTS, BoxedSource, Boxes, BoxLists
from jaxdino.data.config import DataConfig
from jaxdino.data.dimensions import dimensions
from jaxdino.data.record import Source, Split

BOXES = "boxes"
SHOWN = 3  # boxes named for each fault
OUTSIDE = "it lies outside of the image"


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
    """Return the source with the field "boxes", see `BoxLists`; the headers of all images are read for their sizes.

    A box that reaches out of its image is cut off at the edge. A box without area, outside of its image, of an unknown
    class or whose corners are no numbers is left out. Both are counted, and named in a note; with
    data.on_bad="stop" they are errors. Images whose file of boxes is missing or cannot be read are left out.

    Raises:
      UserError: with file and line, if more than the share data.max_missing of images or boxes are left out, or train
        has no box.
    """
    source, every = found.source, list(found.source.splits.values())
    sizes = np.concatenate([dimensions(split, cfg.max_pixels) for split in every])
    _check_images(cfg, every, sizes)
    dropped = _dropped(cfg, found, every)
    boxes, faults = found.boxes.in_pixels(sizes), found.boxes.faults(sizes)
    corners, reasons = _cut(boxes, faults, sizes)
    notes = _notes(cfg, boxes, source.class_names, reasons, dropped)
    crowd = np.zeros(len(boxes.row), bool) if boxes.crowd is None else boxes.crowd
    good = np.array([reason in ("", BEYOND) for reason in reasons], bool) & (sizes[boxes.row].min(axis=1) > 0)
    rows = np.column_stack([corners, boxes.label, crowd]).astype(np.float32)[good]
    counts = np.bincount(boxes.row[good], minlength=len(sizes))
    lists = BoxLists(rows, np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)]))
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


def _check_images(cfg: DataConfig, splits: Sequence[Split], sizes: np.ndarray) -> None:
    """Raise UserError if too many images are missing or have no header; the run counts the others."""
    unread = np.flatnonzero(sizes.min(axis=1) == 0)
    if len(unread) > cfg.max_missing * len(sizes) or (len(unread) and cfg.on_bad == "stop"):
        names = [split.record_name(row) for split in splits for row in range(len(split))]
        raise UserError(
            f"{len(unread)} of {len(sizes)} images are missing or cannot be read: "
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


def _cut(boxes: Boxes, faults: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Return the corners inside the images, and what is wrong with each box, "" for nothing."""
    edge = np.tile(sizes[boxes.row], 2).astype(np.float64)
    corners = np.where(edge > 0, np.clip(boxes.corners, 0, edge), boxes.corners).astype(np.float32)
    flat = ((corners[:, 2:] - corners[:, :2]) <= 0).any(axis=1) & (edge[:, 0] > 0)
    reasons = ["" if fault < 0 else FAULTS[fault] for fault in faults.tolist()]
    for box in np.flatnonzero(flat).tolist():
        reasons[box] = OUTSIDE if reasons[box] in ("", BEYOND) else reasons[box]
    return corners, reasons


def _notes(cfg: DataConfig, boxes: Boxes, names: Sequence[str], reasons: list[str], dropped: np.ndarray) -> list[str]:
    """Return a line for each kind of fault. Raise UserError if faults stop the run."""
    kinds: dict[str, list[int]] = {}
    for box, reason in enumerate(reasons):
        if reason:
            kinds.setdefault(reason, []).append(box)
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
        rows = np.concatenate([np.zeros((0, 6), np.float32), *split.fields[BOXES]])
        crowds = int(rows[:, 5].sum())
        more = f", {crowds} of them crowds or difficult, which count neither way" if crowds else ""
        empty = int((split.fields[BOXES].counts == 0).sum())
        lines.append(f"{name}: {len(rows):,} boxes{more}; {empty:,} images without one")
        if name == "train":
            seen.update(rows[:, 4].astype(int).tolist())
    if absent := [name for label, name in enumerate(names) if not seen[label]]:
        lines.append(f"classes without a box in train: {few(absent, 8)}")
    return lines
