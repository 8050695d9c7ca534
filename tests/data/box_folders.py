"""The same images with boxes, written in each format that has a source."""

import json

import numpy as np
from PIL import Image

NAMES = ("cat", "dog")
SIZE = (80, 60)  # width, height
SPLITS = {"train": range(8), "val": range(8, 11)}


def things(n):
    """Class and corners of the boxes of image n; every fourth image has none."""
    rng = np.random.default_rng(n)
    found = []
    for k in range(n % 4):
        left, top = (int(v) for v in rng.integers(0, (60, 40)))
        found.append((k % 2, (left, top, left + int(rng.integers(4, 20)), top + int(rng.integers(4, 20)))))
    return found


def image(n):
    """Return grey noise with the boxes filled: a cat is red, a dog is blue."""
    pixels = np.random.default_rng(n).integers(90, 110, (*SIZE[::-1], 3), np.uint8)
    for label, (left, top, right, bottom) in things(n):
        pixels[top:bottom, left:right] = (250, 10, 10) if label == 0 else (10, 10, 250)
    return Image.fromarray(pixels)


def _save(path, n):
    path.parent.mkdir(parents=True, exist_ok=True)
    image(n).save(path)


def voc(top, boxes=things):
    for split, numbers in SPLITS.items():
        for n in numbers:
            _save(top / f"JPEGImages/{n:02}.png", n)
            (top / "Annotations").mkdir(exist_ok=True)
            objects = "".join(
                f"<object><name>{NAMES[label]}</name><bndbox><xmin>{box[0]}</xmin><ymin>{box[1]}</ymin>"
                f"<xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox></object>"
                for label, box in boxes(n)
            )
            (top / f"Annotations/{n:02}.xml").write_text(f"<annotation>{objects}</annotation>")
        (top / "ImageSets/Main").mkdir(parents=True, exist_ok=True)
        (top / f"ImageSets/Main/{split}.txt").write_text("".join(f"{n:02}\n" for n in numbers))
    return top


def coco(top, boxes=things):
    (top / "annotations").mkdir(parents=True)
    for split, numbers in SPLITS.items():
        images = [dict(id=n, file_name=f"{n:02}.png", width=SIZE[0], height=SIZE[1]) for n in numbers]
        notes = []
        for n in numbers:
            _save(top / split / f"{n:02}.png", n)
            for label, (left, top_, right, bottom) in boxes(n):
                box = [left, top_, right - left, bottom - top_]
                notes.append(dict(image_id=n, category_id=label + 1, bbox=box, iscrowd=int(n == 7)))
        categories = [dict(id=label + 1, name=name) for label, name in enumerate(NAMES)]
        given = dict(images=images, annotations=notes, categories=categories)
        (top / f"annotations/instances_{split}.json").write_text(json.dumps(given))
    return top


def yolo(top, boxes=things):
    for split, numbers in SPLITS.items():
        for n in numbers:
            _save(top / f"images/{split}/{n:02}.png", n)
            lines = []
            for label, (left, top_, right, bottom) in boxes(n):
                centre = (left + right) / 2 / SIZE[0], (top_ + bottom) / 2 / SIZE[1]
                lines.append(
                    f"{label} {centre[0]} {centre[1]} {(right - left) / SIZE[0]} {(bottom - top_) / SIZE[1]}\n"
                )
            (top / f"labels/{split}").mkdir(parents=True, exist_ok=True)
            if lines:
                (top / f"labels/{split}/{n:02}.txt").write_text("".join(lines))
    (top / "data.yaml").write_text("path: ../elsewhere\ntrain: images/train\nnames: {0: cat, 1: dog}\n")
    return top


def manifest(top, boxes=things, suffix=".csv"):
    rows = []
    for split, numbers in SPLITS.items():
        for n in numbers:
            _save(top / f"{n:02}.png", n)
            found = boxes(n) or [(None, ("",) * 4)]
            for label, box in found:
                corners = dict(zip(("x1", "y1", "x2", "y2"), box, strict=True))
                name = "" if label is None else NAMES[label]
                rows.append({"path": f"{n:02}.png", **corners, "label": name, "split": split})
    if suffix == ".jsonl":
        text = "".join(f"{json.dumps(row)}\n" for row in rows)
    else:
        text = "".join(",".join(map(str, row.values())) + "\n" for row in ({key: key for key in rows[0]}, *rows))
    (top / f"boxes{suffix}").write_text(text)
    return top / f"boxes{suffix}"


FORMATS = {"voc": voc, "coco": coco, "yolo": yolo, "manifest": manifest}
