"""The configs of configs/benchmarks: each is found by name and resolved on tiny data of the layout it describes.

The conversions in their docstrings are run as they stand there.
"""

import ast
import csv
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import tiny
from PIL import Image

from jaxdino.settings import config_search
from jaxdino.settings.command_line import command
from jaxdino.train.setup import prepare

FOLDER = config_search.INSTALLED / "benchmarks"
NAMES = sorted(file.stem for file in FOLDER.glob("[!_]*.py"))
RNG = np.random.default_rng(0)


def image(path, values=None):
    """Write an image of 16 x 16 pixels; of `values` (H, W) if they are given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(RNG.integers(0, 256, (16, 16, 3), np.uint8) if values is None else values).save(path)


def table(path, columns, rows):
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])


def classes_in_folders(root):
    for split in ("train", "val"):
        for name in ("a", "b"):
            for number in range(4):
                image(root / split / name / f"{number}.jpg")


def cifar10(root):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    image(root.parent / "one.png")
    picture = {"bytes": (root.parent / "one.png").read_bytes(), "path": None}
    for split in ("train", "test"):
        rows = {"img": [picture] * 40, "label": [0, 1] * 20}
        datasets.Dataset.from_dict(rows, features).to_parquet(root / f"{split}-00000-of-00001.parquet")


def chestxray14(root):
    rows = [(f"{n:08}_000.png", ("No Finding", "Mass", "Mass|Hernia")[n % 3], n // 2) for n in range(60)]
    table(root / "Data_Entry_2017.csv", ("Image Index", "Finding Labels", "Patient ID"), rows)
    (root / "test_list.txt").write_text("\n".join(name for name, *_ in rows[:12]))
    for name, *_ in rows:
        image(root / "images_001" / "images" / name)


def isic2019(root):
    names = [f"ISIC_{n:07}" for n in range(60)]
    kinds = [[float(n % 2 == 0), float(n % 2)] for n in range(60)]
    rows = [[name, *kind] for name, kind in zip(names, kinds, strict=True)]
    table(root / "ISIC_2019_Training_GroundTruth.csv", ("image", "MEL", "NV"), rows)
    lesions = [(name, "" if n < 6 else f"lesion{n // 2}") for n, name in enumerate(names)]
    table(root / "ISIC_2019_Training_Metadata.csv", ("image", "lesion_id"), lesions)
    for name in names:
        image(root / "ISIC_2019_Training_Input" / f"{name}.jpg")


def montgomery(root):
    for number in range(20):
        image(root / "CXR_png" / f"MCUCXR_{number:04}_{number % 2}.png")


def masks(root, images, labels, names):
    for place in range(4):
        values = RNG.integers(0, 3, (16, 16)).astype(np.uint8)
        image(root / images / f"{names}{place}.jpg")
        image(root / labels / f"{names}{place}.png", values)


def ade20k(root):
    for split in ("training", "validation"):
        masks(root, f"images/{split}", f"annotations/{split}", split)
    rows = [(1, 0.5, 9, 9, "wall"), (2, 0.5, 9, 9, "building, edifice")]
    lines = ["\t".join(map(str, row)) for row in [("Idx", "Ratio", "Train", "Val", "Name"), *rows]]
    (root / "objectInfo150.txt").write_text("\n".join(lines) + "\n")


def voc2012(root):
    for split in ("train", "val"):
        masks(root, "JPEGImages", "SegmentationClass", split)
        lists = root / "ImageSets" / "Segmentation"
        lists.mkdir(parents=True, exist_ok=True)
        (lists / f"{split}.txt").write_text("".join(f"{split}{place}\n" for place in range(4)))


def nyu_depth(root):
    for split in ("train", "test"):
        lines = []
        for number in range(4):
            image(root / "den" / f"rgb_{split}{number}.jpg")
            image(root / "den" / f"sync_depth_{split}{number}.png", np.full((16, 16), 2500, np.uint16))
            lines.append(f"/den/rgb_{split}{number}.jpg /den/sync_depth_{split}{number}.png 518.8579\n")
        (root / f"nyu_{split}.txt").write_text("".join(lines))


LAYOUTS = dict(imagenet=classes_in_folders, places365=classes_in_folders, cifar10=cifar10, chestxray14=chestxray14)
LAYOUTS |= dict(isic2019=isic2019, montgomery=montgomery, ade20k=ade20k, voc2012=voc2012, nyu_depth=nyu_depth)
MONITORS = dict(chestxray14="val/macro_auc", isic2019="val/balanced_accuracy", montgomery="val/balanced_accuracy")


def converted(doc, root):
    """Run the conversion in a docstring on `root`, and return what `data.root` is then."""
    if script := re.search(r"<<'END'\n(.*?)\n    END\n", doc, re.DOTALL):
        subprocess.run([sys.executable, "-", str(root)], input=textwrap.dedent(script[1]), text=True, check=True)
    if line := re.search(r"^    (cut .*)$", doc, re.MULTILINE):
        subprocess.run(line[1], shell=True, check=True, cwd=root.parent)
    return root / "manifest.csv" if script else root


@pytest.mark.parametrize("name", NAMES)
def test_a_benchmark_is_resolved_on_the_layout_it_describes(name, tmp_path):
    doc = ast.get_docstring(ast.parse((FOLDER / f"{name}.py").read_text("utf-8")), clean=False) or ""
    root = tmp_path / re.search(r"--config\.data\.root=(?:VOCdevkit/)?(\w+)", doc)[1]
    root.mkdir()
    LAYOUTS[name](root)
    config = command(f"benchmarks/{name}:{tiny.SPEC.name}", [f"--config.data.root={converted(doc, root)}"]).config()
    config.model.weights = "random"
    config.data.update(batch_size=2, num_threads=0, decoder="pillow")
    if config.data.image_size is not None:
        config.data.image_size = 16
    part = prepare(config, lambda _: None).parts[0]
    assert part.stage.monitor == MONITORS.get(name, "") and part.steps_per_epoch > 0
    assert {path.split(".")[0] for path in part.plan.trainable} == {"head"}


def test_conversions_keep_patients_and_lesions_in_one_split(tmp_path):
    for name, column in (("chestxray14", "patient"), ("isic2019", "lesion")):
        root = tmp_path / name
        root.mkdir()
        LAYOUTS[name](root)
        with open(converted((FOLDER / f"{name}.py").read_text("utf-8"), root), newline="") as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == 60 and {row["split"] for row in rows} == {"train", "val", "test"}
        assert len({(row[column], row["split"]) for row in rows}) == len({row[column] for row in rows})


def test_sizes_are_whole_patches():
    for model, side, of_depth in (("dinov2_vits14", 518, "476x644"), ("dinov3_vits16", 512, "480x640")):
        assert command(f"benchmarks/ade20k:{model}", []).config().data.image_size == side
        assert command(f"benchmarks/nyu_depth:{model}", []).config().data.image_size == of_depth


def test_docs_list_every_benchmark():
    page = (Path(__file__).parents[2] / "docs" / "benchmarks.md").read_text("utf-8")
    assert set(re.findall(r"^\| \[`benchmarks/(\w+)`\]", page, re.MULTILINE)) == set(NAMES) == set(LAYOUTS)
