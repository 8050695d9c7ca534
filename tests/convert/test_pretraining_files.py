"""Whole files of self-supervised pre-training, with the keys that each project writes: what is taken and what is left.

Sources of the keys: facebookresearch/moco moco/builder.py; facebookresearch/moco-v3 moco/builder.py;
facebookresearch/simsiam simsiam/builder.py; facebookresearch/swav src/resnet50.py; facebookresearch/barlowtwins
main.py.
"""

import copy
import itertools

import numpy as np
import pytest
import torch
import torchvision_stub
from timm.models.vision_transformer import VisionTransformer
from torch import nn

import convert.describe
from convert.load import load_pretrained
from jaxdino.core.errors import UserError

resnet = torchvision_stub.import_torchvision().models.resnet


def mlp(*widths):
    """MoCo v3's and SimSiam's: linear layers, each with a batch norm."""
    pairs = itertools.pairwise(widths)
    return nn.Sequential(*[one for a, b in pairs for one in (nn.Linear(a, b, bias=False), nn.BatchNorm1d(b))])


def convolutional(head=None):
    model = resnet.ResNet(resnet.BasicBlock, [1, 1, 1, 1])
    model.fc = head or nn.Identity()
    return drawn(model)


def transformer(head=None):
    model = VisionTransformer(img_size=32, patch_size=8, embed_dim=64, depth=1, num_heads=1, num_classes=0)
    model.head = head or nn.Identity()
    return drawn(model)


def drawn(model):
    """Draw every parameter: two calls never give equal networks."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.2)
    return model


def named(**modules):
    """The state dict of modules under their names, "__" for a dot, inside DDP."""
    return {
        f"module.{name.replace('__', '.')}.{key}": value
        for name, module in modules.items()
        for key, value in module.state_dict().items()
    }


def moco(network, mlp_head):
    head = nn.Sequential(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 8)) if mlp_head else nn.Linear(512, 8)
    keys = named(encoder_q=network(copy.deepcopy(head)), encoder_k=network(copy.deepcopy(head)))
    keys |= {"module.queue": torch.randn(8, 16), "module.queue_ptr": torch.zeros(1, dtype=torch.long)}
    return {"epoch": 200, "arch": "resnet50", "state_dict": keys, "optimizer": {}}


def moco_v3(network, width, arch):
    encoders = dict(base_encoder=network(mlp(width, 32, 8)), momentum_encoder=network(mlp(width, 32, 8)))
    return {"epoch": 300, "arch": arch, "state_dict": named(**encoders, predictor=mlp(8, 32, 8)), "optimizer": {}}


def simsiam():
    keys = named(encoder=convolutional(mlp(512, 32, 8)), predictor=mlp(8, 32, 8))
    return {"epoch": 100, "arch": "resnet50", "state_dict": keys}


def swav():
    network = convolutional()
    network.projection_head = nn.Sequential(nn.Linear(512, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 8))
    network.prototypes = nn.Linear(8, 30, bias=False)
    return {f"module.{key}": value for key, value in network.state_dict().items()}


def barlow_twins():
    keys = named(backbone=convolutional(), projector=mlp(512, 32, 8), bn=nn.BatchNorm1d(8, affine=False))
    return {"epoch": 1000, "model": keys, "optimizer": {}}


MANY = "a head of several layers"
QUERY = "encoder_q' (left: 'state_dict.module.encoder_k'); --prefix overrules"
BASE = "base_encoder' (left: 'state_dict.module.momentum_encoder'); --prefix overrules"
FILES = {
    "moco v1": (
        lambda: moco(convolutional, False),
        "encoder_q.",
        [QUERY, "encoder_q.fc.weight: the projection of MoCo"],
    ),
    "moco v2": (lambda: moco(convolutional, True), "encoder_q.", [QUERY, f"fc.2.bias: {MANY}", "module.queue'"]),
    "moco v3": (
        lambda: moco_v3(transformer, 64, "vit_small"),
        "base_encoder.",
        [BASE, f"head.0.weight to head.3.num_batches_tracked: {MANY}", "module.predictor'"],
    ),
    "moco v3 resnet": (lambda: moco_v3(convolutional, 512, "resnet50"), "base_encoder.", [BASE, f"racked: {MANY}"]),
    "simsiam": (simsiam, "encoder.", [f"racked: {MANY}", "module.predictor'"]),
    "swav": (swav, "module.", [f"projection_head.3.bias: {MANY}", "prototypes.weight: SwAV's"]),
    "barlow twins": (barlow_twins, "backbone.", ["model.module.projector'", "model.module.bn'"]),
}


@pytest.mark.parametrize("name", FILES)
def test_a_whole_file_loads_without_its_heads(name, tmp_path):
    make, prefix, said = FILES[name]
    torch.manual_seed(0)
    content = make()
    torch.save(content, tmp_path / "checkpoint.pth.tar")
    found = load_pretrained(tmp_path / "checkpoint.pth.tar")
    assert found.card.num_classes == 0 and found.card.source["prefix"].endswith(prefix)
    for text in said:
        assert any(text in note for note in found.notes), (text, found.notes)
    keys = content.get("state_dict") or content.get("model") or content
    inner = found.card.source["prefix"].removeprefix("state_dict.").removeprefix("model.")
    stem = "patch_embed.proj" if "patch_embed" in str(list(keys)) else "conv1"
    kernel = found.flat[found.card.spec.config.input_kernel]
    assert np.array_equal(kernel, keys[f"{inner}{stem}.weight"].numpy().transpose(2, 3, 1, 0))


def test_ibots_student_loads_with_its_mask_token(tmp_path):
    student = named(backbone=transformer()) | {"module.backbone.masked_embed": torch.zeros(1, 64)}
    teacher = {key.removeprefix("module."): value for key, value in named(backbone=transformer()).items()}
    torch.save({"student": student, "teacher": teacher, "epoch": 1}, tmp_path / "c.pth")
    assert load_pretrained(tmp_path / "c.pth").card.source["prefix"] == "teacher.backbone."
    notes = load_pretrained(tmp_path / "c.pth", prefix="student.module.backbone").notes
    assert any("masked_embed: the token of masked pre-training" in note for note in notes)


class Twice(nn.Module):
    """One network under two names, as a wrapper of Lightning's may hold it."""

    def __init__(self, second=None):
        super().__init__()
        self.model = transformer()
        self.backbone = self.model if second is None else second


def test_one_network_under_two_names_is_no_decision(tmp_path):
    wrapper = Twice()
    torch.save(wrapper.state_dict(), tmp_path / "shared.pth")
    torch.save({key: value.clone() for key, value in wrapper.state_dict().items()}, tmp_path / "copied.pth")
    for file in ("shared.pth", "copied.pth"):
        found = load_pretrained(tmp_path / file)
        line = "the file holds the same network twice: 'backbone' was taken, 'model' has equal tensors"
        assert line in found.notes and found.card.source["prefix"] == "backbone."


def test_the_one_with_a_head_is_taken(tmp_path):
    wrapper = Twice(transformer())
    wrapper.backbone.load_state_dict(wrapper.model.state_dict())
    wrapper.model.head = nn.Linear(64, 5)
    torch.save(wrapper.state_dict(), tmp_path / "w.pth")
    found = load_pretrained(tmp_path / "w.pth")
    assert found.card.source["prefix"] == "model." and found.card.num_classes == 5


def test_networks_that_differ_in_one_number_are_refused(tmp_path):
    wrapper = Twice(transformer())
    wrapper.backbone.load_state_dict(wrapper.model.state_dict())
    with torch.no_grad():
        wrapper.backbone.norm.bias[3] += 1e-3
    torch.save(wrapper.state_dict(), tmp_path / "w.pth")
    with pytest.raises(UserError, match="no name says which is wanted: give one of 'backbone', 'model' with --prefix"):
        load_pretrained(tmp_path / "w.pth")


def test_equal_networks_are_compared_only_where_no_name_decides(tmp_path, monkeypatch):
    monkeypatch.setattr(convert.describe, "_one_network", None)
    torch.save({"teacher": transformer().state_dict(), "student": transformer().state_dict()}, tmp_path / "t.pth")
    assert load_pretrained(tmp_path / "t.pth").card.source["prefix"] == "teacher."
