"""Names, sizes and layers of the published ViTs, and what holds for every model."""

import pytest

from jaxdino.core.errors import UserError
from jaxdino.models.heads.linear import POOLS
from jaxdino.models.published.vit import SPECS
from jaxdino.models.registry import MODELS, get

PUBLISHED = {  # millions of parameters, as the authors' tables round them
    # facebookresearch/dino README.md
    "dino_vits16": 21,
    "dino_vits8": 21,
    "dino_vitb16": 85,
    "dino_vitb8": 85,
    # facebookresearch/dinov2 README.md
    "dinov2_vits14": 21,
    "dinov2_vitb14": 86,
    "dinov2_vitl14": 300,
    "dinov2_vitg14": 1100,
    "dinov2_vits14_reg": 21,
    "dinov2_vitb14_reg": 86,
    "dinov2_vitl14_reg": 300,
    "dinov2_vitg14_reg": 1100,
    # facebookresearch/dinov3 README.md
    "dinov3_vits16": 21,
    "dinov3_vits16plus": 29,
    "dinov3_vitb16": 86,
    "dinov3_vitl16": 300,
    "dinov3_vith16plus": 840,
    "dinov3_vit7b16": 6716,
    "dinov3_vitl16_sat": 300,
    "dinov3_vit7b16_sat": 6716,
}
EXACT = {  # with 1000 classes; huggingface/pytorch-image-models results/results-imagenet.csv, to 0.01 million
    "vit_tiny_patch16_224": 5.72,
    "vit_small_patch16_224": 22.05,
    "vit_small_patch32_224": 22.88,
    "vit_base_patch8_224": 86.58,
    "vit_base_patch16_224": 86.57,
    "vit_base_patch32_224": 88.22,
    "vit_large_patch16_224": 304.33,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameter_count(name):
    millions = get(name).skeleton().num_params / 1e6
    assert abs(millions - PUBLISHED[name]) <= max(1.1, 0.035 * PUBLISHED[name])


@pytest.mark.parametrize("name", EXACT)
def test_parameter_count_with_a_head(name):
    assert abs(get(name).skeleton(1000).num_params / 1e6 - EXACT[name]) < 0.0051


def test_every_published_name_is_counted():
    assert {spec.name for spec in SPECS if spec.hub} == {*PUBLISHED, *EXACT}


SHORT = ["dino_vits8", "dinov2_vits14_reg", "dinov3_vits16", "dinov3_vitl16_sat", "vit_tiny_patch16_224"]


@pytest.mark.parametrize("name", SHORT)
def test_every_parameter_lies_in_one_layer(name):
    spec = get(name)
    skeleton = spec.skeleton(3)
    for path in skeleton.paths():
        assert len([layer for layer in spec.layers if layer.holds(path)]) == 1, path
    empty = [layer.name for layer in spec.layers if not any(layer.holds(path) for path in skeleton.paths())]
    assert empty == []


def test_layers_run_from_input_to_output():
    layers = get("dinov3_vits16").layers
    names = [layer.name for layer in layers]
    assert names == ["embed", *(f"blocks.{i}" for i in range(12)), "norm", "head"]
    assert [layer.kind for layer in layers] == ["stem", *["block"] * 12, "norm", "head"]
    block = next(layer for layer in layers if layer.name == "blocks.1")
    assert block.holds("backbone.blocks.1.norm1.scale") and not block.holds("backbone.blocks.10.norm1.scale")


def test_pools():
    for pool, width in (("cls", 96), ("mean", 96), ("cls_mean", 192)):
        assert get("dinov3_digits").skeleton(3, pool=pool).entries["head.kernel"].shape == (width, 3)
    assert all(spec.pool in POOLS for spec in MODELS.values())
    with pytest.raises(UserError, match="pool 'max' is not known; nearest: "):
        get("dinov3_digits").skeleton(3, pool="max")


def test_unknown_name():
    with pytest.raises(UserError, match="no model 'dinov2_vits16'; nearest: dinov"):
        get("dinov2_vits16")
