"""Whole runs whose image size changes: schedules, sizes that batches draw, batches by aspect ratio."""

import json
from pathlib import Path

import numpy as np
import pytest
import tiny
from midway import Midway

from convert.store import load_model
from jaxdino.train import step
from jaxdino.train.loop import run

SCHEDULE = dict(data__image_size="0:8,1:12x8,2:8,3:16")
SCALES = dict(data__multi_scale=(8, 12, (8, 16)), data__image_size=12)
ASPECT = dict(data__aspect_ratios="1:2,1:1,2:1", data__image_size=(8, 16))


def config(epochs=4, **changes):
    return tiny.config(epochs, batch_size=400, checkpoint__every_steps=1, **changes)


def lines(folder: Path) -> list[dict]:
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("time", "images_per_second")} for line in found]


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

        def kept(*args, name=name, make=make):
            made[name].append(make(*args))
            return made[name][-1]

        monkeypatch.setattr(step, make.__name__, kept)
    return made


@pytest.mark.parametrize(("changes", "sizes"), [(SCHEDULE, 3), (SCALES, 3)])
def test_one_compilation_for_each_size_and_none_when_a_size_comes_again(tmp_path, compiled, changes, sizes):
    run(config(**changes), tmp_path)
    (train,) = compiled["train"]
    assert train._cache_size() == sizes
    assert {one._cache_size() for one in compiled["eval"]} == {1}
    evaluated = 3 if changes is SCHEDULE else 1
    assert len(compiled["eval"]) == evaluated + 1  # and one for the test split


@pytest.mark.parametrize("changes", [SCHEDULE, SCALES], ids=["schedule", "scales"])
def test_a_run_resumed_at_any_step_is_bit_identical(tmp_path, changes, capsys):
    whole, copies = tmp_path / "whole", {k: tmp_path / str(k) for k in (1, 2, 3, 4, 5, 7)}  # two steps an epoch
    run(config(**changes), whole, Midway(whole, copies))
    out = capsys.readouterr().out
    if changes is SCHEDULE:
        assert "head: images of 12 x 8 from epoch 2 on, 8 x 8 until now; the best weights so far have" in out
        assert load_model(whole / "best")[0].spec.preprocess.size == (16, 16)
    for folder in copies.values():
        run(config(**changes), folder)
        assert_same_run(whole, folder)
