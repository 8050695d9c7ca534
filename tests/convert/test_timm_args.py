"""timm's model_args are followed or refused: each model is of timm's own class, saved as timm saves it."""

import jax
import numpy as np
import pytest
import timm
import torch

from convert.family import Hints
from convert.load import load_pretrained
from convert.timm_args import check
from jaxdino.core.errors import UserError
from jaxdino.core.params import bind
from jaxdino.models.registry import get
from tests.parity.drawing import channels_last, draw
from tests.torchvision_stub import import_torchvision

VIT = dict(img_size=32, patch_size=8, embed_dim=64, depth=1, num_heads=2)
RESNET = dict(layers=[1, 1, 1, 1], channels=[8, 8, 8, 8])
CONVNEXT = dict(depths=[1, 1, 1, 1], dims=[8, 8, 8, 8])
SHAPES = {"vit": VIT, "deit": VIT, "resnet": RESNET, "convnext": CONVNEXT}


def saved(folder, architecture: str, **args) -> torch.nn.Module:
    """A small model with weights that matter, in a folder as timm's `push_to_hf_hub` writes it."""
    import_torchvision()
    from timm.models._hub import save_for_hf

    shape = SHAPES[architecture.split("_")[0].rstrip("0123456789")]
    model = draw(timm.create_model(architecture, num_classes=5, **shape, **args))
    save_for_hf(model, folder, model_args={**shape, **args}, safe_serialization=True)
    return model


@pytest.mark.parametrize(
    ("architecture", "args"),
    [
        ("vit_small_patch16_dinov3", {"rope_temperature": 10.0}),
        ("vit_small_patch16_224", {"act_layer": "gelu", "norm_layer": "layernorm", "drop_rate": 0.1}),
        ("deit3_small_patch16_224", {}),
        ("resnet26", {"output_stride": 32}),
        ("convnext_tiny", {"norm_eps": 1e-2}),
    ],
)
def test_what_timm_says_is_followed(tmp_path, architecture, args):
    model = saved(tmp_path, architecture, **args)
    found = load_pretrained(tmp_path)
    assert not any("not known" in note or "rotary" in note for note in found.notes)
    pixels = torch.randn(
        1, 3, 64 if "patch" not in architecture else 32, 32, generator=torch.Generator().manual_seed(1)
    )
    card = found.card
    skeleton = card.spec.skeleton(card.num_classes, pool=card.pool)
    ours = jax.jit(lambda flat, images: bind(skeleton, flat)(images).logits)(found.flat, channels_last(pixels))
    theirs = model(pixels).detach().numpy()
    assert np.abs(np.asarray(ours) - theirs).max() < 1e-5 * np.abs(theirs).max()


@pytest.mark.parametrize(
    ("architecture", "args", "says"),
    [
        ("vit_small_patch16_224", {"act_layer": "relu"}, "act_layer='relu'.*known: 'gelu'"),
        ("resnet18", {"act_layer": "silu"}, "act_layer='silu'.*known: 'relu'"),
        ("resnet18", {"output_stride": 16}, "output_stride=16"),
        ("resnet18", {"global_pool": "avgmax"}, "global_pool='avgmax'; only avg .*--drop_head"),
        ("convnext_tiny", {"global_pool": "max"}, "global_pool='max'; only avg"),
        ("convnext_tiny", {"output_stride": 16}, "output_stride=16"),
        ("convnext_tiny", {"act_layer": "relu"}, "act_layer='relu'"),
        ("vit_small_patch16_224", {"reg_tokens": 1}, "registers and no layer scales"),
        ("vit_small_patch16_224", {"pre_norm": True}, "a norm before its blocks"),
        (
            "vit_small_patch16_224",
            {"class_token": False, "global_pool": "avg", "fc_norm": False},
            "without a class token",
        ),
        ("vit_small_patch16_224", {"pos_embed": "none"}, "without a position table"),
        ("vit_small_patch16_224", {"qk_norm": True}, "norms of queries and keys"),
        ("deit_small_distilled_patch16_224", {}, "a token for distillation"),
        ("vit_small_patch16_rope_224", {}, "EVA and RoPE ViTs"),
    ],
)
def test_another_network_of_the_same_keys_is_refused(tmp_path, architecture, args, says):
    saved(tmp_path, architecture, **args)
    with pytest.raises(UserError, match=says):
        load_pretrained(tmp_path)


def test_a_training_checkpoint_says_its_arguments_too():
    config = get("vit_small_patch16_224").config
    with pytest.raises(UserError, match="act_layer='quick_gelu'"):
        check("vit", config, Hints(extras={"args.model_kwargs.act_layer": "quick_gelu"}))
    (note,) = check("vit", config, Hints(json={"model_args": {"colour": 1, "drop_rate": 0.5, "depth": None}}))
    assert "colour=1 in model_args is not known" in note
