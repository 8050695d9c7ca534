"""Parts of a segmenter as models of their own: the same features in PyTorch, adapters merged or apart."""

import dataclasses

import jax
import numpy as np
import pytest
import torch
import transformers as hf

import jaxdino
from convert.__main__ import main
from convert.load import load_pretrained, open_pretrained
from convert.parts import part_of
from convert.peft import load_adapter
from convert.store import load_card
from jaxdino.core.params import bind
from jaxdino.models.lora import LoRA, bare, leaves, merged
from tests import tiny_segmenter

peft = pytest.importorskip("peft")
IMAGES = np.random.default_rng(0).integers(0, 256, (2, 32, 24, 3), np.uint8)


def segmenter(folder):
    """The model as it was saved, adapters and all: (spec, skeleton, flat)."""
    found = load_pretrained(folder)
    return found.card.spec, found.card.spec.skeleton(), found.flat


def pixels(spec):
    """The images normalised, float32."""
    mean, std = (np.asarray(v, np.float32) for v in (spec.preprocess.mean, spec.preprocess.std))
    return (IMAGES / np.float32(255) - mean) / std


def features(folder):
    """What the segmenter's projection reads: DINO's patch tokens (B, h, w, D)."""
    spec, skeleton, flat = segmenter(folder)
    return jax.jit(lambda flat, x: bind(skeleton, flat).backbone.dino(x).patches)(flat, pixels(spec))


def theirs(model, spec):
    """The patch tokens of a DINOv3 of transformers."""
    with torch.no_grad():
        out = model.eval()(pixel_values=torch.from_numpy(pixels(spec).transpose(0, 3, 1, 2).copy()))
    tokens = out.last_hidden_state[:, 5:].numpy()
    return tokens.reshape(2, 8, 6, -1)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    tiny_segmenter.save(folder, clip_lora=LoRA(rank=2, targets=("@mlp",)))
    return folder


def test_dino_gives_the_features_that_the_projection_reads(run, tmp_path):
    assert main(["export", "--workdir", str(run), "--part", "dino", "--format", "hf", "--out", str(tmp_path)]) == 0
    model, wanted = jaxdino.load(tmp_path), features(run)
    assert (model.name, model.card.layout) == ("dinov3_custom", "hf") and not leaves(model.flat)
    assert model.card.spec.preprocess == tiny_segmenter.spec().preprocess
    np.testing.assert_allclose(model(IMAGES).patches, wanted, atol=1e-5)
    np.testing.assert_allclose(theirs(hf.AutoModel.from_pretrained(tmp_path), model.card.spec), wanted, atol=1e-5)


@pytest.mark.parametrize(
    ("family", "lora"), [("dino", None), ("dinov2", LoRA(rank=3, targets=("@attn",), rslora=True, dora=True))]
)
def test_other_families_keep_their_name(family, lora, tmp_path):
    tiny_segmenter.save(tmp_path / "run", family, dino_lora=lora)
    assert main(["export", "--workdir", str(tmp_path / "run"), "--part", "dino", "--out", str(tmp_path / "out")]) == 0
    model = jaxdino.load(tmp_path / "out")
    assert model.name == f"{family}_custom"
    np.testing.assert_allclose(model(IMAGES).patches, features(tmp_path / "run"), atol=1e-5)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")
def test_the_adapter_goes_on_the_base_in_peft(run, tmp_path):
    out, base = tmp_path / "adapter", tmp_path / "base"
    assert main(["export", "--workdir", str(run), "--part", "dino", "--adapter", "--out", str(out)]) == 0
    spec, _, flat = segmenter(run)
    plain = dataclasses.replace(spec, config=spec.config.bare())
    card = dataclasses.replace(load_card(run / "best"), spec=plain)
    tiny_segmenter.save_model(base / "best", card, {p: flat[p] for p in plain.skeleton().entries})
    assert main(["export", "--workdir", str(base), "--part", "dino", "--format", "hf", "--out", str(base / "hf")]) == 0
    model = hf.AutoModel.from_pretrained(base / "hf")
    assert np.abs(theirs(model, spec) - features(run)).max() > 1e-2
    model = peft.PeftModel.from_pretrained(model, out)
    np.testing.assert_allclose(theirs(model, spec), features(run), atol=1e-5)


def test_the_adapter_is_read_back_bit_for_bit(run, tmp_path):
    assert main(["export", "--workdir", str(run), "--part", "dino", "--adapter", "--out", str(tmp_path / "a")]) == 0
    with open_pretrained(run) as opened:
        part = part_of(opened, "dino", merge=False)
        flat = {path: np.asarray(leaf) for path, leaf in part.flat.items()}
    aside = set(leaves(flat))
    plain = {path: leaf for path, leaf in flat.items() if path not in aside}
    read = load_adapter(tmp_path / "a", part.card.spec, bare(part.skeleton), plain)
    assert len(aside) == 6 and set(read.flat) == set(flat)
    assert all(np.array_equal(read.flat[path], flat[path]) for path in flat)
    whole = segmenter(run)[2]
    assert all(np.array_equal(flat[p], whole[p.replace("backbone.", "backbone.dino.", 1)]) for p in flat)
    own = {p.replace("backbone.dino.", "backbone."): a for p, a in merged(*segmenter(run)[1:]).items()}
    again = merged(read.skeleton, read.flat)
    assert all(np.array_equal(again[path], own[path]) for path in plain)


def test_clip_gives_the_prompts_features_in_transformers(run, tmp_path):
    assert main(["export", "--workdir", str(run), "--part", "clip", "--format", "hf", "--out", str(tmp_path)]) == 0
    model, ours = hf.CLIPTextModelWithProjection.from_pretrained(tmp_path).eval(), jaxdino.load(run)
    ids = jaxdino.load(tmp_path).tokenize(tiny_segmenter.PROMPTS)
    with torch.no_grad():
        texts = model(input_ids=torch.from_numpy(ids).long()).text_embeds.numpy()
    texts /= np.linalg.norm(texts, axis=-1, keepdims=True)
    np.testing.assert_allclose(ours.encode_prompts(tiny_segmenter.PROMPTS), texts, atol=1e-5)


def test_files_of_the_tokenizer_go_with_clip_alone(tmp_path):
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / name).write_text("{}")
    tiny_segmenter.save(tmp_path / "run", companions=[tmp_path / "vocab.json", tmp_path / "merges.txt"])
    for part in ("clip", "dino"):
        where = str(tmp_path / part)
        assert (
            main(["export", "--workdir", str(tmp_path / "run"), "--part", part, "--format", "hf", "--out", where]) == 0
        )
        assert (tmp_path / part / "merges.txt").is_file() == (part == "clip")


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ([], "export a part, --part dino or clip"),
        (["--part", "dina"], "no part 'dina'; nearest: dino"),
        (["--part", "dino", "--format", "onnx"], "no dinov3 layout 'onnx'"),
        (["--adapter"], "give --part dino or --part clip"),
        (["--part", "dino", "--adapter", "--dtype", "float16"], "an adapter keeps its dtype"),
        (["--part", "dino", "--adapter", "--format", "onnx"], "no dinov3 layout 'onnx'"),
    ],
)
def test_what_cannot_be_is_one_clear_error(run, args, words, tmp_path, capsys):
    assert main(["export", "--workdir", str(run), "--out", str(tmp_path / "out"), *args]) == 2
    assert words in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_other_models_have_no_parts_and_merged_parts_no_adapter(tmp_path, capsys):
    assert main(["export", "dinov3_digits", "--part", "dino", "--out", str(tmp_path / "out")]) == 2
    assert "this is a dinov3_digits" in capsys.readouterr().err
    tiny_segmenter.save(tmp_path / "run", dino_lora=None)
    args = ["export", str(tmp_path / "run"), "--part", "dino", "--adapter", "--out", str(tmp_path / "out")]
    assert main(args) == 2 and "already merged" in capsys.readouterr().err


def test_inspect_tells_parts_and_adapters(run, capsys):
    assert main(["inspect", str(run)]) == 0
    told = capsys.readouterr().out
    assert "dino: patch_size 4, width 24" in told and "clip: image_tower None, text_tower width 32" in told
    assert "adapter of dino: rank 2, on q, v, fc1; adapter of clip: rank 2, on @mlp" in told
