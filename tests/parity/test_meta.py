"""Meta's layouts: found wherever the network sits in the file, RoPE's periods as the file has them."""

import pytest
import torch

from convert.load import load_pretrained
from jaxdino.core.errors import UserError
from tests.parity.cases import HEADS
from tests.parity.drawing import channels_last, draw, images
from tests.parity.ours import look as look_at_ours

PREFIXES = ["model.", "state_dict.", "teacher.", "teacher.backbone.", "module.", "backbone.", "_orig_mod."]
PREFIXES += ["model.module.", "state_dict.module.backbone.", "teacher.backbone._orig_mod."]


def nested(prefix: str, state: dict[str, torch.Tensor]) -> dict:
    """The first part of the prefix as a dictionary around the keys, the rest in front of each key."""
    outer, _, inner = prefix.partition(".")
    return {outer: {inner + key: value for key, value in state.items()}}


@pytest.mark.parametrize("prefix", PREFIXES)
def test_prefixes(loaded, prefix, tmp_path):
    it = loaded("meta dinov3")
    state = it.model.state_dict()
    flat_keys = {prefix + key: value for key, value in state.items()}
    for n, content in enumerate((nested(prefix, state) | {"epoch": 3}, flat_keys)):
        torch.save(content, tmp_path / f"{n}.pth")
        found = load_pretrained(tmp_path / f"{n}.pth")
        assert found.card.digest == it.ours.card.digest
        assert found.card.source["prefix"] == prefix


def test_teacher_is_taken_before_student(loaded, tmp_path):
    it = loaded("meta dinov2 reg")
    teacher = {f"backbone.{key}": value for key, value in it.model.state_dict().items()}
    teacher["dino_head.last_layer.weight"] = torch.zeros(8, 8)
    student = {f"module.{key}": value for key, value in draw(it.case.build(), seed=9).state_dict().items()}
    torch.save({"student": student, "teacher": teacher, "optimizer": {"lr": 1e-3}}, tmp_path / "both.pth")

    found = load_pretrained(tmp_path / "both.pth", num_heads=HEADS)
    assert found.card.digest == it.ours.card.digest
    assert any("student" in note for note in found.notes) and any("teacher" in note for note in found.notes)
    other = load_pretrained(tmp_path / "both.pth", prefix="student.module", num_heads=HEADS)
    assert other.card.digest != it.ours.card.digest
    with pytest.raises(UserError, match=r"'teacher.backbone.', 'student.module.'"):
        load_pretrained(tmp_path / "both.pth", prefix="ema")


def test_periods_are_kept_as_the_file_has_them(loaded):
    """Rounded to bfloat16 they move the outputs by far more than the tolerance: the formula would not do."""
    it = loaded("meta dinov3")
    periods = it.ours.flat["backbone.rope.periods"]
    assert (periods == it.model.rope_embed.periods.numpy()).all()
    pixels = channels_last(images(16, 16))
    exact = 100.0 ** (periods.dtype.type(4 / 16) * range(4))
    formula = look_at_ours(it.ours, pixels, it.ours.flat | {"backbone.rope.periods": exact.astype(periods.dtype)})
    assert abs(formula["patches"] - look_at_ours(it.ours, pixels)["patches"]).max() > 1e-3
