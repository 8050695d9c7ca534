"""Runs of every task with all photometric steps and automatic augmentation: resumed, they are bit-identical."""

import dataclasses
import json

import pytest
import tiny
import tiny_distill
import tiny_segment
import tiny_semantic
from midway import Midway
from ml_collections import ConfigDict

from convert.store import load_card
from jaxdino.core.errors import UserError
from jaxdino.data.presets import get_preset
from jaxdino.train import loop, pixels
from jaxdino.train.setup import prepare

STEPS = dict(
    gamma=0.2,
    sharpness=0.3,
    noise=0.02,
    **dict.fromkeys(("equalize_prob", "autocontrast_prob", "posterize_prob", "invert_prob"), 0.2),
    **dict.fromkeys(("motion_blur_prob", "jpeg_prob"), 0.3),
)
AUGMENT = "light,auto=randaugment:2:9," + ",".join(f"{name}={value}" for name, value in STEPS.items())


def distillation():
    made = tiny_distill.config(1, checkpoint__every_steps=2)
    seen, parts = tiny_distill.VIEWS
    views = dataclasses.replace(seen, auto="randaugment:2:9", **STEPS), dataclasses.replace(parts, auto="augmix:3")
    made.data.views = tuple(ConfigDict(dataclasses.asdict(view)) for view in views)
    made.stages[0].epochs, made.stages[0].steps = None, 4
    return made


CONFIGS = {
    "classify": lambda: tiny.config(1, data__augment=AUGMENT, checkpoint__every_steps=2),
    "distill": distillation,
    "semantic": lambda: tiny_semantic.config(steps=4, data__augment=AUGMENT, checkpoint__every_steps=2),
    "segment": lambda: tiny_segment.config(0, 4, data__augment=AUGMENT, checkpoint__every_steps=2),
}

SOAKED = ("semantic", "segment")
"""Images and labels go the same way as in the others; only masks move along, see test_semantic_run.py."""


def losses(folder):
    return [line["loss"] for line in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())]


@pytest.mark.slow
@pytest.mark.parametrize("task", ["classify", "distill", *(pytest.param(n, marks=pytest.mark.soak) for n in SOAKED)])
def test_started_again_the_result_is_bit_identical(task, tmp_path, capsys):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    loop.run(CONFIGS[task](), whole, Midway(whole, {3: broken}, saved=2))
    loop.run(CONFIGS[task](), broken)
    assert "resuming after step 2" in capsys.readouterr().out
    assert load_card(whole / "best").digest == load_card(broken / "best").digest
    assert losses(whole) == losses(broken) and len(losses(whole)) >= 4


def test_what_a_policy_cannot_do_on_grey_images_is_said():
    view = get_preset("light,auto=randaugment:2:9")
    assert pixels.without_effect(view, 1) == "Color of randaugment:2:9: no effect on images of 1 channel"
    assert pixels.without_effect(view, 3) == ""


def test_a_wrong_policy_is_refused_before_the_run():
    made = tiny.config(1, data__augment="light,auto=randaugmnt:2:9")
    with pytest.raises(UserError, match="nearest: randaugment"):
        prepare(made, lambda _: None)
