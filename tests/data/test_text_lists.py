"""Text lists: their forms, where the images are, names of classes, and what is refused."""

import numpy as np
import pytest
from PIL import Image

from jaxdino.core.errors import UserError
from jaxdino.data.pipeline import make_train_iter
from jaxdino.data.sources import load_source

CLASSES = ("paper", "glass", "metal")


def made(root, line, images="images", lists="", names="{c}/{c}{n}.jpg", label="{i}"):
    """Write 4 images of each class, and lists of them: 3 for training and 1 for validation."""
    texts = {"train": [], "val": []}
    for i, c in enumerate(CLASSES, 1):
        (root / images / c).mkdir(parents=True)
        for n in range(4):
            Image.new("RGB", (4, 4), (i, n, 0)).save(root / images / c / f"{c}{n}.jpg")
            path = names.format(c=c, n=n)
            texts["val" if n == 3 else "train"].append(line.format(path=path, label=label.format(i=i, c=c)))
    (root / lists).mkdir(exist_ok=True)
    for split, lines in texts.items():
        (root / lists / f"{split}.txt").write_text("# images\n\n" + "\n".join(lines) + "\n")
    return root


def load(root, **options):
    return load_source({"name": "manifest", "root": str(root), **options})


@pytest.mark.parametrize("line", ["{path},{label}", "{path} , {label}", "{path} {label}", "{path}\t{label}"])
@pytest.mark.parametrize(
    ("images", "lists", "names"),
    [
        ("images", "", "{c}/{c}{n}.jpg"),
        ("", "", "{c}/{c}{n}.jpg"),
        ("", "splits", "{c}/{c}{n}.jpg"),
        ("images", "splits", "{c}/{c}{n}"),
        ("images", "splits", "{c}{n}.jpg"),
        ("pictures", "meta", "{c}{n}.jpg"),
    ],
)
def test_forms_and_places(tmp_path, line, images, lists, names):
    root = made(tmp_path, line, images, lists, names)
    for top in {root, root / lists}:
        source = load(top)
        assert source.class_names == CLASSES  # by number, named after the folders
        assert {name: split.counts() for name, split in source.splits.items()} == {
            "train": dict.fromkeys(CLASSES, 3),
            "val": dict.fromkeys(CLASSES, 1),
        }
        batch = next(make_train_iter(source.splits["train"], seed=0, batch_size=9, image_size=4, preset="none"))
        assert np.abs(batch["image"][:, 0, 0, 0].astype(int) - batch["label"] - 1).max() <= 1 and batch["weight"].all()
        assert "1 is paper" in source.notes[1]


def test_names_and_folders_as_labels(tmp_path):
    source = load(made(tmp_path, "{path} {label}", label="{c}"))
    assert source.class_names == tuple(sorted(CLASSES)) and len(source.notes) == 1
    source = load(made(tmp_path / "folders", "{path}"))
    assert (
        source.class_names == tuple(sorted(CLASSES)) and source.notes[1] == "the classes are the folders of the images"
    )


@pytest.mark.parametrize(
    ("label", "text"),
    [
        ("{i}", "Paper\nGlass ware\nMetal\n"),
        ("{i}", "1 Paper\n2: Glass ware\n3,Metal\n"),
        ("0{i}", "x\nPaper\nGlass ware\nMetal"),
    ],
)
def test_a_file_of_names(tmp_path, label, text):
    root = made(tmp_path, "{path} {label}", label=label)
    (root / "classes.txt").write_text(text)
    assert load(root).class_names == ("Paper", "Glass ware", "Metal")


def test_numbers_that_nothing_names(tmp_path):
    root = made(tmp_path, "{path} {label}")
    text = (root / "train.txt").read_text()
    (root / "train.txt").write_text(text.replace("paper0.jpg 1", "paper0.jpg 10"))
    assert load(root).class_names == ("1", "2", "3", "10")
    (root / "classes.txt").write_text("a\nb\nc\n")
    with pytest.raises(UserError, match=r"classes\.txt names 3 classes, and the lists have others: 10"):
        load(root)


def test_one_list_and_named_lists(tmp_path):
    root = made(tmp_path, "{path} {label}")
    source = load(root / "train.txt", val_ratio=0.34)
    assert {name: len(split) for name, split in source.splits.items()} == {"train": 6, "val": 3}
    (root / "val.txt").rename(root / "holdout.txt")
    source = load(root, val_split="holdout.txt")
    assert len(source.splits["val"]) == 3 and source.origins["val"] == "holdout.txt"


def test_what_is_refused(tmp_path):
    root = made(tmp_path, "{path} {label}")
    text = (root / "train.txt").read_text()
    for line, message in (
        ("alone.jpg", r"train\.txt:12: 'alone.jpg' has no label: the first lines are path label"),
        ("../../etc/x.jpg 1", r"train\.txt:12: '../../etc/x.jpg' leads out of the folder of the images"),
        ("paper/./paper0.jpg 2", r"train\.txt:12: 'paper/./paper0.jpg' is on line 3 too"),
        ("paper/paper3.jpg 2", r"val\.txt:3: 'paper/paper3.jpg' is in .*train\.txt:12 too"),
    ):
        (root / "train.txt").write_text(text + line + "\n" if "alone" not in line else text + line)
        with pytest.raises(UserError, match=message):
            load(root)
    (root / "val.txt").rename(root / "rest.txt")
    (root / "train.txt").write_text("nothing.jpg 1\n")
    with pytest.raises(UserError, match=r"such as nothing\.jpg, are in none of: .* --config\.data\.images=DIR"):
        load(root)
    (root / "train.txt").write_text("")
    with pytest.raises(UserError, match=r"train\.txt lists no image"):
        load(root)
    (root / "other").mkdir()
    Image.new("RGB", (4, 4)).save(root / "other" / "paper0.jpg")
    (root / "train.txt").write_text("paper0.jpg 1\n")
    with pytest.raises(UserError, match=r"paper0\.jpg is both .* and .*: give paths in the lists instead of names"):
        load(root)
