"""Whole runs of knowledge distillation: what is saved, exact resumption, four devices, no labels, refusals."""

import json

import numpy as np
import pytest
import tiny
from measured import MEASURED
from PIL import Image

from configs import common
from convert.store import load_card, load_model
from jaxdino.core.errors import UserError
from jaxdino.data.sources.digits import _digit_arrays
from jaxdino.objectives.settings import Teaching
from jaxdino.train.loop import run
from jaxdino.train.setup import prepare


def config(teacher, *epochs, objective=None, **changes):
    """A tiny student of a teacher."""
    made = tiny.config(*(epochs or (1,)), **changes)
    given = dict(features=0.5, patches=0.5) | (objective or {})
    given |= dict(name="knowledge_distillation", label_smoothing=0.0, teacher=str(teacher))
    with made.unlocked():
        made.objective = common.open_fields(Teaching, given)
    return made


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A finished run."""
    folder = tmp_path_factory.mktemp("teacher") / "run"
    run(tiny.config(1, batch_size=128, seed=3), folder)
    return folder


@pytest.fixture(scope="module")
def whole(teacher, tmp_path_factory):
    """A distilled run of two stages: its folder and its records."""
    folder = tmp_path_factory.mktemp("student") / "run"
    run(config(teacher, 1, 1, checkpoint__every_steps=3), folder)
    return folder, records(folder)


def records(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: v for key, v in line.items() if key not in MEASURED} for line in lines]


def test_the_student_is_saved_alone_and_every_loss_is_logged(whole):
    folder, lines = whole
    card, flat = load_model(folder / "best")
    assert card.spec.heads == () and {path.split(".")[0] for path in flat} == {"backbone", "head"}
    names = ("label_loss", "teacher_loss", "features_loss", "patches_loss")
    for line in lines:
        terms = [line[name] for name in names]
        assert line["loss"] == pytest.approx(np.dot((0.5, 0.5, 0.5, 0.5), terms), rel=1e-5)
    assert "test/accuracy" in json.loads((folder / "summary.json").read_text())


def test_a_stopped_run_goes_on_bit_for_bit(whole, teacher, tmp_path):
    class Stop(Exception):
        """Ends the first half."""

    def on_step(step):
        if step == 5:
            raise Stop

    folder = tmp_path / "halves"
    with pytest.raises(Stop):
        run(config(teacher, 1, 1, checkpoint__every_steps=3), folder, on_step)
    run(config(teacher, 1, 1, checkpoint__every_steps=3), folder)
    assert records(folder) == whole[1] and load_card(folder / "best") == load_card(whole[0] / "best")


def test_four_devices_equal_one(whole, teacher, all_devices, tmp_path):
    run(config(teacher, 1, 1, checkpoint__every_steps=3), tmp_path / "four")
    for one, four in zip(whole[1], records(tmp_path / "four"), strict=True):
        assert one["loss"] == pytest.approx(four["loss"], rel=2e-5)


def test_outputs_that_are_computed_once_teach_the_same(teacher, tmp_path):
    """Without augmentation the teacher sees the same images in every epoch, so nothing may differ."""
    for name, cache in (("each", False), ("once", True)):
        objective = dict(patches=0.0, cache=cache)
        run(config(teacher, 2, objective=objective, data__augment="none"), tmp_path / name)
    both = zip(records(tmp_path / "each"), records(tmp_path / "once"), strict=True)
    for one, two in both:
        for term in ("loss", "teacher_loss", "features_loss"):
            assert one[term] == pytest.approx(two[term], rel=1e-4)


def test_outputs_that_depend_on_the_crop_are_not_computed_once(teacher):
    with pytest.raises(UserError, match=r"has objective.patches=0.5: patches move"):
        prepare(config(teacher, objective=dict(cache=True)), lambda _: None)


@pytest.mark.parametrize("alpha", [0.0, 1.0], ids=["features", "classes"])
def test_without_labels_the_latest_student_is_kept(alpha, teacher, tmp_path):
    (tmp_path / "some").mkdir()
    for n, image in enumerate(_digit_arrays()[0][:40]):
        Image.fromarray(image).save(tmp_path / "some" / f"{n}.png")
    data = dict(data__name="images", data__root=str(tmp_path / "some"), batch_size=8, early_stopping__monitor="")
    made = config(teacher, objective=dict(alpha=alpha, features=1 - alpha), **data)
    made.stages = (common.stage("all", epochs=1, rules=(("@all", "all"),), groups=dict(all=dict(lr=1e-3))),)
    run(made, tmp_path / "run")
    card, flat = load_model(tmp_path / "run" / "best")
    of_teacher, start = load_model(teacher / "best")
    assert card.class_names == (of_teacher.class_names if alpha else ())
    assert set(flat) == {path for path in start if alpha or path.startswith("backbone.")}
    assert ("teacher_loss" in records(tmp_path / "run")[-1]) == bool(alpha)


@pytest.mark.parametrize(
    ("objective", "words"),
    [
        ({"teacher": ""}, "objective.teacher is not set"),
        ({"teacher": "dinov3_digits"}, "the teacher has no classification head"),
        ({"teacher": "nowhere"}, "objective.teacher=nowhere"),
    ],
)
def test_refusals(objective, words):
    made = config("x")
    made.objective.update(objective)
    with pytest.raises(UserError, match=words):
        prepare(made, lambda _: None)
