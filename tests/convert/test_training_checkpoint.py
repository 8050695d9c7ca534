"""Training checkpoints: every network, head and centre in, and the same bits out under the same keys."""

import argparse

import numpy as np
import pytest
import torch

from convert.__main__ import main
from convert.load import load_pretrained
from convert.training_checkpoint import main_export, main_import, read_training, save_training, write_training
from jaxdino.core.errors import UserError
from tests.parity.drawing import draw
from tests.parity.head_cases import PARAMETRIZED, Head, weight_norm
from tests.parity.meta_modules import MetaViT

HEADS = 4


class TinyHead(Head):
    """A head for the tiny backbone's features."""

    def __init__(self, *how):
        super().__init__(*how)
        first = self.mlp[0]
        self.mlp[0] = torch.nn.Linear(64, first.out_features)


def network(seed: int, names: tuple[str, ...], batch_norm=False, spelling=weight_norm, **backbone) -> dict:
    """The state dict of a backbone with heads of these names."""
    parts = {"backbone": MetaViT(**backbone)} | {name: TinyHead(3, batch_norm, True, spelling) for name in names}
    return {
        f"{name}.{key}": tensor
        for n, (name, module) in enumerate(parts.items())
        for key, tensor in draw(module, seed=seed + n).state_dict().items()
    }


def wrapped(prefix: str, state: dict) -> dict:
    return {prefix + key: tensor for key, tensor in state.items()}


@pytest.fixture
def dino(tmp_path):
    """(path, content) of a full checkpoint as DINO's main_dino.py writes it, half of it in half precision."""

    def make(batch_norm=False, spelling=weight_norm):
        plain = dict(scaled=False, masked=False)
        teacher, student = (network(seed, ("head",), batch_norm, spelling, **plain) for seed in (0, 10))
        content = {
            "student": wrapped("module.", student),
            "teacher": wrapped("module." if batch_norm else "", teacher),
            "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 0.1}]},
            "epoch": 100,
            "args": argparse.Namespace(arch="vit_small", norm_last_layer=True, lr=0.0005),
            "dino_loss": {"center": torch.randn(1, 50)},
        }
        torch.save(content, tmp_path / "full.pth")
        return tmp_path / "full.pth", content

    return make


def assert_same_bits(found: dict, content: dict, groups: tuple[str, ...]) -> None:
    assert set(found) - {"epoch"} == set(groups)
    for group in groups:
        assert set(found[group]) == set(content[group])
        for key, tensor in content[group].items():
            assert found[group][key].dtype == tensor.dtype and found[group][key].equal(tensor), key


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("spelling", [weight_norm, PARAMETRIZED])
def test_dino_round_trip(tmp_path, dino, batch_norm, spelling):
    path, content = dino(batch_norm, spelling)
    lines = main_import(path, tmp_path / "ours", num_heads=HEADS)
    assert lines[1].startswith("teacher/dino_head: dino_head") and lines[-1] == "centre of dino_head: (1, 50)"
    notes = main_export(tmp_path / "ours", tmp_path / "theirs")
    assert notes == [f"wrote checkpoint.pth into {tmp_path / 'theirs'}"]
    found = torch.load(tmp_path / "theirs" / "checkpoint.pth", weights_only=True)
    assert_same_bits(found, content, ("student", "teacher", "dino_loss"))
    assert found["epoch"] == 100

    read = read_training(tmp_path / "ours")
    assert read.extras["args.arch"] == "vit_small" and not any("optimizer" in key for key in read.extras)
    assert write_training(tmp_path / "checkpoint.pth", read) == []
    assert (tmp_path / "checkpoint.pth").read_bytes() == (tmp_path / "theirs" / "checkpoint.pth").read_bytes()
    direct = read_training(path, num_heads=HEADS)
    for role in ("teacher", "student"):
        for name, part in direct.networks[role].items():
            assert part.card.digest == read.networks[role][name].card.digest


def test_parts_are_models_of_their_own(tmp_path, dino):
    path, _ = dino()
    teacher = load_pretrained(path, num_heads=HEADS)
    assert teacher.card.spec.family == "dino" and teacher.card.source["prefix"] == "teacher.backbone."
    assert any("left aside" in note and "teacher" in note for note in teacher.notes)
    head = load_pretrained(path, model="dino_head")
    assert head.card.source["prefix"] == "teacher.head."
    assert head.card.spec.config.norm_last_layer
    assert head.card.spec.skeleton().entries["backbone.last_layer.g"].kind == "buffer"
    student = load_pretrained(path, prefix="student.module.head")
    assert student.card.digest != head.card.digest

    main_import(path, tmp_path / "ours", num_heads=HEADS)
    assert load_pretrained(tmp_path / "ours").card.digest == teacher.card.digest
    assert load_pretrained(tmp_path / "ours" / "student" / "dino_head").card.digest == student.card.digest


def test_dinov2_teacher_round_trip(tmp_path):
    content = {"teacher": network(0, ("dino_head", "ibot_head"))}
    torch.save(content, tmp_path / "teacher_checkpoint.pth")
    main_import(tmp_path / "teacher_checkpoint.pth", tmp_path / "ours", num_heads=HEADS)
    main_export(tmp_path / "ours", tmp_path / "theirs", layout="dinov2")
    found = torch.load(tmp_path / "theirs" / "teacher_checkpoint.pth", weights_only=True)
    assert_same_bits(found, content, ("teacher",))


def test_dinov3_gathered_checkpoint(tmp_path):
    rope = dict(rope=True, registers=4, tokens_name="storage_tokens", mask_k_bias=True)
    names = ("dino_head", "ibot_head")
    teacher, student = (network(seed, names, spelling=lambda layer: layer, **rope) for seed in (0, 10))
    model = wrapped("student.", student) | wrapped("teacher.", teacher) | wrapped("model_ema.", teacher)
    model |= {"dino_loss.center": torch.randn(1, 50), "ibot_patch_loss.center": torch.randn(1, 1, 50)}
    torch.save({"model": model, "iteration": 7}, tmp_path / "gathered.pth")

    assert load_pretrained(tmp_path / "gathered.pth").card.source["prefix"] == "model.teacher.backbone."
    read = read_training(tmp_path / "gathered.pth")
    assert {role: set(parts) for role, parts in read.networks.items()} == {
        "teacher": {"backbone", *names},
        "student": {"backbone", *names},
    }
    assert np.array_equal(read.centres["ibot_head"], model["ibot_patch_loss.center"].numpy())
    assert read.extras == {"iteration": 7}
    notes = write_training(tmp_path / "teacher.pth", read, "dinov2")
    assert "the dinov2 layout has no place for the student's ibot_head: left out" in notes
    found = torch.load(tmp_path / "teacher.pth", weights_only=True)
    assert_same_bits(found, {"teacher": teacher}, ("teacher",))


def test_refusals(tmp_path, dino):
    path, _ = dino()
    with pytest.raises(UserError, match="no layout 'timm' of training checkpoints; nearest: "):
        write_training(tmp_path / "x.pth", read_training(path, num_heads=HEADS), "timm")
    torch.save(MetaViT().state_dict(), tmp_path / "bare.pth")
    with pytest.raises(UserError, match="no teacher or student with a backbone"):
        read_training(tmp_path / "bare.pth")
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "__0_0.distcp").write_bytes(b"")
    with pytest.raises(UserError, match=r"sharded training checkpoint.* dcp_to_torch"):
        read_training(tmp_path / "shards")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"holds notes\.txt"):
        save_training(tmp_path / "full", read_training(path, num_heads=HEADS), overwrite=True)
    assert (tmp_path / "full" / "notes.txt").read_text() == "mine"


def test_command_line(tmp_path, dino, capsys):
    path, state = dino()
    whole, again = str(tmp_path / "whole"), tmp_path / "again"
    assert main(["import", str(path), "--whole", "--num_heads", str(HEADS), "--out", whole]) == 0
    assert "teacher/dino_head" in capsys.readouterr().out
    assert main(["export", whole, "--out", str(again)]) == 0
    written = torch.load(again / "checkpoint.pth")
    assert all(torch.equal(written["teacher"][key], value) for key, value in state["teacher"].items())
    assert main(["export", whole, "--format", "timm", "--out", str(tmp_path / "timm")]) == 0  # the teacher's backbone
    assert (tmp_path / "timm" / "model.safetensors").is_file()
    assert main(["import", str(path), "--whole", "--in_channels", "4", "--out", str(tmp_path / "no")]) == 2
    assert "remove --in_channels" in capsys.readouterr().err and not (tmp_path / "no").exists()
