"""Files that we write: the same layout gives back the same bits, another layout the same outputs."""

import dataclasses
import functools
import json
from pathlib import Path

import jax
import numpy as np
import pytest
import torch
import transformers as hf

import jaxdino
from convert.__main__ import main
from convert.atomic import atomic_folder
from convert.export import export
from convert.hub import find
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
    return next((path for path in out.glob("*.pth") if "_head" not in path.name), out)


@functools.lru_cache(maxsize=1)
def forward(spec, **how):
    """(parameters, images) -> logits; compiled once for the layouts of a model."""
    skeleton = spec.skeleton(**how)
    return jax.jit(lambda flat, x: bind(skeleton, flat)(x).logits)


def logits(card: Card, flat, pixels: torch.Tensor) -> np.ndarray:
    answer = forward(card.spec, num_classes=card.num_classes, pool=card.pool)
    return np.asarray(answer(flat, channels_last(pixels)))


def with_head(found, classes: int = 5):
    """The model as fine-tuning leaves it: another size, a head of its own with weights that matter."""
    spec = found.card.spec
    spec = dataclasses.replace(spec, preprocess=dataclasses.replace(spec.preprocess, size=(SIDE + 8, SIDE + 8)))
    names = tuple("abcde")
    card = dataclasses.replace(found.card, spec=spec, head=spec.linear(classes), class_names=names)
    head = new_head(spec, card.head, seed=0)
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


@pytest.mark.parametrize(
    ("name", "pool"),
    [
        ("vit_tiny_patch16_224", "mean"),
        ("dinov2_vits14", "cls"),
        ("dinov3_vits16", "cls"),
        pytest.param("vit_tiny_patch16_224", "cls", marks=pytest.mark.soak),
        pytest.param("dinov2_vits14", "mean", marks=pytest.mark.soak),
        pytest.param("dinov3_vits16", "mean", marks=pytest.mark.soak),
    ],
)
def test_timm_loads_what_we_export(tmp_path, name, pool):
    import timm

    from jaxdino.core.params import split
    from jaxdino.models import registry

    spec = registry.get(name)
    side = 2 * spec.config.patch_size if spec.config.positions == "rope" else 224
    spec = dataclasses.replace(spec, preprocess=dataclasses.replace(spec.preprocess, size=(side, side)))
    _, flat = split(spec.build(3, pool=pool))
    rng = np.random.default_rng(0)
    flat = {
        path: array if "rope" in path else rng.normal(0, 0.05, array.shape).astype(np.float32)
        for path, array in flat.items()
    }
    card = Card(spec, spec.linear(3, pool), class_names=("a", "b", "c"))
    save_model(tmp_path / "ours", card, flat)
    export(tmp_path / "ours", tmp_path / "out", layout="timm")
    model = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    pixels = images(side, side)[:1]
    with torch.no_grad():
        theirs = model(pixels).numpy()
    np.testing.assert_allclose(theirs, logits(card, flat, pixels), atol=1e-4)


def names(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()}


def test_overwriting_another_layout_leaves_nothing_stale(loaded, tmp_path):
    card, flat = with_head(load_pretrained(loaded("hf dinov3").path))
    save_model(tmp_path / "ours", card, flat)
    out, pth = tmp_path / "out", f"{card.spec.name}.pth"
    expected = {
        "hf": {"config.json", "head.safetensors", "jaxdino.json", "model.safetensors", "preprocessor_config.json"},
        "meta": {"jaxdino.json", pth, f"{card.spec.name}_linear_head.pth"},
        "timm": {"config.json", "jaxdino.json", "model.safetensors"},
    }
    for layout in ("hf", "meta", "hf", "timm", "meta"):
        export(tmp_path / "ours", out, layout=layout, overwrite=True)
        assert names(out) == expected[layout]
        again = load_pretrained(out)  # the folder itself, in every layout
        assert (again.card.layout, again.card.num_classes) == (layout, 5)
    (out / "jaxdino.json").unlink()
    assert load_pretrained(out, num_heads=card.spec.config.num_heads).card.layout == "meta"
    assert names(tmp_path) == {"ours", "out"}


def test_a_users_files_are_never_overwritten(loaded, tmp_path):
    found = loaded("hf dinov3").ours
    out = tmp_path / "out"
    save_model(out, found.card, found.flat)
    (out / "thesis.tex").write_text("years of work")
    with pytest.raises(jaxdino.UserError, match=r"holds thesis\.tex, which we did not write"):
        save_model(out, found.card, found.flat, overwrite=True)
    (out / "thesis.tex").rename(tmp_path / "thesis.tex")
    with pytest.raises(jaxdino.UserError, match=r"holds model\.json, params"):
        export(out, out, overwrite=True)
    with pytest.raises(jaxdino.UserError, match=r"holds .*thesis\.tex"):
        export(out, tmp_path, overwrite=True)
    assert names(tmp_path) == {"out", "thesis.tex"}


def test_a_failed_write_leaves_what_was_there(loaded, tmp_path, monkeypatch):
    found, out, ours = loaded("hf dinov3").ours, tmp_path / "out", tmp_path / "ours"
    save_model(ours, found.card, found.flat)
    export(ours, out, layout="hf")
    before = {name: (out / name).read_bytes() for name in names(out)}

    def fail(*args):
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr("convert.export._notes", fail)
        with pytest.raises(jaxdino.UserError, match="disk full"):
            export(ours, out, layout="meta", overwrite=True)
        patch.setattr("convert.store.Card.to_json", fail)
        with pytest.raises(jaxdino.UserError, match="disk full"):
            save_model(ours, found.card, found.flat, overwrite=True)
    assert {name: (out / name).read_bytes() for name in names(out)} == before
    assert load_model(ours)[0].digest == found.card.digest and names(tmp_path) == {"ours", "out"}


def test_leftovers_of_a_kill_are_mended(loaded, tmp_path):
    found, ours = loaded("hf dinov3").ours, tmp_path / "ours"
    save_model(ours, found.card, found.flat)
    for name in (".ours-abcd1234.part", ".ours-abcd1234.old", ".ours-notes", ".ours-2-abcd1234.part"):
        (tmp_path / name).mkdir()
    save_model(ours, found.card, found.flat, overwrite=True)
    assert names(tmp_path) == {"ours", ".ours-notes", ".ours-2-abcd1234.part"}
    ours.rename(tmp_path / ".ours-abcd1234.old")  # killed between the two renames
    with pytest.raises(RuntimeError), atomic_folder(ours):
        raise RuntimeError
    assert load_model(ours)[0].digest == found.card.digest


def test_a_model_of_ours_takes_no_overrules(loaded, tmp_path):
    found = loaded("hf dinov3").ours
    save_model(tmp_path / "ours", found.card, found.flat)
    with pytest.raises(jaxdino.UserError, match="--prefix, --num_heads"):
        load_pretrained(tmp_path / "ours", prefix="teacher", num_heads=4)


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
    (folder / "seal.json").unlink()
    with pytest.raises(jaxdino.UserError, match="damaged"):
        load_model(folder)


def test_command_line(loaded, tmp_path, capsys):
    case = loaded("hf dinov2 head")
    out = tmp_path / "ours"
    assert main(["import", str(case.path), "--out", str(out)]) == 0
    assert main(["import", str(case.path), "--out", str(out)]) == 2
    assert "not empty" in capsys.readouterr().err
    for src, layout in ((case.path, "hf"), (out, "jaxdino (from hf)")):
        assert main(["inspect", str(src)]) == 0
        said = capsys.readouterr().out
        assert case.ours.card.digest in said and f"layout     {layout}\n" in said and "head.kernel" not in said
    assert main(["inspect", str(out), "--parameters"]) == 0
    rows = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert {row[0].strip() for row in rows[1:]} == set(case.ours.flat)
    (kernel,) = [row for row in rows if row[0].strip() == "head.kernel"]
    assert float(kernel[5]) == pytest.approx(float(np.std(case.ours.flat["head.kernel"])), rel=1e-2)
    assert main(["verify", str(case.path)]) == 0
    assert "the models agree" in capsys.readouterr().out
    assert main(["inspect", str(tmp_path / "nothing.pth")]) == 2
    assert main(["export", str(out), "--format", "meta", "--out", str(tmp_path / "x.pth")]) == 2
    assert "folder" in capsys.readouterr().err


def test_hub_repository_without_safetensors(loaded, tmp_path, monkeypatch):
    """The second try takes the older file; a published name means the model, whatever folder lies around."""
    import huggingface_hub

    case, asked = loaded("hf dinov2"), []
    published = {key: torch.from_numpy(array) for key, array in tensors(case.path).items()}
    torch.save(published, tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text((case.path / "config.json").read_text())
    (tmp_path / "dinov2_vits14").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda repo, allow_patterns: asked.append(allow_patterns) or str(tmp_path)
    )
    assert load_pretrained("someone/dinov2").card.layout == "hf"
    assert len(asked) == 2 and "pytorch_model*.bin" in asked[1]
    assert find("dinov2_vits14") == tmp_path and find("./dinov2_vits14").name == "dinov2_vits14"


@pytest.mark.parametrize("name", ["hf dinov3", "hf vit head"])
def test_verify_says_what_it_cannot_check_without_config_json(loaded, tmp_path, capsys, name):
    (tmp_path / "model.safetensors").write_bytes((loaded(name).path / "model.safetensors").read_bytes())
    assert main(["verify", str(tmp_path / "model.safetensors"), "--num_heads", "4"]) == 0
    said = capsys.readouterr().out
    assert (
        "against transformers" in said and "not checked: config.json is missing beside the weights: its heads" in said
    )


def test_verify_runs_the_file_that_is_given(loaded, tmp_path):
    """Not the other weights beside it, which transformers would open in that folder."""
    folder = loaded("hf dinov3").path
    for file in ("model.safetensors", "config.json"):
        (tmp_path / file).write_bytes((folder / file).read_bytes())
    other = {key: torch.from_numpy(array * 0.9) for key, array in tensors(folder).items()}
    torch.save(other, tmp_path / "other.pth")
    assert main(["verify", str(tmp_path / "other.pth"), "--num_heads", "4"]) == 0
