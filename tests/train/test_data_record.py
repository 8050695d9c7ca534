"""A run is resumed on other data: what has changed is named, and refused unless it is accepted."""

import gzip
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny
import tiny_distill
import tiny_segment
import tiny_semantic
from PIL import Image

from jaxdino.core import processes
from jaxdino.core.errors import UserError
from jaxdino.data.config import DataConfig
from jaxdino.data.sources import load_source
from jaxdino.train import data, data_record
from jaxdino.train.data_record import DataRecord
from jaxdino.train.loop import run
from jaxdino.train.setup import prepare
from jaxdino.train.workdir import Workdir

CLASSES = ("cat", "dog", "eel")


def image(file: Path, seed: int = 0, side: int = 8) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng([seed, *file.name.encode()]).integers(0, 256, (side, side, 3), np.uint8)
    Image.fromarray(values).save(file, compress_level=0)


def settings(root: Path, **changes):
    given = dict(data__name="folder", data__root=str(root), checkpoint__every_steps=1)
    return tiny.config(2, batch_size=8, **given | changes)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory) -> Path:
    """A folder with images/ of three classes, and run/, stopped after its first step."""
    top = tmp_path_factory.mktemp("stopped")
    for split, count in (("train", 8), ("val", 3)):
        for name in CLASSES:
            for number in range(count):
                image(top / "images" / split / name / f"{name}{number}.png")
    assert not run(settings(top / "images", time_limit="0.001s"), top / "run")["finished"]
    return top


@pytest.fixture
def top(stopped, tmp_path, monkeypatch) -> Path:
    """A copy of it, as the current folder; the run names its images as images/."""
    shutil.copytree(stopped, tmp_path / "top")
    file = tmp_path / "top" / "run" / "config.json"
    file.write_text(file.read_text().replace(str(stopped / "images"), "images"))
    monkeypatch.chdir(tmp_path / "top")
    return tmp_path / "top"


def checked(**changes) -> DataRecord:
    """Compare the data as a resumed run does, without training."""
    config = settings(Path("images"), **changes)
    folder = Workdir(Path("run"), config)
    cfg = DataConfig(name="folder", root="images", digest=config.data.digest, accept_change=config.data.accept_change)
    record = DataRecord(folder, cfg, print)
    setup = prepare(config, print, record.check)
    record.check_model(setup.task.card, config.model.weights)
    record.keep()
    return record


def both(old: str, new: str) -> None:
    for split in ("train", "val"):
        Path("images", split, old).rename(Path("images", split, new))


def swap() -> None:
    """Exchange two classes."""
    both("cat", "x")
    both("dog", "cat")
    both("x", "dog")


CHANGES = {
    "nothing": (lambda: None, None),
    "class renamed": (
        lambda: both("cat", "zebra"),
        r"1 class renamed: cat -> zebra\n.*label changes of 3 classes: zebra 0 -> 2, dog 1 -> 0, eel 2 -> 1",
    ),
    "classes swapped": (
        swap,
        r"22 files renamed or moved .*: train/cat/cat0.png -> train/dog/cat0.png, .* and 19 more",
    ),
    "file renamed": (
        lambda: Path("images/train/cat/cat1.png").rename("images/train/cat/z.png"),
        r"1 file renamed or moved \(same size\): train/cat/cat1.png -> train/cat/z.png",
    ),
    "label moved": (
        lambda: Path("images/train/cat/cat1.png").rename("images/train/dog/cat1.png"),
        r"1 file renamed or moved \(same size\): train/cat/cat1.png -> train/dog/cat1.png",
    ),
    "gone": (lambda: Path("images/val/dog/dog1.png").unlink(), r"val: 1 file gone: val/dog/dog1.png"),
    "added": (lambda: image(Path("images/train/eel/new.png")), r"train: 1 file added: train/eel/new.png"),
    "replaced": (
        lambda: image(Path("images/train/eel/eel0.png"), side=9),
        r"sizes of 1 record differ: train/eel/eel0.png \(\d+ -> \d+\)",
    ),
    "class gone": (
        lambda: [shutil.rmtree(f"images/{split}/eel") for split in ("train", "val")],
        r"1 class gone: eel\n.*train: 8 files gone",
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_changed_data_is_refused_by_name(name, top):
    change, words = CHANGES[name]
    change()
    if words is None:
        assert checked().accepted == []
        return
    before = Path("run/data.json").read_text()
    with pytest.raises(UserError, match="(?s)data has changed since.*" + words + ".*accept_change=True"):
        checked()
    assert Path("run/data.json").read_text() == before
    (Path("run") / data_record.LISTING).write_bytes(b"damaged")
    with pytest.raises(UserError, match="the data has changed since"):
        checked()


def test_an_accepted_change_is_said_kept_and_trained_on(top, capsys):
    image(Path("images/train/eel/new.png"))
    done = run(settings(Path("images"), data__accept_change=True, time_limit="0.001s"), "run")
    assert not done["finished"]
    assert "changed, as data.accept_change allows: train: 1 file added: train/eel/new.png" in capsys.readouterr().out
    assert json.loads(Path("run/data.json").read_text())["accepted"] == ["train: 1 file added: train/eel/new.png"]
    assert run(settings(Path("images")), "run")["finished"]  # without the setting: it is the run's data now


def test_another_number_of_classes_cannot_be_accepted(top):
    for split in ("train", "val"):
        shutil.rmtree(f"images/{split}/eel")
    with pytest.raises(UserError, match="has 3 classes, and the data now has 2: restore the data"):
        checked(data__accept_change=True)


def test_contents_of_the_same_size_are_seen_with_digest(top, capsys):
    checked(data__digest=True)
    assert "contents were not recorded so far; they are from now on" in capsys.readouterr().out
    file = Path("images/val/cat/cat0.png")
    size = file.stat().st_size
    image(file, seed=1)
    assert file.stat().st_size == size
    checked()
    assert "contents of files are not compared, since data.digest is False" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"contents of 1 record differ: val/cat/cat0.png"):
        checked(data__digest=True)


def test_another_order_of_the_same_records_is_refused(top):
    """As another version of a source, or of its splitting, would list them."""
    found = json.loads(Path("run/data.json").read_text())
    listing = Path("run") / data_record.LISTING
    lines = gzip.decompress(listing.read_bytes()).decode().splitlines()
    lines[:2] = lines[1::-1]
    listing.write_bytes(gzip.compress("".join(f"{line}\n" for line in lines).encode()))
    counts = {name: split["records"] for name, split in found["sources"]["data"]["splits"].items()}
    read = data_record._read_listing(listing, "data", counts)
    found["sources"]["data"]["splits"]["train"] = read["train"].digests()
    Path("run/data.json").write_text(json.dumps(found))
    words = "train: the order of the records differs, first record 0: train/cat/cat1.png -> train/cat/cat0.png"
    with pytest.raises(UserError, match=words):
        checked()


def test_a_folder_of_an_earlier_version_is_resumed_with_a_word(top, capsys):
    Path("run/data.json").unlink()
    checked()
    assert "this run has no data.json, as those of an earlier version" in capsys.readouterr().out
    checked()
    assert "earlier version" not in capsys.readouterr().out


@pytest.mark.parametrize("text", ["{", "[]", '{"format": 1}', '{"format": 1, "sources": {"data": 3}, "model": {}}'])
def test_a_damaged_record_is_refused(text, top):
    Path("run/data.json").write_text(text)
    with pytest.raises(UserError, match=r"data\.json.*accept_change=True"):
        checked()
    assert checked(data__accept_change=True).new


@pytest.mark.parametrize("column", ["values", "contents"])
def test_a_record_without_a_column_is_refused(column, top):
    file = Path("run/data.json")
    file.write_text(file.read_text().replace(f'"{column}"', '"valqes"'))
    with pytest.raises(UserError, match=r"data\.json was not written by this version .*accept_change=True"):
        checked()


def test_a_run_without_a_checkpoint_begins_with_the_data_that_it_finds(top):
    shutil.rmtree("run/checkpoints")
    both("cat", "zebra")
    assert checked().accepted == []
    assert json.loads(Path("run/data.json").read_text())["sources"]["data"]["class_names"] == ["dog", "eel", "zebra"]


def test_other_initial_weights_are_refused(top):
    folder = Workdir(Path("run"), settings(Path("images")))
    card = prepare(settings(Path("images")), print).task.card
    Path("run/data.json").write_text(
        json.dumps(json.loads(Path("run/data.json").read_text()) | {"model": {"digest": "ab" * 32, "classes": 3}})
    )
    record = DataRecord(folder, DataConfig(), print)
    with pytest.raises(
        UserError, match=r"initial weights have changed.*\n.*w\.pth: other parameters, SHA-256 abababab"
    ):
        record.check_model(card, "w.pth")


def test_all_processes_refuse_what_one_finds(top, monkeypatch):
    record = DataRecord(Workdir(Path("run"), settings(Path("images"))), DataConfig(), print)
    monkeypatch.setattr(processes, "any_of", lambda what, mine: True)
    with pytest.raises(UserError, match="the data has changed in another process of this run"):
        record._refuse([], "data has")


def test_processes_with_different_data_do_not_start(top, monkeypatch):
    config = settings(Path("images"))
    folder, cfg = Workdir(Path("run"), config), data.config_of(config)
    record = DataRecord(folder, cfg, print)
    record.check("data", load_source(cfg))
    record.model = {"weights": None, "digest": "a" * 64, "classes": 2}
    monkeypatch.setattr(processes, "name", "process {} (node)".format)
    monkeypatch.setattr(processes, "exchange", lambda what, mine: [mine, mine | {"sizes of data train": "other"}])
    with pytest.raises(UserError, match=r"same data: sizes of data train is other in process 1 \(node\), and"):
        record.keep()


@pytest.mark.parametrize(
    ("config", "names"),
    [
        (lambda root: tiny_segment.config(1), {"data"}),
        (lambda root: tiny_semantic.config(), {"data"}),
        (lambda root: tiny_distill.config(1), {"data"}),
        (lambda root: tiny_distill.config(1, evaluation__root=str(root)), {"data", "evaluation"}),
    ],
)
def test_every_task_shows_each_source_that_it_loads(config, names, stopped):
    found = {}
    prepare(config(stopped / "images"), lambda _: None, found.__setitem__)
    assert found.keys() == names
