"""The configs of configs/benchmarks: each is found by name and resolved on tiny data of the layout it describes.

The conversions in their docstrings are run as they stand there, and so are some of their commands.
"""

import csv
import re
from pathlib import Path

import pytest
import tiny

from benchmarks import protocols
from benchmarks.protocol_data import LAYOUTS
from jaxdino import cli
from jaxdino.settings import config_search
from jaxdino.settings.command_line import command
from jaxdino.train.setup import prepare

COUNTS = dict(imagenet=12, places365=12, montgomery=20, ade20k=4, voc2012=4, nyu_depth=4)
MONITORS = dict(chestxray14="val/macro_auc", isic2019="val/balanced_accuracy", montgomery="val/balanced_accuracy")


def test_every_protocol_has_its_stand_in_data():
    assert set(LAYOUTS) == {file.stem for file in (config_search.INSTALLED / "benchmarks").glob("[!_]*.py")}


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_benchmark_is_resolved_on_the_layout_it_describes(name, tmp_path):
    if name == "cifar10":
        pytest.importorskip("datasets")
    root = protocols.make(name, tmp_path, COUNTS.get(name, 60), side=8)
    config = command(f"benchmarks/{name}:{tiny.SPEC.name}", [f"--config.data.root={root}"]).config()
    config.model.weights = "random"
    config.data.update(batch_size=2, num_threads=0, decoder="pillow")
    if config.data.image_size is not None:
        config.data.image_size = 16
    part = prepare(config, lambda _: None).parts[0]
    assert part.stage.monitor == MONITORS.get(name, "") and part.steps_per_epoch > 0
    assert {path.split(".")[0] for path in part.plan.trainable} == {"head"}


@pytest.mark.parametrize(("name", "column"), [("chestxray14", "patient"), ("isic2019", "lesion")])
def test_conversions_keep_patients_and_lesions_in_one_split(name, column, tmp_path):
    with open(protocols.make(name, tmp_path, 60, side=8), newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 60 and {row["split"] for row in rows} == {"train", "val", "test"}
    found = {(row[column], row["split"]) for row in rows if row[column]}
    assert len(found) == len({owner for owner, _ in found})


def test_commands_of_the_docstrings_run_on_the_stand_in_data(tmp_path, monkeypatch, capsys):
    chosen = {"imagenet": ("evaluate", "--probe"), "montgomery": ("extract", "")}
    every = protocols.commands

    def run(words, folder):
        monkeypatch.chdir(folder)
        return cli.main(words), ""

    def few(name):
        first, without = chosen[name]
        return [words for words in every(name) if words[0] == first and without not in words]

    monkeypatch.setattr(protocols, "run", run)
    monkeypatch.setattr(protocols, "commands", few)
    monkeypatch.setattr(protocols, "IMAGES", {"imagenet": 200, "montgomery": 20})
    assert all(protocols.protocol(name, tmp_path) for name in chosen)
    rows = capsys.readouterr().out
    assert "| `evaluate --weights dinov2_vits14.pth --root IMAGENET --k 10 20 100 200` |" in rows
    assert "k-NN 10 " in rows and ", n=66 |" in rows and "| done |" in rows
    assert (tmp_path / "montgomery/FEATURES/manifest.json").is_file()


def test_sizes_are_whole_patches():
    for model, side, of_depth in (("dinov2_vits14", 518, "476x644"), ("dinov3_vits16", 512, "480x640")):
        assert command(f"benchmarks/ade20k:{model}", []).config().data.image_size == side
        assert command(f"benchmarks/nyu_depth:{model}", []).config().data.image_size == of_depth


def test_docs_list_every_benchmark():
    page = (Path(__file__).parents[2] / "docs" / "benchmarks.md").read_text("utf-8")
    assert set(re.findall(r"^\| \[`benchmarks/(\w+)`\]", page, re.MULTILINE)) == set(LAYOUTS)
