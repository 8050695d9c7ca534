"""`torch.save(model.state_dict())` of transformers' classes holds the same weights as `save_pretrained`."""

import json

import numpy as np
import pytest
import torch
import transformers as hf
from safetensors import safe_open

import jaxdino
from convert.export import export
from convert.family import Spelling
from convert.load import load_pretrained
from convert.spellings import published
from tests.parity.all_cases import FAMILY_CASES

VIT = [name for name in FAMILY_CASES if name.startswith("hf ")]
OTHERS = [
    name for name, case in FAMILY_CASES.items() if case.layout == "hf" and name not in VIT and "before 5" not in name
]
PREFIXES = (
    "model.",
    "module.",
    "_orig_mod.",
    "module._orig_mod.",
    "state_dict.model.",
    "model.module.",
    "model.model.",
)


def saved(loaded, name: str, folder, prefix: str = "", config: bool = True):
    """The folder of a bare state dict, with config.json beside it where no shape tells all."""
    case = loaded(name)
    folder.mkdir()
    torch.save({prefix + key: value for key, value in case.model.state_dict().items()}, folder / "pytorch_model.bin")
    if config:
        (folder / "config.json").write_text((case.path / "config.json").read_text())
    return folder


@pytest.mark.parametrize("name", [*VIT, *OTHERS])
def test_a_state_dict_in_memory_is_the_saved_model(loaded, tmp_path, name):
    case = loaded(name)
    found = load_pretrained(saved(loaded, name, tmp_path / "memory"))
    assert found.card.digest == case.ours.card.digest
    assert found.card.spec.config == case.ours.card.spec.config or "sam" in name  # whose matrix has one name or two
    assert found.card.num_classes == case.ours.card.num_classes
    with safe_open(case.path / "model.safetensors", "pt") as file:  # transformers 5.15 keeps DINOv2's names in memory
        renamed = set(file.keys()) != set(case.model.state_dict())
    renamed &= case.family.family in ("dino", "vit", "dinov2", "dinov3", "convnext")
    assert any("transformers 5 in memory" in note for note in found.notes) == renamed
    export(tmp_path / "memory", tmp_path / "out")
    auto = getattr(hf, json.loads((case.path / "config.json").read_text())["architectures"][0])
    model, info = auto.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(info[what] for what in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    for key, value in model.state_dict().items():
        assert torch.equal(value, case.model.state_dict()[key]), key


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("name", ["hf vit head", "hf dinov2 reg head", "hf dinov2 swiglu", "hf dinov3", "convnext hf"])
def test_under_the_usual_prefixes(loaded, tmp_path, name, prefix):
    case = loaded(name)
    overrules = {} if name == "convnext hf" else {"num_heads": case.ours.card.spec.config.num_heads}
    found = load_pretrained(saved(loaded, name, tmp_path / "memory", prefix, config=False), **overrules)
    assert found.card.digest == case.ours.card.digest
    assert found.card.num_classes == case.ours.card.num_classes


def test_wrappers_of_single_blocks(loaded, tmp_path):
    model = loaded("hf vit head").model
    state = {key.replace("layers.1.", "layers.1._orig_mod."): value for key, value in model.state_dict().items()}
    torch.save(state, tmp_path / "compiled.pth")
    found = load_pretrained(tmp_path / "compiled.pth", num_heads=loaded("hf vit head").ours.card.spec.config.num_heads)
    assert found.card.digest == loaded("hf vit head").ours.card.digest


def test_two_names_of_one_tensor_are_refused(loaded, tmp_path):
    state = dict(loaded("hf dinov3").model.state_dict())
    torch.save(state | {"layer.0.norm1.weight": state["model.layer.0.norm1.weight"]}, tmp_path / "both.pth")
    with pytest.raises(jaxdino.UserError, match="two names of one tensor"):
        load_pretrained(tmp_path / "both.pth")


def test_parts_that_do_not_fit_are_named():
    class Part:
        def __init__(self, *shape):
            self.shape, self.dtype = shape, np.dtype("float32")

    spelling = Spelling("a library", ("gate.weight",), ((("gate", "up"), "both"),))
    found, said = published({"gate.weight": Part(2, 3), "up.weight": Part(2, 4)}, [spelling])
    assert list(found) == ["both.weight"] and "a library" in said[0]
    with pytest.raises(jaxdino.UserError, match=r"parts of both\.weight differ in shape: \(3,\), \(4,\)"):
        found["both.weight"].shape  # noqa: B018
