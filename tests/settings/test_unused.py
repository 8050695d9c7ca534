"""What is said of settings that were given and change nothing."""

import dataclasses
from pathlib import Path

import pytest

from jaxdino.objectives.settings import OBJECTIVES
from jaxdino.objectives.stage_settings import ObjectiveSettings
from jaxdino.settings.command_line import command
from jaxdino.settings.tree import Setting
from jaxdino.settings.unused import unused

CONFIGS = Path(__file__).parents[2] / "configs"
DROP_HEAD = (
    "--config.model.drop_head=True has no effect: "
    "only objective.name=classify, depth, detect, instances, knowledge_distillation, multilabel, semantic read it"
)


def lines(file, *args):
    given = command(str(CONFIGS / file), [f"--config.{one}" for one in args])
    config = given.config()
    return unused(config, given.changed(config))


@pytest.mark.parametrize(
    ("file", "args", "line"),
    [
        (
            "full_llrd.py:resnet18",
            ["data.augment=strong"],
            "--config.data.augment=strong has no effect: --config.stages[0].augment=medium is used instead",
        ),
        (
            "progressive.py:resnet18",
            ["data.augment=none"],
            "--config.data.augment=none is not for all stages: --config.stages[1].augment=medium, "
            "--config.stages[2].augment=strong are used instead",
        ),
        (
            "linear.py",
            ["optimizer.weight_decay=0.5"],
            "--config.optimizer.weight_decay=0.5 has no effect: "
            "--config.stages[0].groups.head.weight_decay=0.0 is used instead",
        ),
        (
            "progressive.py",
            ["skip_optional", "stages[2].epochs=3"],
            "--config.stages[2].epochs=3 has no effect: the stage all is left out",
        ),
        ("linear.py", ["skip_optional"], "--config.skip_optional=True has no effect: no stage is optional"),
        (
            "gradual.py",
            ["stages[0].groups.frozen.lr=1e-3"],
            "--config.stages[0].groups.frozen.lr=0.001 has no effect: the group frozen of that stage is frozen",
        ),
        (
            "gradual.py",
            ["optimizer.momentum=0.5"],
            "--config.optimizer.momentum=0.5 has no effect: only optimizer.name=sgd reads it",
        ),
        (
            "gradual.py",
            ["stages[1].schedule.factor=0.5"],
            "--config.stages[1].schedule.factor=0.5 has no effect: only the schedule step reads it",
        ),
        (
            "linear.py",
            ["early_stopping.min_delta=0.5"],
            "--config.early_stopping.min_delta=0.5 has no effect: patience=0 ends no stage early",
        ),
        (
            "ssl_continue.py",
            ["stages[1].objective.mask_prob=0.1"],
            "--config.stages[1].objective.mask_prob=0.1 has no effect: ibot=0 masks nothing",
        ),
        (
            "ssl_continue.py",
            ["objective.gram=2.0"],
            "--config.objective.gram=2.0 has no effect: --config.stages[0].objective.gram=0.0, "
            "--config.stages[1].objective.gram=1.0 are used instead",
        ),
        (
            "ssl.py",
            ["model.drop_head"],
            DROP_HEAD,
        ),
        (
            "ssl.py",
            ["data.classes=leaf"],
            "--config.data.classes=leaf has no effect: only folders of classes have it (data.name=folder, "
            "evaluation.root)",
        ),
        (
            "segment_linear.py",
            ["model.pool=mean"],
            "--config.model.pool=mean has no effect: only objective.name=classify, knowledge_distillation, multilabel "
            "read it",
        ),
        (
            "clipdinosam.py",
            ["objective.temperature=0.1"],
            "--config.objective.temperature=0.1 has no effect: align=0 disables that loss",
        ),
        ("linear.py", ["rates=own"], "--config.rates=own has no effect: this config has one set of rates"),
    ],
)
def test_a_setting_without_effect_is_named(file, args, line):
    assert lines(file, *args) == [line]


@pytest.mark.parametrize(
    ("file", "args"),
    [
        ("gradual.py:resnet18", ["data.augment=strong", "stages[2].augment=medium", "seed=3", "data.root=x"]),
        ("linear.py", ["optimizer.momentum=0.9"]),  # as it is
        ("linear.py", ["optimizer.name=sgd", "optimizer.momentum=0.5", "early_stopping.patience=2"]),
        ("full_llrd.py:resnet18", ["stages[0].augment=None", "data.augment=strong"]),
        ("ssl.py", ["objective.method=dinov2", "objective.mask_prob=0.3", "evaluation.k=(5,)"]),
        ("clipdinosam.py", ["objective.align=1.0", "objective.temperature=0.1", "stages[1].lora.clip.rank=8"]),
        ("progressive.py", ["skip_optional"]),
        ("gradual.py", ["stages[0].steps=2", "stages[0].epochs=None"]),
        ("linear.py:resnet18", ["data.classes=leaf"]),  # the listing of the folder says it
        ("ssl.py", ["data.classes=leaf", "evaluation.root=DIR"]),
        ("ssl.py", ["evaluation.pool=mean", "alarms.stop=False", "projection.out_dim=64", "data.views[0].size=32"]),
        ("multilabel.py", ["model.pool=mean", "objective.label_smoothing=0.1"]),
        ("linear.py", ["stages[0].epochs=-1"]),  # which the run refuses
    ],
)
def test_nothing_is_said_of_what_counts(file, args):
    assert lines(file, *args) == []


def test_a_section_of_another_task_is_named():
    """Its settings stay in a config of which the objective is another."""
    given = command(str(CONFIGS / "ssl.py"), ["--config.objective.name=semantic", "--config.evaluation.pool=mean"])
    said = unused(config := given.config(), {"evaluation.pool": given.changed(config)["evaluation.pool"]})
    assert said == ["--config.evaluation.pool=mean has no effect: only objective.name=distill reads it"]


def test_a_new_task_says_what_it_reads(monkeypatch):
    """No module of the settings knows it."""

    @dataclasses.dataclass(frozen=True)
    class Counting(ObjectiveSettings):
        step: float = 1.0
        smooth: bool = True
        reads = (r"model\.pool",)
        idle = (("step", lambda s: s["smooth"], "smooth=False takes no steps"),)

    monkeypatch.setitem(OBJECTIVES, "count", Counting)

    def of(**objective):
        config = command(str(CONFIGS / "linear.py"), ["--config.model.pool=mean", "--config.model.drop_head"]).config()
        with config.unlocked():
            config.objective = dict(name="count", label_smoothing=0.0, **objective)
        names = ("model.pool", "model.drop_head", "objective.step")
        return unused(config, {name: Setting(name, object, 1.0) for name in names})

    head = DROP_HEAD
    assert of(step=2.0) == [head]
    assert of(step=2.0, smooth=False) == [
        head,
        "--config.objective.step=2.0 has no effect: smooth=False takes no steps",
    ]
