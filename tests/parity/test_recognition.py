"""Every published model is recognised from the keys and shapes of its checkpoint, in every layout, without memory."""

import functools

import jax
import pytest
import timm
import torch

from convert.family import Hints
from convert.head_keys import bound_table
from convert.recognise import Recognised, recognise
from convert.tables import layouts, serving
from jaxdino.core.errors import UserError
from jaxdino.core.params import Skeleton
from jaxdino.models.registry import MODELS, get
from jaxdino.models.spec import IMAGENET

ALIKE = {("dino", "timm"), ("resnet", "timm"), ("dino_resnet", "timm")}
"""Layouts with the keys of another one, which a bare header is taken for."""
PAIRS = [
    (name, layout)
    for name, spec in MODELS.items()
    for layout in layouts(spec)
    if (spec.family, layout) not in ALIKE and not (layout == "openai" and name.endswith("laion2b"))
]
HEADED = ("vit", "resnet")
"""Families that are published with a classification head."""
CLASSES = 1000
TWINS = {"dinov3_vitl16_sat": "dinov3_vitl16", "dinov3_vit7b16_sat": "dinov3_vit7b16"}
"""The same shapes and other weights: the preprocessing beside them tells, or the flag."""


@functools.cache
def skeleton(name: str) -> Skeleton:
    """The model's skeleton, with a head where the family is published with one."""
    return get(name).skeleton(CLASSES if get(name).family in HEADED else 0)


def shapes(name: str, layout: str) -> dict[str, tuple[int, ...]]:
    """The header of a checkpoint."""
    head = get(name).linear(CLASSES if get(name).family in HEADED else 0)
    flat = {path: jax.ShapeDtypeStruct(entry.shape, entry.dtype) for path, entry in skeleton(name).entries.items()}
    return {t.key: t.shape for t in bound_table(get(name), layout, head).write(flat)}


def tell(header: dict[str, tuple[int, ...]], **hints) -> Recognised:
    """What a header is recognised as, given what the user says."""
    return recognise(header, hints=Hints(**hints))


def told_by_shapes(name: str, layout: str) -> str:
    """The name that shapes alone lead to."""
    if (name, layout) == ("dinov3_vitl16_sat", "meta"):
        return name  # only the satellite ViT-L holds the norm for local crops
    return TWINS.get(name, name)


@pytest.mark.parametrize(("name", "layout"), PAIRS)
def test_from_shapes_alone(name, layout):
    spec = get(name)
    # CLIP's two activations leave no trace in the shapes: layout and name must be said
    found = tell(shapes(name, layout), **(dict(model=name, layout=layout) if spec.family == "clip" else {}))
    assert (found.spec.name, found.layout) == (told_by_shapes(name, layout), layout)
    assert found.num_classes == (CLASSES if spec.family in HEADED else 0)
    for field in serving()[spec.family].shape:
        assert getattr(found.spec.config, field) == getattr(spec.config, field)


@pytest.mark.parametrize("layout", ("hf", "meta", "timm"))
@pytest.mark.parametrize("name", TWINS)
def test_twins_are_told_apart(name, layout):
    mean = get(name).preprocess.mean
    assert recognise(shapes(name, layout), preprocessor={"image_mean": list(mean)}).spec.name == name
    named = tell(shapes(name, layout), model=name)
    assert named.spec.name == name and named.spec.preprocess.mean == mean


TIMM_NAMES = {
    "vit_small_patch14_dinov2": "dinov2_vits14",
    "vit_base_patch14_reg4_dinov2": "dinov2_vitb14_reg",
    "vit_small_patch16_dinov3": "dinov3_vits16",
    "vit_small_plus_patch16_dinov3_qkvb": "dinov3_vits16plus",
    "vit_7b_patch16_dinov3": "dinov3_vit7b16",
}


@pytest.mark.parametrize("architecture", TIMM_NAMES)
def test_timm_architectures(architecture):
    with torch.device("meta"):
        state = timm.create_model(architecture, num_classes=0).state_dict()
    header = {key: tuple(tensor.shape) for key, tensor in state.items()}
    found = recognise(header)
    assert (found.spec.name, found.layout) == (TIMM_NAMES[architecture], "timm")
    assert bound_table(found.spec, "timm").check(header, found.spec.skeleton()) == []


def test_named_model_must_fit():
    with pytest.raises(UserError, match=r"not a dinov3_vitb16: width: the checkpoint has 384, dinov3_vitb16 has 768"):
        tell(shapes("dinov3_vits16", "meta"), model="dinov3_vitb16")
    with pytest.raises(UserError, match="of the dinov3 family; dinov2_vits14 is of dinov2"):
        tell(shapes("dinov3_vits16", "hf"), model="dinov2_vits14")
    with pytest.raises(UserError, match=r"no model 'dinov3_vits14'; nearest: dinov3_vits16"):
        tell(shapes("dinov3_vits16", "hf"), model="dinov3_vits14")


def test_named_layout_must_fit():
    with pytest.raises(UserError, match="of the layout 'hf', not 'timm'"):
        tell(shapes("dinov3_vits16", "hf"), layout="timm")
    with pytest.raises(UserError, match="no layout 'pytorch'"):
        tell(shapes("dinov3_vits16", "hf"), layout="pytorch")


def test_the_same_keys_under_two_names():
    """DINO's and timm's ViTs differ in nothing but how they resample positions: the flags decide."""
    bare = shapes("dino_vitb16", "meta")
    assert recognise(bare).spec.name == "dino_vitb16"
    as_timm = tell(bare, model="vit_base_patch16_224")
    assert (as_timm.layout, as_timm.spec.config.pos_antialias) == ("timm", True)
    with_head = shapes("vit_base_patch16_224", "timm")
    as_meta = tell(with_head, layout="meta")
    assert (as_meta.spec.name, as_meta.spec.config.pos_offset) == ("dino_vitb16", 0.1)


def test_unknown_number_of_heads():
    odd = {
        "cls_token": (1, 1, 100),
        "patch_embed.proj.weight": (100, 3, 4, 4),
        "pos_embed": (1, 17, 100),
        "blocks.0.mlp.fc1.weight": (400, 100),
    }
    with pytest.raises(UserError, match="heads cannot be told from a width of 100: give it with --num_heads"):
        recognise(odd)
    assert tell(odd, num_heads=5).spec.config.num_heads == 5
    with pytest.raises(UserError, match="7 attention heads do not divide a width of 100"):
        tell(odd, num_heads=7)
    with pytest.raises(UserError, match="6 wide each; rotary positions need a multiple of 4"):
        tell(shapes("dinov3_vits16", "hf"), num_heads=64)


def test_masked_auto_encoders_see_imagenet_colours():
    header = shapes("vit_large_patch16_224", "timm") | {"decoder_embed.weight": (512, 1024)}
    found = recognise({key: shape for key, shape in header.items() if not key.startswith("head.")})
    assert (found.spec.name, found.num_classes) == ("vit_large_patch16_224", 0)
    assert (found.spec.preprocess.mean, found.spec.preprocess.std) == IMAGENET
    assert found.spec.preprocess.crop_pct == 0.875
    assert recognise(header, preprocessor={"image_mean": [0.1] * 3}).spec.preprocess.mean == (0.1,) * 3


def test_norm_after_pooling_is_refused():
    header = {
        key.replace("norm.", "fc_norm.") if key.startswith("norm.") else key: shape
        for key, shape in shapes("vit_large_patch16_224", "timm").items()
    }
    with pytest.raises(UserError, match="fc_norm in place of the final norm"):
        recognise(header)
