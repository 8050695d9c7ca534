"""Every export opens in the library it is meant for, gives our features there, and a head its class can use."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
import torch
import transformers as hf
from safetensors.torch import load_file

import jaxdino
from convert.export import export
from convert.load import load_pretrained, new_head
from convert.readers import open_source
from convert.store import Card, save_model
from convert.tables import layouts
from jaxdino.core.params import bind
from jaxdino.models import registry
from jaxdino.models.heads.linear import POOLS, LinearHeadConfig
from tests.parity import clip_modules
from tests.parity.exports import OPENERS, SHAPES, drawn, spec_of
from tests.torchvision_stub import import_torchvision

FIRST = ("vit", "dino", "dinov2", "dinov3", "convnext", "resnet", "dino_resnet")
"""Shapes that are exported with every pool; the others with none and one."""
NO_MODULE = [("convnext other depths", "meta")]
"""The tests' module has one depth and one epsilon."""


def cases():
    """(shape, layout, pool)."""
    for name in SHAPES:
        spec = spec_of(name)
        pools = POOLS if hasattr(spec.config, "num_registers") else [pool for pool in POOLS if pool != "cls4_mean"]
        for layout in (layout for layout in layouts(spec) if (name, layout) not in NO_MODULE):
            for pool in (None, *pools) if name in FIRST else (None, "mean"):
                yield pytest.param(name, layout, pool, id=f"{name}, {layout}, {pool or 'no head'}")


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    """A function from shape and pool to: card, parameters, their folder, images (B, C, H, W), our cls and patches."""

    @functools.cache
    def run(name: str):
        spec = spec_of(name)
        size, channels = spec.preprocess.size, spec.config.in_channels
        pixels = torch.randn(2, channels, *size, generator=torch.Generator().manual_seed(1))
        skeleton, (_, flat) = spec.skeleton(), drawn(spec, None)
        out = jax.jit(lambda flat, x: bind(skeleton, flat)(x))(flat, pixels.permute(0, 2, 3, 1).numpy())
        return pixels, {"cls": np.asarray(out.cls), "patches": np.asarray(out.patches)}

    @functools.cache
    def get(name: str, pool: str | None):
        card, flat = drawn(spec_of(name), pool)
        folder = tmp_path_factory.mktemp("ours") / "model"
        save_model(folder, card, flat)
        return card, flat, folder, *run(name)

    return get


def pooled(pool: str, found: dict[str, np.ndarray]) -> np.ndarray:
    cls, mean = found["cls"], found["patches"].mean(axis=(1, 2))
    return {"cls": cls, "mean": mean, "cls_mean": np.concatenate([cls, mean], axis=-1)}[pool]


def head_beside(out) -> tuple[np.ndarray, np.ndarray] | None:
    """Weight and bias of a head in a file of its own."""
    files = [out / "head.safetensors", *out.glob("*_head.pth")]
    for file in (file for file in files if file.exists()):
        with open_source(file) as source:
            held = {key.rpartition(".")[2]: source.read(key) for key in source.keys()}  # noqa: SIM118
        return held["weight"], held["bias"]
    return None


@pytest.mark.parametrize(("name", "layout", "pool"), [*cases()])
def test_opens(ours, tmp_path, name, layout, pool):
    card, flat, folder, pixels, wanted = ours(name, pool)
    notes = export(folder, tmp_path / "out", layout=layout)
    theirs = {key: value.numpy() for key, value in OPENERS[layout](tmp_path / "out", card, pixels).items()}
    for place in wanted:
        np.testing.assert_allclose(theirs[place], wanted[place], atol=1e-5, rtol=1e-5, err_msg=place)
    head = head_beside(tmp_path / "out")
    assert (pool is not None) == ("logits" in theirs or head is not None)
    if head is not None:
        assert "logits" not in theirs and any("the head is in" in note for note in notes)
        assert np.array_equal(head[0].T, flat["head.kernel"]) and np.array_equal(head[1], flat["head.bias"])
    if "logits" in theirs:
        logits = pooled(pool, wanted) @ flat["head.kernel"] + flat["head.bias"]
        np.testing.assert_allclose(theirs["logits"], logits, atol=1e-5, rtol=1e-5)
    again = load_pretrained(tmp_path / "out")
    assert (again.card.num_classes, again.card.pool) == (card.num_classes, card.pool)


PUBLISHED = [name for name, spec in registry.MODELS.items() if "timm" in layouts(spec) and spec.family != "clip"]


def test_timm_knows_every_published_architecture():
    import_torchvision()
    import timm

    for name in PUBLISHED:
        spec = registry.get(name)
        (config,) = layouts(spec)["timm"].files(Card(spec, spec.linear()), "float32").values()
        assert timm.is_model(config["architecture"]), name


@pytest.mark.parametrize(
    ("name", "fields", "layout", "why"),
    [
        ("vit", {"num_registers": 2}, "timm", "no place for, or requires, backbone.register_tokens"),
        ("vit", {"swiglu": True}, "hf", r"blocks\.0\.mlp\.w12"),
        ("dinov2", {"mlp_dim": 100}, "hf", "integer mlp_ratio; none gives 100 for 64"),
        ("dinov2", {"pos_grid": (2, 8)}, "hf", "square table of positions, this model's is 2 x 8"),
        ("dino", {"pos_grid": (2, 8)}, "meta", "square table of positions"),
        ("dinov3", {"mask_k_bias": False}, "timm", "no bias of the keys"),
        ("dinov2", {"positions": "rope"}, "hf", r"requires, .*backbone\.pos_embed"),
        ("resnet", {"stem": 32}, "timm", "first convolution of 64 channels; this one has 32"),
    ],
)
def test_what_a_layout_cannot_hold_is_refused(tmp_path, name, fields, layout, why):
    spec = spec_of(name)
    spec = dataclasses.replace(spec, config=dataclasses.replace(spec.config, **fields))
    if "pos_grid" in fields:
        size = tuple(n * spec.config.patch_size for n in fields["pos_grid"])
        spec = dataclasses.replace(spec, preprocess=dataclasses.replace(spec.preprocess, size=size))
    card, flat = drawn(spec, None)
    flat = {path: array + 0.1 if path.endswith("qkv.bias") else array for path, array in flat.items()}
    save_model(tmp_path / "ours", card, flat)
    with pytest.raises(jaxdino.UserError, match=why):
        export(tmp_path / "ours", tmp_path / "out", layout=layout)
    assert not (tmp_path / "out").exists()


def test_the_embedded_model_opens_in_timm(tmp_path):
    import_torchvision()
    import timm

    export("dinov3_digits", tmp_path / "out", layout="timm")
    model = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    ours = jaxdino.load("dinov3_digits")
    pixels = torch.randn(1, ours.card.spec.config.in_channels, *ours.card.spec.preprocess.size)
    with torch.no_grad():
        theirs = model.forward_features(pixels)[:, 0].numpy()
    np.testing.assert_allclose(ours(pixels.permute(0, 2, 3, 1).numpy()).cls, theirs, atol=1e-4)


@pytest.mark.parametrize("layout", ["meta", "hf"])
def test_a_head_of_sam_stands_beside_it(loaded, tmp_path, layout):
    case = loaded(f"sam {layout}")
    found = case.ours
    card = dataclasses.replace(found.card, head=LinearHeadConfig(5, "mean"))
    head = new_head(card.spec, card.head, seed=0)
    save_model(tmp_path / "ours", card, found.flat | head)
    export(tmp_path / "ours", tmp_path / "out", layout=layout)
    weight, _ = head_beside(tmp_path / "out")
    assert np.array_equal(weight.T, head["head.kernel"])
    if layout == "meta":
        (file,) = (path for path in (tmp_path / "out").glob("*.pth") if "_head" not in path.name)
        case.model.load_state_dict(torch.load(file))  # strictly
    else:
        _, info = hf.SamModel.from_pretrained(tmp_path / "out", output_loading_info=True)
        assert not (info["unexpected_keys"] or info["mismatched_keys"])
    assert load_pretrained(tmp_path / "out").card.num_classes == 5


@pytest.mark.parametrize(("source", "layout"), [("clip hf", "hf"), ("clip hf", "open_clip"), ("clip hf", "openai")])
@pytest.mark.parametrize("pool", ["cls", "mean", "cls_mean"])
def test_a_head_of_clip_stands_beside_it(loaded, tmp_path, source, layout, pool):
    found = loaded(source).ours
    card = dataclasses.replace(found.card, head=LinearHeadConfig(5, pool))
    head = new_head(card.spec, card.head, seed=0)
    save_model(tmp_path / "ours", card, found.flat | head)
    export(tmp_path / "ours", tmp_path / "out", layout=layout)
    weight, _ = head_beside(tmp_path / "out")
    assert np.array_equal(weight.T, head["head.kernel"])
    if layout == "hf":
        _, info = hf.CLIPModel.from_pretrained(tmp_path / "out", output_loading_info=True)
        assert not (info["missing_keys"] or info["unexpected_keys"] or info["mismatched_keys"])
    else:
        (file,) = (path for path in (tmp_path / "out").iterdir() if path.suffix == ".pth" or "open_clip_m" in path.name)
        state = torch.load(file) if file.suffix == ".pth" else load_file(file)
        clip_modules.CLIP().load_state_dict(state)  # strictly
