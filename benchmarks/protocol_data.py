"""Stand-in data for the protocols of configs/benchmarks: the layouts that their docstrings describe, made of digits.

A layout is a function of an empty folder, the digits and a number of training images; a test split has about a third
as many.
"""

import csv
import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image


class Digits:
    """scikit-learn's digits, one after the other, beginning again at the end; `side` in pixels."""

    def __init__(self, side: int = 32):
        from sklearn.datasets import load_digits

        found = load_digits()
        self.images, self.labels, self.side, self.next = found.images, found.target, side, 0

    def draw(self) -> tuple[Image.Image, int]:
        """Return the next image, RGB of `side` x `side`, and its digit."""
        place, self.next = self.next % len(self.labels), self.next + 1
        image = Image.fromarray((self.images[place] * 15.9).astype(np.uint8))
        return image.resize((self.side, self.side), Image.Resampling.BICUBIC).convert("RGB"), int(self.labels[place])

    def scene(self) -> tuple[Image.Image, np.ndarray]:
        """Return an image of two by two digits and its mask: 0 for the background, else 1 + the digit."""
        side = self.side
        image, mask = Image.new("RGB", (2 * side, 2 * side)), np.zeros((2 * side, 2 * side), np.uint8)
        for x in (0, side):
            for y in (0, side):
                part, digit = self.draw()
                image.paste(part, (x, y))
                mask[y : y + side, x : x + side] = np.where(np.asarray(part)[..., 0] > 100, 1 + digit, 0)
        return image, mask


def save(image: Image.Image, path: Path) -> None:
    """Write an image, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def table(path: Path, columns: tuple[str, ...], rows: list) -> None:
    """Write a CSV file."""
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])


def splits(count: int, train: str, test: str) -> Iterator[tuple[str, int]]:
    """Yield the names of two splits and their numbers of images."""
    yield from ((train, count), (test, max(count // 3, 4)))


def folders(root: Path, digits: Digits, count: int) -> None:
    """Write train/<class> and val/<class>."""
    for split, images in splits(count, "train", "val"):
        for number in range(images):
            image, digit = digits.draw()
            save(image, root / split / f"digit_{digit}" / f"{number}.jpg")


def cifar10(root: Path, digits: Digits, count: int) -> None:
    """Write parquet files as those of the hub."""
    import datasets

    names = list(map(str, range(10)))
    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=names)})
    for split, images in splits(count, "train", "test"):
        rows: dict[str, list] = {"img": [], "label": []}
        for _ in range(images):
            image, digit = digits.draw()
            image.save(file := io.BytesIO(), "PNG")
            rows["img"].append({"bytes": file.getvalue(), "path": None})
            rows["label"].append(digit)
        datasets.Dataset.from_dict(rows, features).to_parquet(root / f"{split}-00000-of-00001.parquet")


def chestxray14(root: Path, digits: Digits, count: int) -> None:
    """Write NIH's lists: even digits have a "Mass", those from 5 a "Hernia"."""
    rows = []
    for number in range(count):
        image, digit = digits.draw()
        name = f"{number:08}_000.png"
        save(image, root / "images_001" / "images" / name)
        found = [word for word, true in (("Mass", digit % 2 == 0), ("Hernia", digit >= 5)) if true]
        rows.append((name, "|".join(found) or "No Finding", number // 2))
    table(root / "Data_Entry_2017.csv", ("Image Index", "Finding Labels", "Patient ID"), rows)
    (root / "test_list.txt").write_text("\n".join(name for name, *_ in rows[: count // 5]))


def isic2019(root: Path, digits: Digits, count: int) -> None:
    """Write ISIC's tables with four kinds of unequal number; some images have no lesion."""
    kinds, truth, lesions = ("MEL", "NV", "BCC", "AK"), [], []
    for number in range(count):
        image, digit = digits.draw()
        name, kind = f"ISIC_{number:07}", 0 if digit < 2 else 1 if digit < 7 else 2 if digit < 9 else 3
        save(image, root / "ISIC_2019_Training_Input" / f"{name}.jpg")
        truth.append([name, *(float(kind == one) for one in range(4))])
        lesions.append((name, "" if number < 6 else f"lesion{number // 2}"))
    table(root / "ISIC_2019_Training_GroundTruth.csv", ("image", *kinds), truth)
    table(root / "ISIC_2019_Training_Metadata.csv", ("image", "lesion_id"), lesions)


def montgomery(root: Path, digits: Digits, count: int) -> None:
    """Write images whose names end in 0 or 1: the digit 3 or 8."""
    number = 0
    while number < count:
        image, digit = digits.draw()
        if digit in (3, 8):
            save(image, root / "CXR_png" / f"MCUCXR_{number:04}_{int(digit == 8)}.png")
            number += 1


def ade20k(root: Path, digits: Digits, count: int) -> None:
    """Write the challenge's folders, and the table of its classes."""
    for split, images in splits(count, "training", "validation"):
        for number in range(images):
            image, mask = digits.scene()
            save(image, root / "images" / split / f"{number}.jpg")
            save(Image.fromarray(mask), root / "annotations" / split / f"{number}.png")
    lines = ["Idx\tRatio\tTrain\tVal\tName", *(f"{n + 1}\t0.1\t9\t9\tdigit, {n}" for n in range(10))]
    (root / "objectInfo150.txt").write_text("\n".join(lines) + "\n")


def voc2012(root: Path, digits: Digits, count: int) -> None:
    """Write VOC's folders and lists."""
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    for split, images in splits(count, "train", "val"):
        for number in range(images):
            image, mask = digits.scene()
            save(image, root / "JPEGImages" / f"{split}_{number}.jpg")
            save(Image.fromarray(mask), root / "SegmentationClass" / f"{split}_{number}.png")
        (lists / f"{split}.txt").write_text("".join(f"{split}_{number}\n" for number in range(images)))


def nyu_depth(root: Path, digits: Digits, count: int) -> None:
    """Write BTS's lists; what is bright is near, 1 to 4 metres."""
    for split, images in splits(count, "train", "test"):
        lines = []
        for number in range(images):
            image, _ = digits.scene()
            near = 4000 - 3000 * (np.asarray(image)[..., 0] / 255)
            save(image, root / "room" / f"rgb_{split}{number}.jpg")
            save(Image.fromarray(near.astype(np.uint16)), root / "room" / f"sync_depth_{split}{number}.png")
            lines.append(f"/room/rgb_{split}{number}.jpg /room/sync_depth_{split}{number}.png 518.8579\n")
        (root / f"nyu_{split}.txt").write_text("".join(lines))


LAYOUTS: dict[str, Callable[[Path, Digits, int], None]] = {
    "imagenet": folders,
    "cifar10": cifar10,
    "places365": folders,
    "chestxray14": chestxray14,
    "isic2019": isic2019,
    "montgomery": montgomery,
    "ade20k": ade20k,
    "voc2012": voc2012,
    "nyu_depth": nyu_depth,
}
