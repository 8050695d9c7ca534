"""Files that we write: the same layout gives back the same bits, another layout the same outputs."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
import torch
import transformers as hf

import jaxdino
from convert.__main__ import main
from convert.export import export
from convert.load import load_pretrained, new_head
from convert.readers import open_source
from convert.store import Card, load_model, save_model
from jaxdino.core.params import bind
from tests.parity.all_cases import CASES
from tests.parity.cases import GRID, PATCH
from tests.parity.drawing import channels_last, images

SIDE = GRID * PATCH


def tensors(path: Path) -> dict[str, np.ndarray]:
    """Every tensor of a checkpoint, its network's prefix as it is."""
    with open_source(path) as source:
        return {key: source.read(key) for key in source.keys()}  # noqa: SIM118


def written(out: Path) -> Path:
    """The checkpoint in a folder that export wrote."""
    return next(out.glob("*.pth"), out)


def logits(card: Card, flat, pixels: torch.Tensor) -> np.ndarray:
    model = bind(card.spec.skeleton(card.num_classes, pool=card.pool), flat)
    return np.asarray(jax.jit(lambda x: model(x).logits)(channels_last(pixels)))


def with_head(found, classes: int = 5):
    """The model as fine-tuning leaves it: another size, a head of its own with weights that matter."""
    import dataclasses

    spec = found.card.spec
    spec = dataclasses.replace(spec, preprocess=dataclasses.replace(spec.preprocess, size=(SIDE + 8, SIDE + 8)))
    names = tuple("abcde")
    card = dataclasses.replace(found.card, spec=spec, num_classes=classes, class_names=names, pool=spec.pool)
    head = new_head(spec, classes, spec.pool, seed=0)
    rng = np.random.default_rng(0)
    head = {path: rng.normal(0, 0.3, array.shape).astype(np.float32) for path, array in head.items()}
    return card, found.flat | head


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_same_layout_is_bit_identical(loaded, tmp_path, name, dtype):
    case = loaded(name)
    if dtype == "bfloat16":  # the original in bfloat16, as the source
        model = case.case.build().to(torch.bfloat16)
        model.load_state_dict({k: v.to(torch.bfloat16) for k, v in case.model.state_dict().items()})
        (tmp_path / "half").mkdir()
        source = case.case.save(model, tmp_path / "half")
    else:
        source = case.path
    found = load_pretrained(source, **case.case.overrules)
    save_model(tmp_path / "ours", found.card, found.flat)
    export(tmp_path / "ours", tmp_path / "out")
    with open_source(source) as opened:
        prefix = found.card.source["prefix"]
        before = {k.removeprefix(prefix): opened.read(k) for k in opened.keys()}  # noqa: SIM118
    after = {k.removeprefix(prefix): v for k, v in tensors(written(tmp_path / "out")).items()}
    assert before.keys() == after.keys()
    for key, array in before.items():
        assert array.dtype == after[key].dtype and array.tobytes() == after[key].tobytes(), key


@pytest.mark.parametrize("layout", ["hf", "meta", "timm"])
@pytest.mark.parametrize("name", [name for name in CASES if "no bias" not in name])
def test_other_layout_gives_the_same_logits(loaded, tmp_path, name, layout):
    case = loaded(name)
    found = load_pretrained(case.path, drop_head=True, **case.case.overrules)
    card, flat = with_head(found)
    save_model(tmp_path / "ours", card, flat)
    if (card.spec.family, layout) == ("vit", "meta"):
        with pytest.raises(jaxdino.UserError, match="no vit layout 'meta'"):
            export(tmp_path / "ours", tmp_path / "out", layout=layout)
        return
    notes = export(tmp_path / "ours", tmp_path / "out", layout=layout)
    again = load_pretrained(written(tmp_path / "out"))
    assert (again.card.num_classes, again.card.pool, again.card.class_names) == (5, card.pool, tuple("abcde"))
    assert again.card.spec.preprocess == card.spec.preprocess
    periods = any("RoPE" in note for note in notes)  # rounded to bfloat16 in the source, and export said so
    pixels = images(SIDE + 8, SIDE + 8)
    ours = logits(card, flat, pixels)
    np.testing.assert_allclose(logits(again.card, again.flat, pixels), ours, atol=0.3 if periods else 1e-4)


@pytest.mark.parametrize(
    ("name", "auto"),
    [("hf dino", "ViT"), ("hf dinov2", "Dinov2"), ("hf dinov2 reg", "Dinov2WithRegisters")],
)
def test_transformers_classifies_what_we_export(loaded, tmp_path, name, auto):
    case = loaded(name)
    card, flat = with_head(load_pretrained(case.path))
    save_model(tmp_path / "ours", card, {k: v for k, v in flat.items()})
    assert main(["export", str(tmp_path / "ours"), "--format", "hf", "--out", str(tmp_path / "out")]) == 0
    model = getattr(hf, f"{auto}ForImageClassification").from_pretrained(tmp_path / "out").eval()
    assert model.config.id2label == dict(enumerate("abcde"))
    pixels = images(SIDE + 8, SIDE + 8)
    extra = {"interpolate_pos_encoding": True} if auto == "ViT" else {}
    with torch.no_grad():
        theirs = model(pixels, **extra).logits.numpy()
    np.testing.assert_allclose(theirs, logits(card, flat, pixels), atol=1e-4)


def test_dinov3_head_stands_beside_the_backbone(loaded, tmp_path):
    case = loaded("hf dinov3")
    card, flat = with_head(load_pretrained(case.path))
    save_model(tmp_path / "ours", card, flat)
    notes = export(tmp_path / "ours", tmp_path / "out", layout="hf")
    assert any("no classification class" in note for note in notes)
    pixels = images(SIDE + 8, SIDE + 8)
    backbone = hf.DINOv3ViTModel.from_pretrained(tmp_path / "out").eval()
    head = tensors(tmp_path / "out" / "head.safetensors")
    with torch.no_grad():
        cls = backbone(pixels).pooler_output.numpy()
    theirs = cls @ head["classifier.weight"].T + head["classifier.bias"]
    np.testing.assert_allclose(theirs, logits(card, flat, pixels), atol=1e-4)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "dinov3_vits16"])
def test_timm_loads_what_we_export(tmp_path, name):
    import timm

    from jaxdino.core.params import split
    from jaxdino.models import registry

    spec = registry.get(name)
    _, flat = split(spec.build(3))
    rng = np.random.default_rng(0)
    flat = {
        path: array if "rope" in path else rng.normal(0, 0.05, array.shape).astype(np.float32)
        for path, array in flat.items()
    }
    card = Card(spec, num_classes=3, class_names=("a", "b", "c"), layout="timm")
    save_model(tmp_path / "ours", card, flat)
    export(tmp_path / "ours", tmp_path / "out")
    model = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    pixels = images(224, 224)
    with torch.no_grad():
        theirs = model(pixels).numpy()
    np.testing.assert_allclose(theirs, logits(card, flat, pixels), atol=1e-4)


def test_store_detects_damage_and_refuses_to_overwrite(loaded, tmp_path):
    found = loaded("hf dinov3").ours
    folder = tmp_path / "ours"
    card = save_model(folder, found.card, found.flat)
    back, flat = load_model(folder)
    assert back == card and all(np.array_equal(flat[path], found.flat[path]) for path in flat)
    with pytest.raises(jaxdino.UserError, match="not empty"):
        save_model(folder, found.card, found.flat)
    text = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(text | {"digest": "0" * 64}))
    with pytest.raises(jaxdino.UserError, match="damaged"):
        load_model(folder)


def test_command_line(loaded, tmp_path, capsys):
    case = loaded("hf dinov2 head")
    out = tmp_path / "ours"
    assert main(["import", str(case.path), "--out", str(out)]) == 0
    assert main(["import", str(case.path), "--out", str(out)]) == 2
    assert "not empty" in capsys.readouterr().err
    for src in (case.path, out):
        assert main(["inspect", str(src)]) == 0
        assert case.ours.card.digest in capsys.readouterr().out
    assert main(["verify", str(case.path)]) == 0
    assert "the models agree" in capsys.readouterr().out
    assert main(["inspect", str(tmp_path / "nothing.pth")]) == 2
    assert main(["export", str(out), "--format", "meta", "--out", str(tmp_path / "x.pth")]) == 2
    assert "folder" in capsys.readouterr().err


def test_hub_without_network_says_where_to_get_the_file(monkeypatch):
    import huggingface_hub

    class GatedRepoError(Exception):
        pass

    def refuse(*args, **kwargs):
        raise GatedRepoError("401")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(
        jaxdino.UserError, match=r"gated.*huggingface.co/facebook/dinov3-vits16.*--config.model.weights"
    ):
        load_pretrained("dinov3_vits16")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *a, **k: (_ for _ in ()).throw(OSError("offline")))
    with pytest.raises(jaxdino.UserError, match=r"could not be fetched.*github.com/facebookresearch/dinov2"):
        load_pretrained("facebook/dinov2-small")
