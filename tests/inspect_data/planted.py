"""Small data sets, clean or with planted defects."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 240
CLASSES = ("cat", "dog")


def picture(seed: int, size: tuple[int, int] = (SIDE, SIDE)) -> Image.Image:
    """Return smooth random colours, different for each seed, with contrast and of medium brightness."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3)).astype(np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def folder(root: Path, train: int = 6, val: int = 3) -> Path:
    """Write {train,val}/{cat,dog}/<i>.jpg: clean but for the small number of images."""
    seed = 0
    for split, count in (("train", train), ("val", val)):
        for name in CLASSES:
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                picture(seed).save(root / split / name / f"{i}.jpg", quality=90)
                seed += 1
    return root


def xml(boxes: list[tuple[str, tuple]]) -> str:
    """Return the text of a VOC annotation."""
    corners = ("xmin", "ymin", "xmax", "ymax")
    objects = (
        f"<object><name>{name}</name><bndbox>"
        + "".join(f"<{key}>{value}</{key}>" for key, value in zip(corners, box, strict=True))
        + "</bndbox></object>"
        for name, box in boxes
    )
    return f"<annotation>{''.join(objects)}</annotation>"


def voc(root: Path, lists: bool = True) -> Path:
    """Write four images of 240 x 240 in VOC's layout, each with one good box of a cat and one of a dog."""
    for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / name).mkdir(parents=True)
    for i in range(4):
        picture(i).save(root / f"JPEGImages/{i}.jpg", quality=90)
        good = [("cat", (1, 1, 100, 100)), ("dog", (50, 60, 240, 240))]
        (root / f"Annotations/{i}.xml").write_text(xml(good))
    if lists:
        (root / "ImageSets/Main/train.txt").write_text("0\n1\n2\n")
        (root / "ImageSets/Main/val.txt").write_text("3\n")
    return root


def coco(root: Path, boxes: list | None = None) -> Path:
    """Write three images with a JSON file for each of train and val; `boxes` are further ones of image 0."""
    (root / "annotations").mkdir(parents=True)
    for split, numbers in (("train", (0, 1)), ("val", (2,))):
        (root / split).mkdir()
        notes = []
        for i in numbers:
            picture(i).save(root / split / f"{i}.jpg", quality=90)
            notes += [{"image_id": i, "category_id": label, "bbox": [10, 10, 50.5, 60]} for label in (1, 2)]
        notes += (boxes or []) * (split == "train")
        images = [{"id": i, "file_name": f"{i}.jpg", "width": SIDE, "height": SIDE} for i in numbers]
        categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
        content = {"images": images, "annotations": notes, "categories": categories}
        (root / f"annotations/instances_{split}.json").write_text(json.dumps(content))
    return root
