"""The page stands alone: it parses, loads nothing, shows every kind of finding, and is not fooled by names."""

import base64
import io
import os
import re
import shutil
from html.parser import HTMLParser

import planted
import pytest
from PIL import Image

from jaxdino.check_data import main

EMPTY = {"meta", "link", "img", "br", "input", "hr"}
HOSTILE = '<img src=x onerror="alert(1)">&amp;\u202ecat'


class Page(HTMLParser):
    """The elements of a page; fails for tags that are not closed in order."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.images, self.attributes, self.words = [], [], [], []
        self._open = []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *attr) for attr in attrs]
        self.images += [value for name, value in attrs if tag == "img" and name == "src"]
        if tag not in EMPTY:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return re.sub(r"\s+", " ", " ".join(self.words))


def shown(root, *flags):
    file = root.parent / "page.html"
    assert main([f"--root={root}", f"--html={file}", *flags]) == 0
    return Page(file.read_text(encoding="utf-8"))


@pytest.fixture
def root(tmp_path):
    return planted.folder(tmp_path / "data")


def test_every_finding_has_a_section_with_pictures(root):
    shutil.copy(root / "train/cat/1.jpg", root / "val/dog/copy.jpg")
    planted.picture(3).resize((100, 100)).save(root / "train/cat/less.jpg")
    (root / "train/cat/bad.jpg").write_bytes(b"x")
    page = shown(root)
    links = {value for tag, name, value in page.attributes if tag == "h2" and name == "id"}
    assert links == {"unreadable", "duplicates", "label_conflicts", "near_duplicates", "leaks", "exact_leaks", "small"}
    assert {f"#{link}" for link in links} == {value for tag, name, value in page.attributes if name == "href"}
    assert len(page.images) == 2 + 2 + 2 + 2 + 2 + 1 and "no picture" in page.text and "not an image" in page.text
    for source in page.images:
        image = Image.open(io.BytesIO(base64.b64decode(source.removeprefix("data:image/jpeg;base64,"))))
        assert image.format == "JPEG" and max(image.size) <= 112


def test_nothing_is_loaded_or_run(root):
    shutil.copy(root / "train/cat/1.jpg", root / "val/cat/copy.jpg")
    page = shown(root)
    assert not {"script", "link", "iframe", "object", "form"} & set(page.tags)
    assert all(value.startswith("data:image/jpeg;base64,") for value in page.images) and page.images
    text = (root.parent / "page.html").read_text()
    assert not re.search(r"https?:|//[a-z]|url\(|@import|\bon\w+=", text)


def test_hostile_names_are_text(root):
    for name, place in (("train", root / "train/cat"), ("val", root / "val/cat")):
        os.rename(place, root / name / HOSTILE.replace("/", ""))
    bad = root / "train" / HOSTILE / "a\n<script>alert(2)</script>.jpg".replace("/", "")
    bad.write_bytes(b"x")
    odd = os.fsencode(str(root / "train/dog/")) + b"/\xff\xfe.jpg"
    with open(odd, "wb") as file:
        file.write(b"x")
    page = shown(root)
    assert not {"script"} & set(page.tags) and page.images == []
    assert not [attr for attr in page.attributes if attr[1].startswith("on")]
    assert 'onerror="alert(1)">&amp;\\u202ecat' in page.text and "<script>alert(2)<script>.jpg" in page.text
    assert "\\udcff\\udcfe.jpg" in page.text


def test_the_page_is_bounded_and_counts_the_rest(root):
    for i in range(7):
        planted.picture(i + 200, (100, 100)).save(root / f"train/cat/small{i}.png")
    page = shown(root, "--first=3", "--distance=-1")
    assert len(page.images) == 3 and "and 4 more" in page.text
    assert shown(root, "--first=0").images == []
