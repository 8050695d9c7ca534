"""Heads as data: saved with the weights, read from old cards, and built on a backbone."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxdino
from configs import common
from convert.store import Card, load_model, save_model
from jaxdino.core.errors import UserError
from jaxdino.core.params import bind, split
from jaxdino.models import heads, registry
from jaxdino.models.batch_norm import set_training
from jaxdino.models.heads.linear import LinearHeadConfig
from jaxdino.models.heads.patches import PatchesHeadConfig
from jaxdino.models.heads.projection import DINOHeadConfig
from jaxdino.models.lora import LoRA, adapted
from jaxdino.models.spec import ModelSpec
from jaxdino.models.vit import ViTConfig
from jaxdino.train.weights import backbone

VIT = ViTConfig(patch_size=8, width=16, depth=3, num_heads=2, mlp_dim=32, pos_grid=(2, 2), layer_scale=True)
SPEC = ModelSpec("dinov2_custom", "dinov2", VIT)
NAMES = ("cat", "dog", "emu")
ALL = [LinearHeadConfig(3, "cls_mean"), PatchesHeadConfig(3, 2, 0.5), PatchesHeadConfig(3, (0, 2))]
IMAGES = np.random.default_rng(0).normal(size=(2, 16, 24, 3)).astype(np.float32)


def made(head: heads.HeadConfig):
    return split(SPEC.build(head=head, rngs=nnx.Rngs(0)))


@pytest.mark.parametrize("head", ALL)
def test_a_head_is_saved_with_the_weights(tmp_path, head):
    skeleton, flat = made(head)
    card = save_model(tmp_path / "model", Card(SPEC, head, NAMES), flat)
    again, found = load_model(tmp_path / "model")
    assert again == card and again.head == head and list(found) == list(skeleton.entries)
    logits = jaxdino.load(tmp_path / "model")(IMAGES).logits
    np.testing.assert_array_equal(logits, jax.jit(lambda flat, x: bind(skeleton, flat)(x).logits)(flat, IMAGES))
    assert logits.shape == ((2, 3) if head.of == "image" else (2, 2, 3, 3)) and logits.dtype == np.float32


def test_further_heads_have_names_and_are_saved_with_the_weights(tmp_path):
    head = DINOHeadConfig(in_dim=16, hidden_dim=12, bottleneck_dim=6, out_dim=10, use_bn=True)
    spec = dataclasses.replace(SPEC, heads=(("dino_head", head), ("ibot_head", head)))
    skeleton, flat = split(spec.build(head=ALL[0], rngs=nnx.Rngs(0)))
    assert skeleton.entries.keys() == spec.skeleton(head=ALL[0]).entries.keys()
    assert {path.split(".")[0] for path in flat} == {"backbone", "head", "dino_head", "ibot_head"}
    assert all(len([layer for layer in spec.layers if layer.holds(path)]) == 1 for path in flat)
    card = save_model(tmp_path / "model", Card(spec, ALL[0], NAMES), flat)
    again, found = load_model(tmp_path / "model")
    assert again == card and again.spec.heads == spec.heads and list(found) == list(flat)
    net = bind(skeleton, found)
    assert net(IMAGES).logits.shape == (2, 3) and net.ibot_head(np.ones((5, 16), np.float32)).shape == (5, 10)
    config = common.distill_config()
    config.model.update(name=SPEC.name, weights=str(tmp_path / "model"))
    plain, leaves = backbone(config, lambda line: None)
    assert plain.spec == SPEC and {path.split(".")[0] for path in leaves} == {"backbone"}
    wide = adapted(skeleton, spec, LoRA(rank=2, targets=("@linear",)))
    assert "ibot_head.mlp.0.lora.a" in wide.entries
    with pytest.raises(UserError, match="width 9, and the backbone's have 16"):
        dataclasses.replace(SPEC, heads=(("dino_head", dataclasses.replace(head, in_dim=9)),)).skeleton()


def test_a_card_without_further_heads_is_written_as_before():
    assert "heads" not in json.loads(Card(SPEC).to_json())["spec"]


@pytest.mark.parametrize("classes", [0, 3])
def test_a_card_of_version_0_1_0_has_a_linear_head(tmp_path, classes):
    """Its fields were num_classes and pool; the other fields are today's."""
    head = LinearHeadConfig(classes, "cls_mean")
    card = save_model(tmp_path / "model", Card(SPEC, head, NAMES[:classes]), made(head)[1])
    old = json.loads(card.to_json()) | {"num_classes": classes, "pool": "cls_mean"}
    del old["head"]
    (tmp_path / "model" / "model.json").write_text(json.dumps(old))
    (tmp_path / "model" / "seal.json").unlink()
    assert load_model(tmp_path / "model")[0] == card


def test_parameters_of_heads():
    entries = made(ALL[0])[0].entries
    assert {path: entry.shape for path, entry in entries.items() if path.startswith("head")} == {
        "head.kernel": (32, 3),
        "head.bias": (3,),
    }
    entries = made(ALL[1])[0].entries
    found = {path: (entry.shape, entry.kind) for path, entry in entries.items() if path.startswith("head")}
    assert found == {
        "head.bn.scale": ((32,), "param"),
        "head.bn.bias": ((32,), "param"),
        "head.bn.mean": ((32,), "batch_stat"),
        "head.bn.var": ((32,), "batch_stat"),
        "head.bn.num_batches_tracked": ((), "buffer"),
        "head.conv_seg.kernel": ((32, 3), "param"),
        "head.conv_seg.bias": ((3,), "param"),
    }
    (layer,) = (layer for layer in SPEC.layers if layer.holds("head.bn.scale"))
    assert layer.name == "head"


@pytest.mark.parametrize("blocks", [2, (0, 2)])
def test_patches_of_several_blocks_stand_side_by_side(blocks):
    skeleton, flat = made(PatchesHeadConfig(3, blocks))
    net = bind(skeleton, flat)
    outs = net.backbone.intermediate_layers(IMAGES, blocks)
    both = np.concatenate([out.patches for out in outs], axis=-1) / np.sqrt(1 + 1e-5)
    by_hand = both @ np.asarray(flat["head.conv_seg.kernel"]) + np.asarray(flat["head.conv_seg.bias"])
    out = net(IMAGES)
    np.testing.assert_allclose(out.logits, by_hand, atol=1e-6)
    np.testing.assert_array_equal(out.cls, net.backbone(IMAGES).cls)  # the output stays that of the last block


def test_dropout_drops_whole_feature_maps_in_training_alone():
    skeleton, flat = split(PatchesHeadConfig(4, dropout=0.5).build(16, nnx.Rngs(0)))
    flat |= {"conv_seg.kernel": jnp.eye(16, 4), "bn.var": jnp.full((16,), 1 - 1e-5)}
    outs = SPEC.build(rngs=nnx.Rngs(0)).backbone.intermediate_layers(IMAGES, 1)
    head = bind(skeleton, flat)
    still, moved = (np.asarray(head(outs, key)["logits"]) for key in (None, jax.random.key(1)))
    np.testing.assert_allclose(still, outs[0].patches[..., :4], rtol=1e-5)
    kept = (moved != 0).all(axis=(1, 2))
    assert kept.any() and not kept.all()
    np.testing.assert_allclose(moved, 2 * still * kept[:, None, None], rtol=1e-5)


def test_the_batch_norm_of_a_head_moves_with_the_head():
    skeleton, flat = made(PatchesHeadConfig(3))
    for trained, count in (([], 0), (["head.bn.scale"], 1)):
        net = bind(skeleton, flat)
        set_training(net, trained)
        net(IMAGES)
        assert net.head.bn.num_batches_tracked[...] == count


def test_half_precision_keeps_float32_logits():
    skeleton, flat = split(SPEC.build(head=PatchesHeadConfig(3), rngs=nnx.Rngs(0), dtype=jnp.bfloat16))
    out = bind(skeleton, flat)(IMAGES)
    assert out.patches.dtype == jnp.bfloat16 and out.logits.dtype == jnp.float32


def test_any_backbone_takes_a_head_on_its_last_patches():
    for name in ("resnet18", "dinov3_convnext_tiny"):
        entries = registry.get(name).skeleton(head=PatchesHeadConfig(3)).entries
        assert entries["head.conv_seg.kernel"].shape == (registry.get(name).config.width, 3)


def test_refusals():
    for wrong, words in (
        (dict(blocks=0), "blocks=0 must be at least 1"),
        (dict(blocks=()), "a number of blocks, or their indices in order"),
        (dict(blocks=(2, 0)), "a number of blocks, or their indices in order"),
        (dict(blocks=(-1,)), "must be at least 0"),
        (dict(dropout=1.0), r"dropout=1\.0 must be in \[0, 1\)"),
        (dict(num_classes=-1), "num_classes=-1 must be at least 0"),
    ):
        with pytest.raises(UserError, match=words):
            PatchesHeadConfig(**wrong)
    with pytest.raises(UserError, match="pool 'clss' is not known"):
        LinearHeadConfig(3, "clss")
    with pytest.raises(UserError, match="must end with the last block, 2"):
        SPEC.skeleton(head=PatchesHeadConfig(3, (0, 1)))
    with pytest.raises(UserError, match="blocks that the model does not have"):
        SPEC.skeleton(head=PatchesHeadConfig(3, (0, 3)))
    with pytest.raises(UserError, match="which only vision transformers have"):
        registry.get("resnet18").skeleton(head=PatchesHeadConfig(3, 4))
    with pytest.raises(UserError, match="linear"):
        heads.from_json({"name": "linea"})
    with pytest.raises(UserError, match="has no field 'block'"):
        heads.from_json({"name": "patches", "block": 4})
    assert heads.from_json({"name": "patches", "blocks": [0, 2]}) == PatchesHeadConfig(blocks=(0, 2))
    assert dataclasses.asdict(heads.NO_HEAD)["num_classes"] == 0
