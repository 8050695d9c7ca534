"""Stages, rules, layer decay and plans, on a small fake ViT and a fake ResNet."""

import math
import re
from types import SimpleNamespace

import pytest

from jaxdino.core.errors import UserError
from jaxdino.models import registry
from jaxdino.strategy import COLUMNS, NO_DECAY, Group, Stage, format_plan, resolve, select, stages


def layer(name, kind, *prefixes):
    return SimpleNamespace(name=name, kind=kind, prefixes=prefixes)


def skeleton(shapes, buffers=()):
    entry = lambda path, shape: SimpleNamespace(  # noqa: E731
        shape=shape, dtype="float32", kind="buffer" if path in buffers else "param"
    )
    return SimpleNamespace(entries={path: entry(path, shape) for path, shape in shapes.items()})


def fake_vit(depth=6, width=8):
    """A spec and a skeleton with the names of a DINOv3 ViT."""
    stem = ("cls_token", "mask_token", "pos_embed", "patch_embed", "rope")
    layers = [layer("embed", "stem", *(f"backbone.{name}" for name in stem))]
    layers += [layer(f"blocks.{i}", "block", f"backbone.blocks.{i}") for i in range(depth)]
    layers += [
        layer("norm", "norm", "backbone.norm", "backbone.local_cls_norm"),
        layer("head", "head", "head"),
    ]
    shapes = {"backbone.cls_token": (1, 1, width), "backbone.mask_token": (1, width)}
    shapes |= {
        "backbone.patch_embed.proj.kernel": (4, 4, 3, width),
        "backbone.patch_embed.proj.bias": (width,),
    }
    for i in range(depth):
        block = f"backbone.blocks.{i}."
        shapes |= {
            block + "norm1.scale": (width,),
            block + "norm1.bias": (width,),
            block + "ls1.gamma": (width,),
        }
        shapes |= {block + "attn.qkv.kernel": (width, 3 * width), block + "attn.qkv.bias": (3 * width,)}
    shapes |= {"backbone.norm.scale": (width,), "backbone.rope.periods": (2,)}
    shapes |= {"head.kernel": (width, 3), "head.bias": (3,)}
    spec = SimpleNamespace(name="fake_vit", layers=tuple(layers), last_layers=2)
    return spec, skeleton(shapes, buffers=("backbone.rope.periods",))


def fake_resnet():
    """A spec and a skeleton with the names of a ResNet: four layers of blocks, no final norm."""
    blocks = [layer(f"layer{i}", "block", f"backbone.layer{i}") for i in range(1, 5)]
    stem = layer("stem", "stem", "backbone.conv1", "backbone.bn1")
    spec = SimpleNamespace(name="fake_resnet", layers=(stem, *blocks, layer("head", "head", "head")), last_layers=1)
    shapes = {"backbone.conv1.kernel": (7, 7, 3, 4), "backbone.bn1.scale": (4,), "head.kernel": (4, 3)}
    shapes |= {f"backbone.layer{i}.0.conv1.kernel": (3, 3, 4, 4) for i in range(1, 5)}
    return spec, skeleton(shapes)


def make_stage(rules, groups, base=None, **settings):
    return Stage.of(dict(name="test", rules=rules, groups=groups, epochs=1) | settings, base)


HEAD_ONLY = dict(rules=(("@head", "head"), ("@all", "rest")), groups=dict(head=dict(lr=1.0), rest=dict(frozen=True)))


def labels(plan):
    """{layer: its groups} of a plan."""
    found = {}
    for leaf in plan.leaves.values():
        found.setdefault(leaf.layer, set()).add("frozen" if leaf.frozen else leaf.group)
    return {name: "/".join(sorted(groups)) for name, groups in found.items()}


@pytest.mark.parametrize(
    ("selector", "vit", "resnet"),
    [
        ("@head", ["head"], ["head"]),
        ("@norm", ["norm"], []),
        ("@stem", ["embed"], ["stem"]),
        ("@last", ["blocks.4", "blocks.5"], ["layer4"]),
        (
            "@last:4",
            ["blocks.2", "blocks.3", "blocks.4", "blocks.5"],
            ["layer1", "layer2", "layer3", "layer4"],
        ),
        ("@blocks[1:3]", ["blocks.1", "blocks.2"], ["layer2", "layer3"]),
        ("@blocks[-1:]", ["blocks.5"], ["layer4"]),
        ("@blocks", [f"blocks.{i}" for i in range(6)], [f"layer{i}" for i in range(1, 5)]),
    ],
)
def test_selectors_mean_the_models_own_layers(selector, vit, resnet):
    assert select(selector, fake_vit()[0]) == vit
    assert select(selector, fake_resnet()[0]) == resnet


def test_all_is_every_layer_and_block_1_is_not_block_10():
    spec, skel = fake_vit(depth=12)
    assert select("@all", spec) == [item.name for item in spec.layers]
    plan = resolve(
        spec,
        skel,
        make_stage((("@blocks[1:2]", "one"), ("@all", "rest")), dict(one=dict(lr=1.0), rest=dict(frozen=True))),
    )
    assert {plan.leaves[path].layer for path in plan.trainable} == {"blocks.1"}


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ((("@heads", "head"), ("@all", "rest")), "unknown selector '@heads'.*@head"),
        ((("@last:9", "head"), ("@all", "rest")), "asks for 9 blocks, and fake_vit has 6"),
        ((("@blocks[7:]", "head"), ("@all", "rest")), "matches no parameter of fake_vit"),
        ((("head.kernl", "head"), ("@all", "rest")), "'head.kernl' matches no parameter.*head.kernel"),
        ((("@head", "head"), ("@blocks", "rest")), "no rule covers the parameter 'backbone.cls_token'"),
        ((("@head", "haed"), ("@all", "rest")), "names the group 'haed'.*head"),
        ((("@all", "rest"),), "no rule names the group 'head'"),
    ],
)
def test_rules_that_miss_are_errors(rules, message):
    with pytest.raises(UserError, match=message):
        resolve(*fake_vit(), make_stage(rules, HEAD_ONLY["groups"]))


def test_a_head_that_the_model_lacks_is_an_error():
    spec, skel = fake_vit()
    bare = SimpleNamespace(entries={k: v for k, v in skel.entries.items() if not k.startswith("head")})
    with pytest.raises(UserError, match="'@head' matches no parameter"):
        resolve(spec, bare, make_stage(**HEAD_ONLY))


def test_the_norm_of_a_resnet_is_no_error():
    rules = (("@norm", "rest"), ("@head", "head"), ("@all", "rest"))
    assert resolve(*fake_resnet(), make_stage(rules, HEAD_ONLY["groups"])).trainable == ("head.kernel",)


def test_own_patterns_match_the_whole_path_and_first_wins():
    rules = ((r"backbone\.blocks\.\d+\.attn\..*", "attn"), ("@head", "head"), (".*", "rest"))
    plan = resolve(*fake_vit(), make_stage(rules, dict(attn=dict(lr=0.1)) | HEAD_ONLY["groups"]))
    assert labels(plan)["blocks.0"] == "attn/frozen"
    assert plan.leaves["backbone.blocks.5.attn.qkv.bias"].lr == 0.1


def test_layer_decay_is_beits():
    groups = dict(head=dict(lr=1e-3, layer_decay=0.9), body=dict(lr=1e-5, layer_decay=0.9, weight_decay=0.1))
    plan = resolve(*fake_vit(depth=12), make_stage((("@head", "head"), ("@all", "body")), groups))
    rate = {leaf.layer: leaf.lr for leaf in plan.leaves.values()}
    assert rate["head"] == 1e-3
    assert rate["norm"] == 1e-5
    assert rate["blocks.11"] == pytest.approx(1e-5 * 0.9)
    assert rate["blocks.0"] == pytest.approx(1e-5 * 0.9**12)
    assert rate["embed"] == pytest.approx(1e-5 * 0.9**13)


def test_weight_decay_is_off_for_what_should_not_shrink():
    groups = dict(body=dict(lr=1.0, weight_decay=0.1))
    plan = resolve(*fake_vit(), make_stage((("@all", "body"),), groups))
    decayed = {path for path, leaf in plan.leaves.items() if leaf.weight_decay}
    assert decayed == {path for path in plan.leaves if path.endswith("kernel")}
    assert make_stage((("@all", "body"),), groups).no_decay == NO_DECAY
    own = make_stage((("@all", "body"),), groups, no_decay=(r"head\..*",))
    bare = {path for path, leaf in resolve(*fake_vit(), own).leaves.items() if not leaf.weight_decay}
    assert bare == {"head.kernel", "head.bias"}


def test_buffers_are_not_in_the_plan():
    plan = resolve(*fake_vit(), make_stage((("@all", "body"),), dict(body=dict(lr=1.0))))
    assert "backbone.rope.periods" not in plan.leaves
    assert plan.trainable_fraction == 1.0


def test_what_images_never_reach_is_never_trained():
    spec, own = fake_vit()
    spec.layers[-2].kind = "aside"
    plan = resolve(spec, own, make_stage((("@all", "body"),), dict(body=dict(lr=1.0, weight_decay=0.1))))
    assert [path for path, leaf in plan.leaves.items() if leaf.frozen] == ["backbone.norm.scale"]
    assert (plan.leaves["backbone.norm.scale"].lr, plan.leaves["backbone.norm.scale"].weight_decay) == (0, 0)


def test_nothing_to_train_is_an_error():
    with pytest.raises(UserError, match="trains nothing"):
        resolve(*fake_vit(), make_stage((("@all", "rest"),), dict(rest=dict(frozen=True))))


def test_a_stage_whose_rates_are_0_is_an_error():
    rules = (("@head", "head"), ("@last", "body"), ("@all", "frozen"))
    groups = dict(head=dict(lr=0.0), body=dict(lr=0.0), frozen=dict(frozen=True))
    with pytest.raises(UserError, match=r"trains nothing: the learning rate is 0 for body, head"):
        resolve(*fake_vit(), make_stage(rules, groups))
    assert resolve(*fake_vit(), make_stage(rules, groups | dict(head=dict(lr=0.1)))).trainable


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(epoch=3), "stage 'test' has no field 'epoch'; nearest: epochs"),
        (
            dict(groups=dict(head=dict(lrr=1.0), rest=dict(frozen=True))),
            "group 'head' has no field 'lrr'.*lr",
        ),
        (dict(schedule=dict(warmup=1)), "schedule has no field 'warmup'.*warmup_"),
        (dict(epochs=None), "no length"),
        (dict(rules=None), "no 'rules'"),
        (dict(groups=dict(head=dict(), rest=dict(frozen=True))), "group 'head' has no learning rate"),
        (dict(label_smoothing=1.0), r"stage 'test': label_smoothing=1.0 must be in \[0, 1\)"),
        (dict(ema_decay=-0.1), "ema_decay=-0.1"),
        (dict(clip_norm=math.nan), "clip_norm=nan is no number"),
        (dict(accumulate=0), "accumulate=0 must be at least 1"),
        (dict(epochs=-1), "epochs=-1"),
        (dict(schedule=dict(period_epochs=0.0)), "schedule: period_epochs"),
        (dict(optimizer=dict(betas=(0.9, 1.0))), "optimizer: betas"),
        (dict(groups=dict(head=dict(lr=1.0, layer_decay=0.0), rest=dict(frozen=True))), "group 'head': layer_decay"),
    ],
)
def test_stage_fields_are_checked(change, message):
    with pytest.raises(UserError, match=message):
        make_stage(**HEAD_ONLY | change)


def test_what_a_stage_leaves_open_it_inherits():
    base = dict(
        early_stopping=dict(patience=3, min_delta=0.01),
        optimizer=dict(
            layer_decay=0.5, weight_decay=0.05, clip_norm=1.0, betas=(0.9, 0.95), schedule=dict(name="step")
        ),
        data=dict(batch_size=32),
    )
    stage = make_stage((("@all", "body"),), dict(body=dict(lr=0.5)), base, clip_norm=0.0, schedule=dict(factor=0.5))
    assert stage.groups["body"] == Group(lr=0.5, layer_decay=0.5, weight_decay=0.05)
    assert (stage.patience, stage.plateaus, stage.batch_size, stage.clip_norm) == (3, True, 32, 0.0)
    assert (stage.optimizer.betas, stage.schedule.name, stage.schedule.factor) == ((0.9, 0.95), "step", 0.5)


def test_length_and_gain():
    stage = make_stage(**HEAD_ONLY, steps=25, monitor="val/accuracy")
    assert stage.length(10) == 10 and stage.length(100) == 25
    assert stage.gain(0.5, None) == math.inf and stage.gain(0.6, 0.5) == pytest.approx(0.1)
    assert make_stage(**HEAD_ONLY, monitor="val/loss").gain(0.6, 0.5) == pytest.approx(-0.1)


def test_optional_stages_can_be_skipped_and_names_are_unique():
    first, second = (dict(name=name, epochs=1, optional=name == "b", **HEAD_ONLY) for name in "ab")
    assert [stage.name for stage in stages(dict(stages=(first, second)))] == ["a", "b"]
    assert [stage.name for stage in stages(dict(stages=(first, second), skip_optional=True))] == ["a"]
    with pytest.raises(UserError, match="its own name"):
        stages(dict(stages=(first, first)))


def test_the_table_of_a_plan():
    text = format_plan(resolve(*fake_vit(), make_stage(**HEAD_ONLY)))
    first, header, rule, frozen, head, last = text.splitlines()
    assert first == "stage test"
    assert tuple(re.split("  +", header)) == COLUMNS
    assert set(rule) == {"-", " "}
    assert frozen.startswith("embed .. norm  rest")
    assert head.split() == ["head", "head", "1", "1", "0", "2", "2", "27", "1.43%"]
    assert last == "trainable: 27 of 1,883 parameters (1.43%)"
    assert len({len(line) for line in (header, rule, frozen, head)}) == 1


@pytest.mark.parametrize("name", ["dinov3_vits16", "resnet18", "dinov3_convnext_tiny", "clip_vitb32", "sam_vitb"])
def test_only_matrices_and_kernels_decay(name):
    entries = registry.get(name).skeleton(3).entries
    decayed = [path for path in entries if not any(re.fullmatch(pattern, path) for pattern in NO_DECAY)]
    decayed = [path for path in decayed if entries[path].kind == "param"]
    others = [path for path in decayed if not path.endswith(".kernel")]
    assert others == (["backbone.text.token_embedding"] if name == "clip_vitb32" else [])
