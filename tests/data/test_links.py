"""Symbolic links that lead out of a data folder: followed, or refused by name."""

import numpy as np
import pytest
from PIL import Image

from jaxdino.core.errors import UserError
from jaxdino.data.sources import load_source


@pytest.fixture
def folder(tmp_path):
    for place in ("data/train/a", "data/train/b", "data/val/a", "data/val/b", "elsewhere"):
        (tmp_path / place).mkdir(parents=True)
        for name in ("1.png", "2.png"):
            Image.fromarray(np.full((4, 4, 3), 9, np.uint8)).save(tmp_path / place / name)
    return tmp_path / "data"


def load(folder, **how):
    return load_source({"name": "folder", "root": str(folder), **how})


def test_links_below_the_root_are_always_read(folder):
    (folder / "train/a/3.png").symlink_to(folder / "train/b/1.png")
    assert len(load(folder, follow_links=False).split("train")) == 5


@pytest.mark.parametrize("link", ["file", "folder"])
def test_links_out_of_the_root_are_followed_or_refused(folder, link):
    place, target = {
        "file": (folder / "train/a/3.png", folder.parent / "elsewhere/1.png"),
        "folder": (folder / "train/c", folder.parent / "elsewhere"),
    }[link]
    place.symlink_to(target)
    assert len(load(folder).split("train")) == {"file": 5, "folder": 6}[link]
    with pytest.raises(UserError, match=rf"follow_links=False, and \d files? .*{place}.* is .*elsewhere/1.png"):
        load(folder, follow_links=False)


def test_a_root_that_is_a_link_is_the_users_own(folder):
    (folder.parent / "link").symlink_to(folder)
    assert len(load(folder.parent / "link", follow_links=False).split("train")) == 4


def test_files_of_fields_count_too(tmp_path):
    for place in ("data/images", "data/masks", "elsewhere"):
        (tmp_path / place).mkdir(parents=True)
    (tmp_path / "data/classes.txt").write_text("sky\nsea\n")
    for name in ("1", "2", "3"):
        Image.fromarray(np.full((4, 4, 3), 9, np.uint8)).save(tmp_path / f"data/images/{name}.png")
        Image.fromarray(np.eye(4, dtype=np.uint8)).save(tmp_path / f"data/masks/{name}.png")
    given = {"name": "masks", "root": str(tmp_path / "data"), "val_ratio": 0.4, "follow_links": False}
    load_source(given, "class_mask")
    (tmp_path / "data/masks/1.png").rename(tmp_path / "elsewhere/1.png")
    (tmp_path / "data/masks/1.png").symlink_to(tmp_path / "elsewhere/1.png")
    with pytest.raises(UserError, match=r"1 files? .*masks/1\.png is .*elsewhere/1\.png"):
        load_source(given, "class_mask")


def test_a_manifest_names_files_beside_it(folder):
    (folder / "m.csv").write_text("path,label\n" + "".join(f"train/{c}/{n}.png,{c}\n" for c in "ab" for n in "12"))
    given = {"name": "manifest", "root": str(folder / "m.csv"), "follow_links": False, "val_ratio": 0.5}
    load_source(given)
    (folder / "train/a/1.png").unlink()
    (folder / "train/a/1.png").symlink_to(folder.parent / "elsewhere/1.png")
    with pytest.raises(UserError, match=r"train/a/1\.png is .*elsewhere"):
        load_source(given)
