"""What weights do not hold is said with the flag that overrules it, kept on the card, and said once."""

import argparse
import json
import warnings

import numpy as np
import pytest
import timm
import torch
from timm.models.vision_transformer import VisionTransformer

import jaxdino
from convert.__main__ import main
from convert.assumptions import assume, spelled
from convert.family import Hints
from convert.load import load_pretrained
from convert.networks import choose, role
from convert.recognise import recognise
from convert.store import Card, load_card
from jaxdino.core.errors import AssumedWarning, UserError
from jaxdino.models.spec import IMAGENET

HEADS = "6 attention heads (width 384 / 64); --num_heads overrules"


def header(width=384, prefix="", **extra) -> dict[str, tuple[int, ...]]:
    """The keys of a plain ViT that tell its shape."""
    keys = {"patch_embed.proj.weight": (width, 3, 16, 16), "pos_embed": (1, 197, width)}
    keys |= {
        "blocks.0.mlp.fc1.weight": (4 * width, width),
        "blocks.11.attn.qkv.bias": (3 * width,),
        "cls_token": (1, 1, width),
    }
    return {prefix + key: shape for key, shape in (keys | extra).items()}


def tiny(**how) -> VisionTransformer:
    """One block of a plain ViT of width 64, for images of 32 x 32 in patches of 8, without a head."""
    return VisionTransformer(
        **(dict(img_size=32, patch_size=8, embed_dim=64, depth=1, num_heads=2, num_classes=0) | how)
    )


def test_flags_in_the_words_of_the_caller():
    text = assume("pool mean", "a guess", "pool")
    assert text == "pool mean (a guess); --pool overrules"
    assert spelled(text) == "pool mean (a guess); pool overrules"
    assert spelled("--layout=timm, --prefixes", {"layout": "--config.model.layout", "prefix": "x"}) == (
        "--config.model.layout=timm, --prefixes"
    )


def test_heads_of_a_plain_vit_are_said():
    assert HEADS in recognise(header()).assumed
    for said in (
        Hints(num_heads=12),
        Hints(model="dino_vits16"),
        Hints(json={"architecture": "vit_small_patch16_224"}),
    ):
        found = recognise(header(), hints=said)
        assert found.spec.config.num_heads == (said.num_heads or 6)
        assert not any("attention heads" in line for line in found.assumed)


@pytest.mark.parametrize(
    ("extras", "prefix", "heads", "said"),
    [
        ({"arch": "vit_small", "epoch": 300}, "module.base_encoder.", 12, False),  # MoCo v3's published files
        ({}, "module.momentum_encoder.", 12, True),
        ({"args.arch": "vit_small"}, "teacher.backbone.", 6, False),  # DINO's
        ({"arch": "deit_small_patch16_224"}, "state_dict.", 6, False),  # timm's
        ({"args.model": "mae_vit_base_patch16"}, "model.", 6, True),  # of another width: not this network
    ],
)
def test_heads_from_what_the_file_says(extras, prefix, heads, said):
    found = recognise(header(prefix=prefix), hints=Hints(extras=extras))
    assert found.spec.config.num_heads == heads
    assert any(f"{heads} attention heads" in line for line in found.assumed) is said


def test_a_name_that_the_file_contradicts_is_refused():
    moco = Hints(model="dino_vits16", extras={"arch": "vit_small"})
    with pytest.raises(UserError, match="num_heads: the checkpoint has 12, dino_vits16 has 6"):
        recognise(header(prefix="module.base_encoder."), hints=moco)


def test_huge_plain_vits_have_16_heads():
    assert recognise(header(1280)).spec.config.num_heads == 16


def test_said_once_and_kept(tmp_path, capsys):
    torch.save(tiny().state_dict(), tmp_path / "w.pth")
    line = "assumed: 1 attention head (width 64 / 64); {} overrules"
    with pytest.warns(AssumedWarning) as caught:
        jaxdino.load(tmp_path / "w.pth")
    assert line.format("num_heads") in [str(one.message) for one in caught]
    assert main(["inspect", str(tmp_path / "w.pth")]) == 0
    assert line.format("--num_heads") in capsys.readouterr().out
    assert main(["import", str(tmp_path / "w.pth"), "--out", str(tmp_path / "ours")]) == 0
    assert line.format("--num_heads") in capsys.readouterr().out
    assert line.format("--num_heads").removeprefix("assumed: ") in load_card(tmp_path / "ours").assumed
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        jaxdino.load(tmp_path / "ours")
    assert main(["inspect", str(tmp_path / "ours")]) == 0
    assert line.format("--num_heads") in capsys.readouterr().out
    assert main(["export", str(tmp_path / "ours"), "--out", str(tmp_path / "out"), "--format", "timm"]) == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = jaxdino.load(tmp_path / "out")
    assert again.card.assumed == load_card(tmp_path / "ours").assumed
    assert jaxdino.load(tmp_path / "w.pth", num_heads=2).card.spec.config.num_heads == 2


def test_cards_of_before():
    card = load_pretrained("dinov3_digits").card
    fields = json.loads(card.to_json())
    del fields["assumed"]
    older = json.dumps(fields)
    assert '"assumed"' not in older and Card.from_json(older).assumed == ()


PLACES = {
    "lightly": ("teacher_backbone", "student_backbone"),
    "nested": ("model.net.teacher.backbone", "model.net.student.backbone"),
    "ema of weights": ("model_ema.module", "model"),
    "ema in front": ("ema_model", "online_model"),
    "MoCo": ("module.encoder_q", "module.encoder_k"),
    "MoCo v3": ("module.base_encoder", "module.momentum_encoder"),
    "BYOL": ("online_network.net", "target_network.net"),
    "I-JEPA": ("target_encoder.module", "encoder.module"),
    "lightly's MoCo": ("backbone", "backbone_momentum"),
    "DINOv3": ("teacher.backbone", "gram_teacher.backbone", "model_ema.backbone", "student.backbone"),
    "around another": ("", "auxiliary"),
}


@pytest.mark.parametrize("name", PLACES)
def test_the_network_that_evaluation_takes(name):
    wanted, *left = [place and place + "." for place in PLACES[name]]
    places = dict.fromkeys([*left, wanted], (64, 3, 8, 8))
    assert choose(places) == (wanted, sorted(left))
    assert choose(dict.fromkeys(left[:1], (64, 3, 8, 8)))[0] == left[0]  # alone, whatever it is called


def test_a_teacher_that_is_distilled_from_is_left():
    small, large = (64, 3, 8, 8), (128, 3, 8, 8)
    places = {"teacher.backbone.": large, "student.backbone.": small, "model_ema.backbone.": small}
    assert choose(places)[0] == "model_ema.backbone."


def test_roles():
    names = ["a.student_backbone.", "teacher.", "module.momentum_encoder.", "encoder_q.", "gram_teacher.", "backbone."]
    assert [role(name) for name in names] == ["student", "teacher", "teacher", "student", None, None]


def test_networks_that_no_name_tells_apart_are_refused(tmp_path):
    state = {f"{place}.{key}": value for place in ("left", "right") for key, value in tiny().state_dict().items()}
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"2 networks.*'left', 'right' with prefix"):
        jaxdino.load(tmp_path / "w.pth")
    assert jaxdino.load(tmp_path / "w.pth", prefix="right").card.source["prefix"] == "right."


def test_the_teacher_of_lightly(tmp_path):
    state = tiny().state_dict()
    both = {
        f"{role}_backbone.{key}": value * 0 + n
        for n, role in enumerate(("student", "teacher"), 1)
        for key, value in state.items()
    }
    torch.save({"state_dict": both}, tmp_path / "last.ckpt")
    with pytest.warns(
        AssumedWarning, match=r"wanted is the one under 'state_dict.teacher_backbone' \(left: 'state_dict.student"
    ):
        model = jaxdino.load(tmp_path / "last.ckpt")
    assert all((leaf == 2).all() for leaf in model.flat.values())


def dinov3(**how) -> torch.nn.Module:
    """timm's DINOv3 with random weights that matter, one block, images of 32 x 32."""
    model = timm.create_model("vit_small_patch16_dinov3", depth=1, img_size=32, num_classes=3, **how).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.1)
    return model


@pytest.mark.parametrize(("theirs", "pool"), [("avg", "mean"), ("token", "cls")])
def test_the_pool_of_a_bare_dinov3_is_asked_for(tmp_path, theirs, pool, capsys):
    model = dinov3(global_pool=theirs)
    file = tmp_path / "a.pth"
    torch.save(model.state_dict(), file)
    with pytest.raises(UserError, match=r"head of 3 classes.* pool=cls or pool=mean does, drop_head=True leaves"):
        jaxdino.load(file)
    ours = jaxdino.load(file, pool=pool)
    assert ours.card.pool == pool
    how = ours.card.spec.preprocess
    pixels = np.uint8(np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)))
    seen = ((pixels / 255 - np.array(how.mean)) / np.array(how.std)).astype(np.float32)
    with torch.no_grad():
        wanted = model(torch.tensor(seen).permute(0, 3, 1, 2)).numpy()
    np.testing.assert_allclose(ours(pixels).logits, wanted, atol=1e-4 * np.abs(wanted).max())
    assert load_pretrained(file, drop_head=True).card.num_classes == 0
    with pytest.raises(UserError, match="pool cls_mean gives 768 features, and the head takes 384: cls, mean"):
        jaxdino.load(file, pool="cls_mean")
    assert main(["inspect", str(file)]) == 0
    assert "head of 3 classes" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("beside", "pool"), [({"args.gp": None}, "mean"), ({"args.gp": "token"}, "cls"), ({"args.gp": "avg"}, "mean")]
)
def test_the_pool_that_timms_training_says(tmp_path, beside, pool):
    content = {"arch": "vit_small_patch16_dinov3", "args": argparse.Namespace(gp=beside["args.gp"])}
    torch.save(content | {"state_dict": dinov3().state_dict()}, tmp_path / "last.pth.tar")
    assert load_pretrained(tmp_path / "last.pth.tar").card.pool == pool


def test_the_pool_of_a_plain_vit_is_said(tmp_path):
    torch.save(tiny(num_classes=3).state_dict(), tmp_path / "w.pth")
    card = load_pretrained(tmp_path / "w.pth").card
    assert card.pool == "cls" and any("a head on the class token" in line for line in card.assumed)
    card = load_pretrained(tmp_path / "w.pth", pool="mean").card
    assert card.pool == "mean" and not any("a head on" in line for line in card.assumed)
    main(["import", str(tmp_path / "w.pth"), "--out", str(tmp_path / "ours"), "--pool", "mean"])
    assert load_pretrained(tmp_path / "ours").card.pool == "mean"
    with pytest.raises(UserError, match="its head looks at 'mean', which --pool cls cannot change"):
        load_pretrained(tmp_path / "ours", pool="cls")


def test_the_size_that_the_table_tells(tmp_path):
    for grid, size in ((14, 224), (24, 384)):
        found = recognise(header(pos_embed=(1, grid * grid + 1, 384)))
        assert found.spec.preprocess.size == (size, size)
        assert any(f"images of {size} x {size}" in line for line in found.assumed) is (size != 224)
    torch.save(tiny().state_dict(), tmp_path / "w.pth")
    found = load_pretrained(tmp_path / "w.pth", image_size=(64, 32)).card
    assert found.spec.preprocess.size == (64, 32) and not any("images of" in line for line in found.assumed)
    with pytest.raises(UserError, match="multiples of the patch size 8, such as 32x24"):
        load_pretrained(tmp_path / "w.pth", image_size=(32, 27))
    large = header(pos_embed=(1, 577, 384)) | {"head.weight": (3, 384), "head.bias": (3,)}
    assert recognise(large).spec.preprocess.crop_pct == 1.0  # timm's at 384
    said = recognise(large, preprocessor={"size": {"height": 224, "width": 224}, "image_mean": [0.5] * 3})
    assert said.spec.preprocess.size == (224, 224) and not any("images of" in line for line in said.assumed)


def test_dinov2_is_used_at_224():
    keys = {"blocks.0.ls1.gamma": (384,), "mask_token": (1, 384), "patch_embed.proj.weight": (384, 3, 14, 14)}
    found = recognise(header(pos_embed=(1, 37 * 37 + 1, 384)) | keys)
    assert (found.spec.name, found.spec.preprocess.size) == ("dinov2_vits14", (224, 224)) and found.assumed == ()
    own = recognise(header(pos_embed=(1, 16 * 16 + 1, 384)) | keys)
    assert own.spec.preprocess.size == (224, 224)


def test_plain_vits_of_two_kinds_are_said():
    bare = recognise(header()).assumed
    assert any("ImageNet's mean and deviation, as DINO" in line and "--layout=timm" in line for line in bare)
    assert not any("mean and deviation" in line for line in recognise(header(), hints=Hints(layout="meta")).assumed)
    assert not any("mean and deviation" in line for line in recognise(header(prefix="teacher.backbone.")).assumed)
    head = header() | {"head.weight": (3, 384), "head.bias": (3,)}
    assert any("pixels in -1..1" in line and "--layout=meta" in line for line in recognise(head).assumed)
    deit = recognise(head, hints=Hints(extras={"args.model": "deit_small_patch16_224"}))
    assert deit.spec.preprocess.mean == IMAGENET[0] and not any("pixels" in line for line in deit.assumed)


def test_verify_says_what_it_shares(tmp_path, capsys):
    torch.save(tiny(num_classes=3).state_dict(), tmp_path / "w.pth")
    assert main(["verify", str(tmp_path / "w.pth")]) == 0
    out = capsys.readouterr().out
    assert "the models agree" in out
    for fact in (
        "1 attention head (width 64 / 64)",
        "the head of 3 classes and its pooling",
        "the preprocessing: both",
    ):
        assert f"not checked: {fact}" in out
    assert main(["verify", str(tmp_path / "w.pth"), "--num_heads", "2"]) == 0
    assert "not checked: 2 attention heads, norms with an epsilon of 1e-06" in capsys.readouterr().out
