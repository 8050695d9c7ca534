"""Without a model's name the weights say what the model is, and which learning rates suit it."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from flax import nnx
from timm.models.vision_transformer import VisionTransformer

from convert.export import export
from convert.store import Card, save_model
from jaxdino.core.errors import UserError
from jaxdino.core.params import split
from jaxdino.settings.command_line import command
from jaxdino.train.origin import settle
from jaxdino.train.recorded import plain
from jaxdino.train.weights import backbone
from jaxdino.train.workdir import write_json

CONFIGS = Path(__file__).parents[2] / "configs"
BACKBONES = ("stages[1].groups.backbone.lr", "stages[2].groups.backbone.lr")


def saved(folder, name="dinov3_custom", **card):
    """A model of ours in a run's best/."""
    spec = dataclasses.replace(tiny.SPEC, name=name)
    flat = {path: np.asarray(leaf) for path, leaf in split(spec.build(0, rngs=nnx.Rngs(0)))[1].items()}
    save_model(folder / "best", Card(spec, source={"path": "random"}, **card), flat)
    return folder


def settled(*args, file="gradual.py", workdir=None):
    """(config, lines) of a command."""
    lines = []
    return settle(command(str(CONFIGS / file), [f"--config.{one}" for one in args]), workdir, lines.append), lines


def rates(config):
    return [config.stages[index].groups.backbone.lr for index in (1, 2)]


def test_the_weights_of_a_run_name_the_model_and_its_rates(tmp_path):
    run = saved(tmp_path / "ssl")
    config, lines = settled(f"model.weights={run}", "data.root=photos")
    assert (config.model.name, config.model.configured_for, config.data.name) == (*["dinov3_custom"] * 2, "folder")
    assert rates(config) == [1e-3, 1e-3] and config.rates == "own" and config.data.root == "photos"
    assert lines == [
        f"model: dinov3_custom, as {run} says",
        f"rates: own, since {run} was trained from random weights: backbone 0.001; "
        "--config.rates=public takes 0.0001, 1e-05",
    ]


@pytest.mark.parametrize("file", ["linear.py", "full_llrd.py", "progressive.py", "ssl_continue.py", "ssl_small.py"])
def test_every_config_takes_the_model_from_its_weights(tmp_path, file):
    config, _ = settled(f"model.weights={saved(tmp_path / 'ssl')}", file=file)
    assert config.model.name == config.model.configured_for == "dinov3_custom" and config.model.shape is None
    assert config.data.name != "digits"


def test_settings_are_checked_in_the_config_of_the_model_that_the_weights_are(tmp_path):
    run = saved(tmp_path / "ssl")
    config, _ = settled(f"model.weights={run}", "data.views[2].count=6", file="ssl_continue.py")
    assert config.data.views[2].count == 6
    with pytest.raises(UserError, match=r"nearest: --config\.data\.root=x"):
        settled(f"model.weights={run}", "data.rooot=x")


def test_a_rate_that_was_given_stays(tmp_path):
    run = saved(tmp_path / "ssl")
    config, _ = settled(f"model.weights={run}", f"{BACKBONES[0]}=2e-4")
    assert rates(config) == [2e-4, 1e-3]
    config, lines = settled(f"model.weights={run}", "rates=public")
    assert rates(config) == [1e-4, 1e-5] and len(lines) == 1
    config, lines = settled(f"model.weights={run}", "own_rates.backbone=5e-4")
    assert rates(config) == [5e-4, 5e-4] and "backbone 0.0005;" in lines[1]


@pytest.mark.parametrize(
    ("name", "card", "args", "chosen", "why"),
    [
        ("dinov3_custom", dict(layout="timm"), (), "own", "does not have the shape of any published model"),
        ("tiny", dict(layout="hf"), (), "public", "has the shape of the published tiny"),
        (None, {}, ("model.weights=dinov3_vits16",), "public", "published weights dinov3_vits16"),
        (None, {}, ("model.weights=facebook/dinov3-vits16-pretrain-lvd1689m",), "public", "published weights facebook"),
    ],
)
def test_where_rates_come_from(tmp_path, name, card, args, chosen, why):
    args = args or (f"model.weights={saved(tmp_path / 'w', name, **card)}",)
    config, lines = settled(*args)
    assert config.rates == chosen and why in lines[-1]
    assert config.model.name == (name or "dinov3_vits16")


def test_the_embedded_example_and_random_weights():
    config, lines = settled()
    assert lines == [] and config.model.name == "dinov3_digits" and rates(config) == [5e-4, 5e-4]
    config, lines = settled("model.weights=random", file="gradual.py:resnet18")
    assert rates(config) == [1e-3, 1e-3] and "for random weights" in lines[0]
    config, lines = settled(file="gradual.py:resnet18")
    assert rates(config) == [1e-4, 1e-5] and "--config.rates=own takes 0.001" in lines[0]
    with pytest.raises(UserError, match="rates='mine' is not known; nearest: "):
        settled("rates=mine")


def test_a_resumed_run_keeps_what_it_began_with(tmp_path):
    run = saved(tmp_path / "ssl")
    first, _ = settled(f"model.weights={run}")
    (tmp_path / "run").mkdir()
    write_json(tmp_path / "run" / "config.json", plain(first))
    run.rename(tmp_path / "gone")
    again, lines = settled(f"model.weights={run}", workdir=tmp_path / "run")
    assert plain(again) == plain(first) and "as when the run began" in lines[1]
    with pytest.raises(UserError):
        settled(f"model.weights={run}", workdir=tmp_path / "other")


@pytest.mark.parametrize(
    ("file", "args", "words"),
    [
        ("gradual.py:dinov3_vits16", ["model.weights=nothere.pth"], "nothere.pth: not found"),
        ("gradual.py:dinov3_vits16", ["model.weights=no/folder/w.pth", "rates=own"], "folder no/folder does not exist"),
        ("gradual.py:dinov3_vits17", ["model.weights=random"], "there is no model 'dinov3_vits17'"),
    ],
)
def test_what_is_not_there_is_refused_before_anything_is_said_of_it(file, args, words):
    lines, (name, _, model) = [], file.partition(":")
    given = command(f"{CONFIGS / name}:{model}", [f"--config.{one}" for one in args])
    with pytest.raises(UserError, match=words):
        settle(given, None, lines.append)
    assert lines == []


def test_weights_in_the_home_folder_are_looked_at(tmp_path, monkeypatch):
    """`~` reaches Python where it follows an equals sign; the rates are those of one's own weights all the same."""
    monkeypatch.setenv("HOME", str(tmp_path))
    saved(tmp_path / "ssl")
    assert settled("model.weights=~/ssl")[0].rates == "own"
    assert settled("model.weights=~/ssl", file="gradual.py:dinov3_custom")[0].rates == "own"


def test_assumptions_in_the_words_of_a_run(tmp_path):
    """MoCo v3's ViT-S has the shapes of DINO's: the heads are said where the weights give the name."""
    torch.save(VisionTransformer(embed_dim=384, num_heads=12, num_classes=0).state_dict(), tmp_path / "w.pth")
    line = "assumed: 6 attention heads (width 384 / 64); --config.model.num_heads overrules"
    config, said = settled(f"model.weights={tmp_path / 'w.pth'}", "data.root=photos")
    assert config.model.name == "dino_vits16" and line in said
    config, said = settled(f"model.weights={tmp_path / 'w.pth'}", "data.root=photos", "model.num_heads=12")
    assert config.model.name == "dino_custom" and line not in said


def test_a_run_takes_the_grid_of_a_position_table(tmp_path):
    wide = VisionTransformer(img_size=(32, 128), embed_dim=64, depth=1, num_heads=1, num_classes=0)
    torch.save(wide.state_dict(), tmp_path / "w.pth")
    given = [f"model.weights={tmp_path / 'w.pth'}", "model.num_heads=1", "data.root=photos"]
    for more, grid in (("seed=0", (4, 4)), ("model.pos_grid=2,8", (2, 8))):
        config, said = settled(*given, more)[0], []
        card, _ = backbone(config, said.append)
        assert card.spec.config.pos_grid == grid
        assert any("4 x 4" in line and "; --config.model.pos_grid overrules" in line for line in said) == (
            grid == (4, 4)
        )


def test_own_weights_of_a_published_shape_stay_own_through_an_export(tmp_path):
    """The shape of an export is that of published weights; its notes say that nobody published these."""
    made = saved(tmp_path / "ssl", "tiny")
    for index, layout in enumerate(("timm", "hf", "meta")):
        export(made, tmp_path / str(index), layout=layout)
        made = tmp_path / str(index)
        config, lines = settled(f"model.weights={made}")
        assert config.rates == "own" and f"since {made} was trained from random weights" in lines[-1]
    export(saved(tmp_path / "hf", "tiny", layout="hf"), tmp_path / "public", layout="timm")
    assert settled(f"model.weights={tmp_path / 'public'}")[0].rates == "public"
