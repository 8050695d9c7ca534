"""Whole runs whose image size changes: schedules, sizes that batches draw, batches by aspect ratio."""

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import tiny
import tiny_semantic
from measured import MEASURED
from midway import Midway
from PIL import Image

import jaxdino
from configs import common
from convert.export import export
from convert.load import load_pretrained
from convert.store import load_model
from jaxdino.core.errors import UserError
from jaxdino.data.sources.digits import _digit_arrays
from jaxdino.train import step
from jaxdino.train.loop import run
from jaxdino.train.setup import prepare

SCHEDULE = dict(data__image_size="0:8,1:12x8,2:8,3:16")
AT = (2, 3, 5)
"""Steps of kills, of two an epoch: before a change of size, within its first epoch, within a later one."""
SCALES = dict(data__multi_scale=(8, 12, (8, 16)), data__image_size=12)
ASPECT = dict(data__aspect_ratios="1:2,1:1,2:1", data__image_size=(8, 16))


def config(epochs=4, **changes):
    return tiny.config(epochs, batch_size=100, checkpoint__every_steps=1, **changes)


def lines(folder: Path) -> list[dict]:
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in MEASURED} for line in found]


def assert_same_run(folder: Path, other: Path) -> None:
    assert lines(folder) == lines(other)
    (card, flat), (other_card, other_flat) = load_model(folder / "best"), load_model(other / "best")
    assert card.digest == other_card.digest and card.spec.preprocess.size == other_card.spec.preprocess.size
    assert all(np.array_equal(value, other_flat[path]) for path, value in flat.items())


@pytest.fixture
def compiled(monkeypatch):
    """The compiled training and evaluation steps of the runs of a test, in order."""
    made = {"train": [], "eval": []}
    for name, make in (("train", step.compile_train_step), ("eval", step.compile_eval_step)):

        def kept(*args, name=name, make=make, **how):
            made[name].append(make(*args, **how))
            return made[name][-1]

        monkeypatch.setattr(step, make.__name__, kept)
    return made


@pytest.mark.parametrize("changes", [SCHEDULE, SCALES], ids=["schedule", "scales"])
def test_one_compilation_for_each_size_and_a_run_resumed_is_bit_identical(tmp_path, compiled, changes, capsys):
    whole, copies = tmp_path / "whole", {k: tmp_path / str(k) for k in AT}
    run(config(**changes), whole, Midway(whole, copies))
    (train,) = compiled["train"]
    assert train._cache_size() == 2  # besides the first batch's; none when a size comes again
    assert {one._cache_size() for one in compiled["eval"]} == {1}
    evaluated = 3 if changes is SCHEDULE else 1
    assert len(compiled["eval"]) == evaluated + 1  # and one for the test split
    out = capsys.readouterr().out
    if changes is SCHEDULE:
        assert "head: images of 12 x 8 from epoch 2 on, 8 x 8 until now; the best weights so far have" in out
        assert load_model(whole / "best")[0].spec.preprocess.size == (16, 16)
    for folder in copies.values():
        run(config(**changes), folder)
        assert_same_run(whole, folder)


def stopped_at(step: int):
    """Send SIGTERM to this process at a step."""

    def on_step(now: int) -> None:
        if now == step:
            os.kill(os.getpid(), signal.SIGTERM)

    return on_step


@pytest.mark.soak
def test_sigterm_before_and_after_a_change_of_size(tmp_path):
    run(config(**SCHEDULE), tmp_path / "whole")
    for last in (2, 3):  # the last step at 8 x 8, the first one at 12 x 8
        assert run(config(**SCHEDULE), tmp_path / "again", stopped_at(last))["stopped"]["step"] == last
    run(config(**SCHEDULE), tmp_path / "again")
    assert_same_run(tmp_path / "whole", tmp_path / "again")


def still(epochs: int, **changes):
    """The config of a run whose weights do not change."""
    made = config(epochs, **changes)
    made.stages[0].groups.head.update(lr=1e-30)  # too small to change a float32
    return made


def test_the_best_weights_are_evaluated_again_at_a_new_size_and_saved_with_it(tmp_path):
    summary = run(still(2, data__image_size="0:8,1:16x8"), tmp_path)
    first, second = [line for line in lines(tmp_path) if "val/loss" in line]
    (stage,) = summary["stages"]
    assert stage["best_epoch"] == 1 and stage["val/loss"] == second["val/loss"] != first["val/loss"]
    assert [line["image_size"] for line in (first, second)] == [dict(height=8, width=8), dict(height=16, width=8)]
    assert jaxdino.load(tmp_path).card.spec.preprocess.size == (16, 8)
    assert jaxdino.load(tmp_path).preprocess([np.zeros((20, 20, 3), np.uint8)]).shape == (1, 16, 8, 3)


def test_a_plateau_ends_a_stage_at_its_last_size_only(tmp_path):
    made = still(9, data__image_size="0:8,3:12", early_stopping__patience=1)
    (stage,) = run(made, tmp_path)["stages"]
    assert stage["epochs"] == 5  # the fourth epoch is the first at 12 pixels


def test_stages_hand_on_their_last_size(tmp_path, capsys):
    made = tiny.config(2, 1, batch_size=100)
    made.stages[0].image_size, made.stages[1].image_size = "0:8,1:12", 12
    run(made, tmp_path)
    out = capsys.readouterr().out
    assert "last: starts at val/accuracy" in out
    parts = prepare(made, lambda _: None).parts
    assert [part.at(0).image_size for part in parts] == [(8, 8), (12, 12)] and parts[0].image_size == (12, 12)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"data__image_size": "0:8,1:10"},
            "stage 'head': image_size has 10, and the model takes multiples of 4 .* is 8",
        ),
        ({"data__image_size": (8, 13)}, "image_size has 8x13, .* the nearest is 8x12"),
        ({"data__multi_scale": (8, 14)}, "multi_scale has 14, .* the nearest is 16"),
        ({"data__image_size": "0:8,4:16"}, "image_size=0:8,4:16 changes after 4 epochs, and the stage has 4"),
        ({"data__image_size": "0:8,1:16", "data__multi_scale": (8, 16)}, "both say which size a batch has"),
        ({"data__aspect_ratios": (0.9, 1.0), "data__image_size": 8}, "all of them become 8 x 8 at this size"),
    ],
)
def test_sizes_that_cannot_work_are_refused_before_the_data_is_read(changes, message):
    said = []
    with pytest.raises(UserError, match=message):
        prepare(config(**changes), said.append)
    assert said == []


def test_a_stage_in_steps_must_come_to_all_sizes():
    made = config(data__image_size="0:8,2:16")
    made.stages[0].epochs, made.stages[0].steps = None, 4
    with pytest.raises(UserError, match="changes after 2 epochs, and the stage has 2"):
        prepare(made, lambda _: None)
    made.stages[0].steps = 5
    assert prepare(made, lambda _: None).parts[0].sizes.final == (16, 16)


SHAPES = [(8, 8), (8, 16), (16, 8)]  # height, width


@pytest.fixture(scope="module")
def rectangles(tmp_path_factory) -> Path:
    """A manifest of digits stretched to three shapes, with two labels each."""
    folder = tmp_path_factory.mktemp("rectangles")
    rows = ["path,labels,split"]
    for n, (image, digit) in enumerate(zip(*(array[:200] for array in _digit_arrays()), strict=True)):
        height, width = SHAPES[n % 3]
        Image.fromarray(image).resize((width, height)).save(folder / f"{n}.png")
        rows.append(
            f"{n}.png,{'even' if digit % 2 == 0 else 'odd'}|{'low' if digit < 5 else 'high'},{SPLIT[n % 4 == 3]}"
        )
    (folder / "m.csv").write_text("\n".join(rows))
    return folder / "m.csv"


SPLIT = {False: "train", True: "val"}
LORA = dict(
    rules=((common.LORA, "lora"), ("@head", "head"), ("@all", "frozen")),
    groups=dict(lora=dict(lr=1e-2, weight_decay=0.0), head=dict(lr=3e-3), frozen=dict(frozen=True)),
    lora=dict(rank=2, targets=("q", "v")),
)


def test_batches_by_aspect_ratio_of_drawn_sizes_with_adapters_and_labels(rectangles, tmp_path, compiled, capsys):
    def made():
        found = tiny.config(3, batch_size=16, checkpoint__every_steps=1, **ASPECT, data__multi_scale=(12, 16))
        found.data.name, found.data.root, found.objective.name = "manifest", str(rectangles), "multilabel"
        found.stages = (common.stage("lora", epochs=3, **LORA),)
        return found

    whole, copies = tmp_path / "whole", {k: tmp_path / str(k) for k in (13,)}
    run(made(), whole, Midway(whole, copies))
    out = capsys.readouterr().out
    assert "data: width and height of 150 images read in" in out
    assert "images by aspect ratio, height x width: 24 x 12 50, 16 x 16 50, 12 x 24 50; about" in out
    assert "of 144 an epoch complete a batch of the neighbouring group; 6 are left over" in out
    assert compiled["train"][0]._cache_size() == 5  # besides the first batch's
    for folder in copies.values():
        run(made(), folder)
        assert_same_run(whole, folder)
    assert load_model(whole / "best")[0].spec.preprocess.size == (8, 16)


@pytest.mark.parametrize("changes", [SCHEDULE | {"data__image_size": "0:16,1:16x24"}, {"data__multi_scale": (16, 24)}])
def test_masks_move_with_the_images(tmp_path, changes):
    made = tiny_semantic.config("full", steps=None, **changes)
    made.stages[0].epochs, made.data.batch_size = 2, 100
    run(made, tmp_path)
    assert load_model(tmp_path / "best")[0].spec.preprocess.size == (
        (16, 24) if "data__image_size" in changes else (16, 16)
    )


def test_pytorch_files_keep_the_size(tmp_path):
    run(config(2, data__image_size="0:8,1:8x12"), tmp_path / "run")
    for layout in ("timm", "hf"):
        export(tmp_path / "run", tmp_path / layout, layout=layout)
        (tmp_path / layout / "jaxdino.json").unlink()
        assert load_pretrained(tmp_path / layout).card.spec.preprocess.size == (8, 12)
