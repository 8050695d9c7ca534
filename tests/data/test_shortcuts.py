"""What is said before a run of identical files, of classes that files tell apart, and of images of one colour."""

import numpy as np
import pytest
from PIL import Image

from jaxdino.core.resize import Resize
from jaxdino.data import survey
from jaxdino.data.duplicates import duplicates
from jaxdino.data.ranges import Range
from jaxdino.data.shortcuts import mostly_cropped
from jaxdino.data.sources import load_source


def picture(seed, size=16):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size, size, 3)).astype(np.uint8))


@pytest.fixture
def pets(tmp_path):
    """{train,test}/{cat,dog} with six different RGB PNG images each."""
    for place, folder in enumerate(("train/cat", "train/dog", "test/cat", "test/dog")):
        (tmp_path / folder).mkdir(parents=True)
        for i in range(6):
            picture(10 * place + i).save(tmp_path / folder / f"{i}.png")
    return tmp_path


def source(root, **options):
    return load_source({"name": "folder", "root": str(root), "val_ratio": 0.0, **options})


def said(root, channels=3):
    """The warnings of the survey."""
    found = survey.look(list(source(root).splits.values()))
    return [line for line in survey.settle(found, Range(), Range(), channels)[1] if line.startswith("WARNING")]


def test_copies_of_training_images_and_contradicting_labels_are_said(pets):
    assert duplicates(list(source(pets).splits.values())) == said(pets) == []
    (pets / "test/dog/9.png").write_bytes((pets / "train/dog/3.png").read_bytes())
    (pets / "train/cat/9.png").write_bytes((pets / "train/dog/4.png").read_bytes())
    (pets / "train/cat/8.png").touch()
    (pets / "test/cat/8.png").touch()  # two empty files are no copies
    assert duplicates(list(source(pets).splits.values())) == [
        "WARNING: 1 of the 14 images of test are copies of training images, such as test/dog/9.png of train/dog/3.png: "
        "the metrics of test will be too high; remove them from one of the two",
        "WARNING: 1 image(s) are in several classes, such as train/cat/9.png and train/dog/4.png: labels that "
        "contradict each other; keep the right one",
    ]


def test_files_of_equal_size_and_middle_are_read_whole(pets):
    body = bytes(20_000)
    (pets / "train/cat/a.png").write_bytes(b"1" + body)
    (pets / "test/cat/a.png").write_bytes(b"2" + body)
    assert duplicates(list(source(pets).splits.values())) == []


def test_classes_that_the_files_tell_apart_are_said(pets):
    for path in (pets / "train/dog").iterdir():
        Image.open(path).convert("L").save(path)
    assert said(pets) == [
        "WARNING: all images of cat that were looked at are RGB .png, and none of dog is: a model may learn this "
        "difference instead of the content; store all classes in one format"
    ]
    Image.open(pets / "train/cat/0.png").convert("L").save(pets / "train/cat/0.png")
    picture(99).save(pets / "train/dog/0.png")
    assert said(pets) == []  # both kinds in both classes


@pytest.mark.parametrize(
    ("shape", "crop_mode", "lines"),
    [((2000, 200), "center", 1), ((2000, 200), "squash", 0), ((320, 180), "center", 0), ((1, 9), "center", 1)],
)
def test_long_images_are_said_of_which_the_crop_shows_little(pets, shape, crop_mode, lines):
    for path in (pets / "train").rglob("*.png"):
        Image.open(path).resize(shape).save(path)
    found = survey.look(list(source(pets).splits.values()))
    said = mostly_cropped(found.kinds, (224, 224), Resize(224 / 256, crop_mode=crop_mode))
    assert len(said) == lines and all("a quarter of 12 of the 24 images" in line for line in said)


@pytest.mark.parametrize(
    ("make", "channels", "line"),
    [
        (lambda image: Image.fromarray((np.asarray(image.convert("L")) > 128).astype(np.uint8)), 3, "from 0 to 1 of"),
        (lambda image: Image.merge("LA", (Image.new("L", image.size), image.convert("L"))), 3, "in its alpha channel"),
        (lambda image: Image.merge("LA", (Image.new("L", image.size), image.convert("L"))), 2, ""),
        (lambda image: image.convert("RGBA"), 3, ""),
        (lambda image: image.quantize(8), 3, ""),
    ],
)
def test_images_of_nearly_one_colour_are_said(pets, make, channels, line):
    for path in pets.rglob("*.png"):
        make(Image.open(path)).save(path)
    lines = said(pets, channels)
    assert len(lines) == bool(line) and all(line in each for each in lines)
