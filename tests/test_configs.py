"""The shipped configs: what each trains, and that flags reach into their stages."""

import dataclasses
import importlib
import json
from pathlib import Path

import pytest
from PIL import Image

from configs import common
from jaxdino.models import registry
from jaxdino.models.published.resnet import SPECS
from jaxdino.settings.check import check
from jaxdino.settings.command_line import command
from jaxdino.strategy import resolve, stages
from jaxdino.train.setup import prepare
from tests.test_strategy import fake_resnet, fake_vit, labels

SMALL = dict(depths=(1, 1, 1), widths=(64, 128, 256), stem=32)
NAMES = ("linear", "gradual", "full_llrd", "progressive", "lora")


def load(name, model=None):
    return importlib.import_module(f"configs.{name}").get_config(model)


def table(name, fake, model="dinov3_vits16"):
    """[{group: its layers}] over the stages of a config."""
    found = []
    for stage in stages(load(name, model)):
        groups = {}
        for layer, group in labels(resolve(*fake, stage)).items():
            groups.setdefault(group, []).append(layer)
        found.append({group: " ".join(layers) for group, layers in groups.items()})
    return found


VIT = "embed blocks.0 blocks.1 blocks.2 blocks.3 blocks.4 blocks.5"
RESNET = "stem layer1 layer2 layer3 layer4"


def test_tables_of_a_vit():
    head = {"frozen": f"{VIT} norm", "head": "head"}
    full = {"backbone": f"{VIT} norm", "head": "head"}
    last2 = {"frozen": VIT[:-18], "backbone": "blocks.4 blocks.5 norm", "head": "head"}
    last4 = {"frozen": VIT[:-36], "backbone": "blocks.2 blocks.3 blocks.4 blocks.5 norm", "head": "head"}
    assert table("linear", fake_vit()) == [head]
    assert table("gradual", fake_vit()) == [head, last2, full]
    assert table("full_llrd", fake_vit()) == [full]
    assert table("progressive", fake_vit()) == [head, last4, full]


def test_tables_of_a_resnet():
    head, full = {"frozen": RESNET, "head": "head"}, {"backbone": RESNET, "head": "head"}
    layer4 = {"frozen": RESNET[:-7], "backbone": "layer4", "head": "head"}
    last4 = {"frozen": "stem", "backbone": RESNET[5:], "head": "head"}
    assert table("linear", fake_resnet()) == [head]
    assert table("gradual", fake_resnet()) == [head, layer4, full]
    assert table("full_llrd", fake_resnet()) == [full]
    assert table("progressive", fake_resnet()) == [head, last4, full]


def test_numbers_promised_for_published_models():
    (linear,) = stages(load("linear", "dinov3_vits16"))
    assert linear.epochs <= 10
    gradual = stages(load("gradual", "dinov3_vits16"))
    assert all(stage.plateaus and stage.patience == 3 for stage in gradual)
    (full,) = stages(load("full_llrd", "dinov3_vits16"))
    backbone, head = full.groups["backbone"], full.groups["head"]
    assert (backbone.lr, backbone.layer_decay, head.lr) == (1e-5, 0.9, 1e-3)
    first, last4, everything = stages(load("progressive", "dinov3_vits16"))
    assert 10 <= first.epochs <= 20 <= last4.epochs <= 30 and 10 <= everything.epochs <= 20
    assert (last4.augment, everything.augment, everything.optional) == ("medium", "strong", True)


@pytest.mark.parametrize("name", NAMES)
def test_default_is_the_embedded_model_on_the_digits(name):
    config = load(name)
    assert (config.model.name, config.data.name) == (common.DIGITS_MODEL, "digits")
    assert load(name, "dinov3_vits16").data.name == "folder"
    assert stages(config)
    assert json.loads(config.to_json())["stages"][0]["name"] == config.stages[0].name


@pytest.mark.parametrize(
    ("name", "monitor", "expected"),
    [
        ("linear", None, "val/accuracy"),
        ("linear", "", ""),
        ("segment_linear", None, "val/miou"),
        ("clipdinosam", None, "val/miou"),
        ("ssl", None, "val/knn_accuracy"),
        ("ssl", "as written", ""),
    ],
)
def test_the_default_monitor_is_the_first_metric_of_the_task(name, monitor, expected):
    config = load(name)
    if monitor != "as written":
        config.early_stopping.monitor = monitor
    assert prepare(config, lambda _: None).parts[-1].stage.monitor == expected


@pytest.mark.parametrize("name", ["ssl", "ssl_continue", "ssl_lora"])
def test_self_distillation_without_an_argument_is_on_the_digits(name):
    job = prepare(load(name), lambda _: None)
    assert job.task.card.spec.name == common.DIGITS_MODEL and job.task.source.name == "digits"


def test_self_distillation_of_few_photos(tmp_path):
    """A small ResNet on a folder of images; a model that is named has its own shape."""
    for name in "abcd":
        Image.new("RGB", (70, 70)).save(tmp_path / f"{name}.png")
    config = load("ssl_small")
    config.data.update(root=str(tmp_path), batch_size=4)
    task = prepare(config, lambda _: None).task
    assert task.card.spec.config == dataclasses.replace(SPECS[0].config, **SMALL) and task.retrieval is None
    assert load("ssl_small", "resnet50").model.shape is None


@pytest.mark.parametrize("name", ["gpu_16gb", "notebook", "laptop", "ssl_imagenette", "ssl_imagenet100"])
def test_configs_for_small_machines(name):
    """A published model on a folder; another model after the colon; what the objective reads fits."""
    config = load(f"small.{name}")
    assert config.data.name == "folder" and config.model.name in registry.MODELS
    assert load(f"small.{name}", "dinov3_vits16").model.name == "dinov3_vits16"
    check(config)
    assert stages(config)
    assert config.time_limit == ("8h30m" if name == "notebook" else None)


def from_flags(file, *args):
    """The config that a command line gives."""
    return command(str(Path(common.__file__).parent / file), args).config()


def test_flags_reach_into_stages():
    config = from_flags(
        "gradual.py:dinov3_vits16",
        "--config.stages[0].epochs=3",
        "--config.stages[0].clip_norm=0.5",
        "--config.stages[1].groups.backbone.lr=2e-4",
        "--config.stages[1].schedule.name=step",
        "--config.stages[2].rules=(('@all','backbone'),('@head','head'))",
        "--config.optimizer.weight_decay=0.2",
        "--config.data.root=somewhere",
        "--config.early_stopping.patience=5",
    )
    first, second, third = stages(config)
    assert config.model.name == "dinov3_vits16" and config.data.root == "somewhere"
    assert (first.epochs, first.clip_norm, first.patience, second.clip_norm) == (3, 0.5, 5, 1.0)
    assert second.groups["backbone"].lr == 2e-4 and second.schedule.name == "step"
    assert second.groups["backbone"].weight_decay == 0.2
    assert third.rules[0] == ("@all", "backbone")


def test_skip_optional_by_flag():
    config = from_flags("progressive.py", "--config.skip_optional")
    assert [stage.name for stage in stages(config)] == ["head", "last4"]
