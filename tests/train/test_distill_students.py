"""Any backbone of the house is a student: ResNets with their batch norms, ConvNeXts, ViTs of every family."""

import json
from pathlib import Path

import numpy as np
import pytest
import tiny_distill

import jaxdino
from convert.store import load_model
from convert.training_checkpoint import read_training
from jaxdino.core.errors import UserError
from jaxdino.data.sources import load_source
from jaxdino.evals import report
from jaxdino.models import registry
from jaxdino.models.convnext import ConvNeXtConfig
from jaxdino.models.resnet import ResNetConfig
from jaxdino.models.spec import ModelSpec, Preprocess
from jaxdino.models.vit import ViTConfig
from jaxdino.train.loop import run
from jaxdino.train.setup import prepare

DRAWN = True

SMALL = Preprocess(size=(16, 16), crop_pct=1.0)
RESNET = ResNetConfig(bottleneck=False, depths=(1, 1), widths=(8, 12), reduction=1, stem=8)
STUDENTS = {
    "student_resnet": ModelSpec("student_resnet", "resnet", RESNET, SMALL, "mean", last_layers=1),
    "student_convnext": ModelSpec("student_convnext", "convnext", ConvNeXtConfig((1, 1), (8, 12)), SMALL, "mean"),
    "student_dino": ModelSpec(
        "student_dino", "dino", ViTConfig(4, 32, 2, 2, 64, pos_grid=(4, 4), pos_offset=0.1), SMALL
    ),
}
registry.MODELS.update(STUDENTS)
PRECISION = {"student_convnext": "float16", "student_dino": "bfloat16"}
POOLS = ("grid", "mean")


def config(name: str, **changes):
    made = tiny_distill.config(1, evaluation__every_epochs=100, **changes)
    made.model.name = made.model.configured_for = name
    made.stages[0].epochs, made.stages[0].steps = None, 3
    return made


SHAPE = '{"widths": [8, 16], "stem": 4}'


def resnet(**changes):
    """The config of a ResNet in a shape of its own, with batch norms in its head, measured by another pool."""
    return config("student_resnet", model__shape=SHAPE, projection__use_bn=True, evaluation__pool="grid", **changes)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """The folder of its run."""
    folder = tmp_path_factory.mktemp("student") / "run"
    run(resnet(), folder)
    return folder


def assert_moved(made, folder: Path) -> None:
    """Every parameter of teacher and student has changed, but for mask tokens."""
    start = prepare(made, lambda _: None).task.flat
    networks = read_training(folder / "training").networks
    for role in ("teacher", "student"):
        after = networks[role]["backbone"].flat
        assert after.keys() == {path for path in start if path.startswith("backbone.")}
        still = [path for path in after if np.array_equal(after[path], start[path])]
        assert not [path for path in still if not path.endswith("mask_token")], still


def test_a_resnet_learns(trained):
    assert_moved(resnet(), trained)


@pytest.mark.parametrize("name", ["student_convnext", "student_dino"])
def test_a_student_of_each_family_learns(name, tmp_path):
    made = config(name, precision=PRECISION[name])
    made.stages[0].steps = 8  # float16 leaves out the first few, until its scale fits
    run(made, tmp_path / "run")
    assert_moved(config(name), tmp_path / "run")


def test_batch_norms_of_teacher_and_student_move_apart(trained):
    networks = read_training(trained / "training").networks
    mean = {role: networks[role]["backbone"].flat["backbone.bn1.mean"] for role in networks}
    assert not np.allclose(mean["teacher"], mean["student"], atol=1e-6)  # the student's saw local views too
    assert "backbone.mlp.1.mean" in networks["teacher"]["dino_head"].flat
    assert np.array_equal(load_model(trained / "best")[1]["backbone.bn1.mean"], mean["teacher"])


def test_a_published_model_in_another_shape(trained):
    card, flat = load_model(trained / "best")
    assert (card.spec.name, card.spec.config.widths) == ("resnet_custom", (8, 16))
    assert flat["backbone.conv1.kernel"].shape == (7, 7, 3, 4)
    again = config("resnet_custom", model__weights=str(trained))
    assert prepare(again, lambda _: None).task.card.spec.config == card.spec.config
    again.model.shape = '{"stem": 8}'
    with pytest.raises(UserError, match="weights tell the shape"):
        prepare(again, lambda _: None)


def test_the_features_that_are_measured_are_those_asked_for(trained):
    measured = json.loads((trained / "summary.json").read_text())["evaluation"]["teacher"]["test/knn_accuracy"]
    model, source = jaxdino.load(str(trained)), load_source(dict(name="few_digits"))
    shares = {p: report.report(model, source, split="test", pool=p)["rows"][0]["knn_accuracy"][20] for p in POOLS}
    assert measured == pytest.approx(shares["grid"], abs=1e-6) and shares["grid"] != shares["mean"]


@pytest.mark.parametrize("name", STUDENTS)
def test_what_has_no_mask_token_cannot_be_masked(name, tmp_path):
    with pytest.raises(UserError, match=r"ibot=1\.0 masks patches"):
        run(config(name, objective__method="dinov2"), tmp_path / "run")
