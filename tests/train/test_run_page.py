"""report.html: what it shows of a run, escaped and self-contained."""

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from jaxdino.core.page import render
from jaxdino.data.channels import Reading
from jaxdino.evals.classification import write_confusion
from jaxdino.train.loop import run
from jaxdino.train.run_page import CLASSES, FILE, confusions, mistakes_shown
from jaxdino.train.task import Worst
from tests.train import tiny

DRAWN = True


class Outline(HTMLParser):
    """Headings, and everything that a page would load."""

    def __init__(self, text: str):
        super().__init__()
        self.headings, self.loaded, self.tags, self._inside = [], [], set(), False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self._inside = tag == "h2"
        self.loaded += [value for name, value in attrs if name in ("src", "href") and not value.startswith("#")]

    def handle_data(self, data):
        if self._inside and data.strip():
            self.headings.append(data.strip())
            self._inside = False


def test_the_page_of_a_run(tmp_path, monkeypatch):
    monkeypatch.setattr("jaxdino.train.workdir.say", lambda line: None)
    run(tiny.config(1), tmp_path / "run")
    text = (tmp_path / "run" / FILE).read_text()
    page = Outline(text)
    shown = ["Result", "Curves", "Pictures", "Confusion matrix", "Most confused", "Worst mistakes", "Stages"]
    assert page.headings == shown
    curves = re.findall('alt="(.+?)"', text)
    assert curves[:5] == ["loss", "val accuracy", "learning rates", "speed", "memory"]
    assert curves[5] == "Training images after augmentation"
    assert len(page.loaded) > 20 and all(one.startswith("data:image/") for one in page.loaded)
    assert "script" not in page.tags and "url(" not in text and "http" not in re.sub("http-equiv", "", text)
    assert "<th>delivered</th>" in text and re.search(
        r"<tr><td>\(most frequent class\)</td><td data-name=\"% trainable\">-</td>", text
    )
    assert "<p>test (model of stage " in text and "<p>stage" not in text and "<p>---" not in text
    assert "trainable: " in text and "always the most frequent class" in text
    lines = (tmp_path / "run" / "mistakes.csv").read_text().splitlines()
    assert lines[1].startswith("test[") and text.count("<figure>") == min(24, len(lines) - 1)


def test_confusions(tmp_path):
    logits = np.eye(3)[[0, 1, 1, 2, 0, 0]]
    write_confusion(tmp_path / "confusion.csv", logits, np.array([0, 0, 0, 2, 2, 1]), ["a", "<b>", "c"])
    found = confusions(tmp_path / "confusion.csv")
    assert found["classes"] == ["a", "<b>", "c"]
    assert found["matrix"][0] == ("a", [(1, pytest.approx(1 / 3)), (2, pytest.approx(2 / 3)), (0, 0)])
    assert found["confused"] == [(2, "a", "<b>", 3), (1, "c", "a", 2), (1, "<b>", "a", 1)]
    assert confusions(tmp_path / "none.csv") == {"classes": [], "matrix": [], "confused": []}


def test_of_many_classes_only_the_confused_pairs_are_shown(tmp_path):
    count = CLASSES + 1
    write_confusion(tmp_path / "c.csv", np.eye(count)[::-1], np.arange(count), [f"n{i}" for i in range(count)])
    found = confusions(tmp_path / "c.csv")
    assert found["classes"] == found["matrix"] == [] and len(found["confused"]) == 12


def test_names_are_escaped(tmp_path):
    bad = "<script>alert(1)</script>\x1b[2J\u202e"
    worst = [Worst(bad, bad, "b", 0.5, np.zeros((4, 4, 3), np.uint8)), Worst("lost", "a", "b", 0.9, "no/such.png")]
    shown = mistakes_shown(worst, Reading(3))
    assert shown[0]["picture"].startswith("data:image/jpeg") and shown[1]["picture"] == ""
    values = dict(
        title=bad,
        about=bad,
        state="",
        rows=[[bad], [bad]],
        lines=[bad],
        plots=[],
        pictures=[],
        plans=[bad],
        settings=[(bad,) * 5],
    )
    text = render(
        "run.html", **values, worst=shown, classes=[bad], matrix=[(bad, [(1, 1.0)])], confused=[(1, bad, bad, 1)]
    )
    assert "<script" not in text and "&lt;script&gt;" in text and "\x1b" not in shown[0]["name"]


def test_pages_are_in_the_package():
    assert (Path(run.__code__.co_filename).parents[1] / "assets/pages/style.css").is_file()
