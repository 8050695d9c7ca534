"""Several folders joined: splits by their names, classes united by name, and what is refused."""

import pytest
from PIL import Image

from jaxdino.core.errors import UserError
from jaxdino.data.pipeline import make_train_iter
from jaxdino.data.sources import load_source

PARTS = {"train.X1": "ab", "train.X2": "cd", "train.X3": "ea", "val.X": "abcde"}


@pytest.fixture
def root(tmp_path):
    for n, (part, classes) in enumerate(PARTS.items()):
        for c in classes:
            (tmp_path / part / f"n{c}").mkdir(parents=True)
            for i in range(3):
                Image.new("RGB", (4, 4), (i, n, 0)).save(tmp_path / part / f"n{c}" / f"{i}.png")
    (tmp_path / "Labels.json").write_text("{}")
    return tmp_path


def load(root, name="folder", **options):
    return load_source({"name": name, "root": root, **options})


def counts(source):
    return {name: split.counts() for name, split in source.splits.items()}


def test_parts_are_united_by_class(root):
    source = load(f"{root}/*")
    assert source.class_names == ("na", "nb", "nc", "nd", "ne")
    train = dict(na=6, nb=3, nc=3, nd=3, ne=3)
    assert counts(source) == {"train": train, "val": dict.fromkeys(train, 3)}
    assert source.origins == {"train": "train.X1, train.X2, train.X3", "val": "val.X"}
    assert source.notes == (
        "joined: train is train.X1, train.X2, train.X3, 5 classes, 18 images; in more than one of them: na",
        "joined: val is val.X, 5 classes, 15 images",
    )
    names = [source.splits["train"].record_name(i) for i in range(7)]
    assert names == [f"{part}/{i}.png" for part in ("train.X1/na", "train.X3/na") for i in range(3)] + [
        "train.X1/nb/0.png"
    ]
    batch = next(make_train_iter(source.splits["train"], seed=0, batch_size=18, image_size=4, preset="none"))
    green = {
        source.splits["train"].record_name(i).split("/")[0]: int(image[0, 0, 1])
        for i, image in zip(batch["index"], batch["image"], strict=True)
    }
    assert green == {"train.X1": 0, "train.X2": 1, "train.X3": 2}


def test_a_list_and_commas_name_the_same_folders(root):
    names = [f"{root}/{name}" for name in PARTS]
    assert counts(load(names)) == counts(load(" , ".join(names))) == counts(load(f"{root}/*.X*"))
    assert load(names).splits["train"].records == load(f"{root}/*").splits["train"].records


def test_flags_name_the_split_of_a_folder(root):
    (root / "val.X").rename(root / "holdout")
    source = load(f"{root}/*", val_split="holdout")
    assert {name: len(split) for name, split in source.splits.items()} == {"train": 18, "val": 15}
    assert len(load(f"{root}/*", val_ratio=0).splits["train"]) == 33
    (root / "holdout").rename(root / "val.X")
    source = load(f"{root}/*", val_split="none", val_ratio=0.34)
    assert {name: len(split) for name, split in source.splits.items()} == {"train": 12, "val": 6}
    assert source.ignored["images in the folder val.X/"] == 15
    with pytest.raises(UserError, match=r"val\.X could be the val split too"):
        load(f"{root}/*", val_split="train.X2")


def test_folders_with_splits_of_their_own(tmp_path):
    for place in ("one/train/cat", "one/train/dog", "one/val/cat", "two/train/cat", "two/train/eel", "two/val/eel"):
        (tmp_path / place).mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(tmp_path / place / "0.png")
    source = load(f"{tmp_path}/one,{tmp_path}/two")
    assert counts(source) == {"train": dict(cat=2, dog=1, eel=1), "val": dict(cat=1, dog=0, eel=1)}


@pytest.mark.parametrize("name", ["folder", "images"])
def test_the_same_images_twice(root, name):
    with pytest.raises(UserError, match=r"the same images twice: .*train\.X1 and .*na overlap: .*na lies in"):
        load(f"{root}/train.X1/na,{root}/train.X1", name)
    (root / "again").symlink_to(root / "train.X1")
    with pytest.raises(UserError, match="are the same folder"):
        load(f"{root}/again,{root}/train.X1", name)


def test_what_is_not_there(root):
    with pytest.raises(UserError, match=r"nothing matches '.*/\*Q'; found in .*: Labels.json, train.X1"):
        load(f"{root}/*Q")
    with pytest.raises(UserError, match=r"trainX does not exist; nearest in .*: train\.X"):
        load(f"{root}/train.X1,{root}/trainX")
    with pytest.raises(UserError, match=r"val has the class.* ne "):
        load(f"{root}/train.X1,{root}/train.X2,{root}/val.X")
    with pytest.raises(UserError, match=r"has both train\.X1 and .*, or join all folders, .*root='.*/\*'"):
        load(str(root))
    with pytest.raises(UserError, match="has a comma in its name"):
        load([f"{root}/a,b", f"{root}/c"])


def test_images_of_several_folders(root):
    source = load(f"{root}/train.X*", "images")
    assert len(source.splits["train"]) == 18 and source.splits["train"].record_name(17) == "train.X3/ne/2.png"
