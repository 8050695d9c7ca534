"""CLIP in a notebook: images and texts into one space, and errors that say what to do."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers as hf
from PIL import Image

import jaxdino
from convert.__main__ import main
from jaxdino import embed, search
from jaxdino.core.errors import UserError
from jaxdino.data import tokenizer
from jaxdino.models.clip_towers import TextConfig
from tests.parity.clip_modules import CLIP
from tests.parity.drawing import draw

VOCABULARY = 49408
VISION = dict(hidden_size=64, num_hidden_layers=1, num_attention_heads=1, intermediate_size=256, patch_size=4)
TEXT = dict(hidden_size=64, num_hidden_layers=1, num_attention_heads=1, intermediate_size=256)
PROMPTS = ["a photo of a cat", "two dogs"]


@pytest.fixture(scope="module")
def twins(tmp_path_factory):
    """transformers' tiny CLIP with the published vocabulary, and ours from its folder."""
    folder = tmp_path_factory.mktemp("clip")
    vision = VISION | {"image_size": 16, "projection_dim": 32}
    config = hf.CLIPConfig(text_config=TEXT | {"projection_dim": 32}, vision_config=vision, projection_dim=32)
    theirs = draw(hf.CLIPModel(config))
    theirs.save_pretrained(folder)
    hf.CLIPTextModel(config.text_config).save_pretrained(folder / "text")
    hf.CLIPVisionModel(config.vision_config).save_pretrained(folder / "image")
    return theirs, folder, jaxdino.load(folder)


@pytest.fixture(scope="module")
def pictures():
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (20, 24, 3), np.uint8)) for _ in range(3)]


def test_logits_of_pictures_and_texts_are_transformers(twins, pictures):
    theirs, _, model = twins
    images = model.preprocess(pictures)
    assert images.shape == (3, 16, 16, 3)
    image, text = model.encode_image(images, normalize=True), model.encode_text(PROMPTS, normalize=True)
    assert image.shape == (3, 32) and text.shape == (2, 32)
    mean, std = (np.asarray(v, np.float32) for v in (model.card.spec.preprocess.mean, model.card.spec.preprocess.std))
    pixels = torch.from_numpy(((images.astype(np.float32) / 255 - mean) / std).transpose(0, 3, 1, 2).copy())
    with torch.no_grad():
        out = theirs(input_ids=torch.from_numpy(model.tokenize(PROMPTS)).long(), pixel_values=pixels)
    np.testing.assert_allclose(model.logit_scale * image @ text.T, out.logits_per_image, atol=2e-5)
    np.testing.assert_allclose(image, out.image_embeds, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(text, axis=-1), 1, atol=1e-6)


def test_without_normalize_embeddings_keep_their_length(twins, pictures):
    model = twins[2]
    images = model.preprocess(pictures)
    np.testing.assert_array_equal(model.encode_image(images), model(images).pooled)
    plain, unit = model.encode_text(PROMPTS), model.encode_text(PROMPTS, normalize=True)
    np.testing.assert_allclose(plain / np.linalg.norm(plain, axis=-1, keepdims=True), unit, atol=1e-6)
    assert np.abs(np.linalg.norm(plain, axis=-1) - 1).max() > 0.1


def test_the_published_vocabulary(twins):
    ids = twins[2].tokenize(["a photo of a cat", "  A photo\nof a CAT ", "&lt;", ""])
    assert ids.shape == (4, 77) and ids.dtype == np.int32
    assert ids[0, :8].tolist() == [49406, 320, 1125, 539, 320, 2368, 49407, 0]
    np.testing.assert_array_equal(ids[0], ids[1])
    assert ids[2, :3].tolist() == [49406, 283, 49407] and ids[3, :3].tolist() == [49406, 49407, 0]


def test_prompts_in_templates():
    read = tokenizer.serving((), TextConfig())
    ids = read.prompts(["cat", "{}"], ["a photo of a {}", "{}"], 77)
    whole = read(["a photo of a cat", "cat", "a photo of a {}", "{}"], 77)
    np.testing.assert_array_equal(ids, whole.reshape(2, 2, 77))
    with pytest.raises(UserError, match=r"the prompt .cat. in the template .a photo of a \{\}. is 7 tokens .* takes 6"):
        read.prompts(["cat"], ["{}", "a photo of a {}"], 6)


def test_ids_give_what_texts_give_and_truncation_ends_in_the_mark(twins):
    model = twins[2]
    np.testing.assert_array_equal(model.encode_text(model.tokenize(PROMPTS)), model.encode_text(PROMPTS))
    long = model.tokenize(["cat " * 100], truncate=True)
    assert long.shape == (1, 77) and long[0, -1] == 49407 and (long[0, 1:-1] == 2368).all()
    model.encode_text(["cat " * 100], truncate=True)


def test_half_precision_is_close(twins, pictures):
    _, folder, model = twins
    half, images = jaxdino.load(folder, dtype="bfloat16"), model.preprocess(pictures)
    for full, low in (
        (model.encode_image(images, normalize=True), half.encode_image(images, normalize=True)),
        (model.encode_text(PROMPTS, normalize=True), half.encode_text(PROMPTS, normalize=True)),
    ):
        assert low.dtype == "bfloat16"
        assert 0 < np.abs(np.asarray(full) - np.asarray(low, np.float32)).max() < 0.05


@pytest.mark.filterwarnings("ignore:Deprecated in 0.9.0:DeprecationWarning")  # transformers 5.15 with older tokenizers
def test_a_folder_s_own_tokenizer_wins(twins, tmp_path):
    theirs, _, _ = twins
    theirs.save_pretrained(tmp_path)
    words = ["<|startoftext|>", "<|endoftext|>", "c", "a", "t</w>", "ca", "cat</w>"]
    ids = {word: i for i, word in enumerate(words)} | {"<|endoftext|>": 49407, "<|startoftext|>": 49406}
    (tmp_path / "vocab.json").write_text(json.dumps(ids))
    (tmp_path / "merges.txt").write_text("#version: 0.2\nc a\nca t</w>\n")
    model = jaxdino.load(tmp_path)
    assert model.tokenize(["cat"])[0, :4].tolist() == [49406, 6, 49407, 49407]  # transformers pads with the end mark
    by_ids = model.encode_text(np.array([[49406, 6, 49407]]))
    np.testing.assert_allclose(model.encode_text(["cat"]), by_ids, atol=1e-5)
    _travels(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "T5Tokenizer"}')
    with pytest.raises(jaxdino.UserError, match="T5Tokenizer"):
        jaxdino.load(tmp_path).tokenize(["cat"])


def _travels(folder: Path) -> None:
    """The tokenizer goes into our folder and out again with the weights, and nowhere else."""
    ours, out = folder / "ours", folder / "out"
    assert main(["import", str(folder), "--out", str(ours)]) == 0
    assert main(["export", str(ours), "--out", str(out)]) == 0
    for place in (ours, out):
        assert jaxdino.load(place).tokenize(["cat"])[0, 1] == 6
    assert (out / "merges.txt").read_bytes() == (folder / "merges.txt").read_bytes()
    assert main(["export", str(ours), "--out", str(out), "--overwrite", "--format", "openai"]) == 0
    assert not (out / "merges.txt").exists()


def test_half_precision_leaves_the_temperature_alone(twins):
    _, folder, model = twins
    half = jaxdino.load(folder, dtype="bfloat16")
    assert half.logit_scale == model.logit_scale
    assert half.flat["backbone.visual.cls_token"].dtype == "bfloat16"


def test_one_tower_alone(twins, pictures):
    _, folder, model = twins
    text, image = jaxdino.load(folder / "text"), jaxdino.load(folder / "image")
    assert text.encode_text(PROMPTS).shape == (2, 64)
    assert image.encode_image(model.preprocess(pictures)).shape == (3, 64)
    with pytest.raises(jaxdino.UserError, match="text tower alone"):
        text(model.preprocess(pictures))
    with pytest.raises(jaxdino.UserError, match="image tower alone"):
        image.encode_text(PROMPTS)
    with pytest.raises(jaxdino.UserError, match="no logit_scale"):
        _ = image.logit_scale


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda m: m.encode_text([]), "at least one string"),
        (lambda m: m.encode_text("a cat"), "a list"),
        (lambda m: m.encode_text(["a cat", 3]), "3 is of type int"),
        (lambda m: m.encode_text(["cat " * 76]), r"'cat cat.*78 tokens.*takes 77.*truncate=True"),
        (lambda m: m.encode_text(np.zeros((2, 78), int)), "L of 1 to 77"),
        (lambda m: m.encode_text(np.zeros((2, 7))), "float64"),
        (lambda m: m.encode_text(np.full((2, 7), VOCABULARY)), "0 to 49407"),
        (lambda m: m.encode_text(np.zeros((0, 7), int)), "at least one text"),
        (lambda m: m.encode_image(np.zeros((1, 15, 16, 3), np.uint8)), "multiples of 4"),
        (lambda m: m.encode_image(np.zeros((16, 16, 3), np.uint8)), "shape"),
    ],
)
def test_bad_input_is_one_clear_error(twins, call, words):
    with pytest.raises(jaxdino.UserError, match=words):
        call(twins[2])


def test_a_model_of_another_vocabulary_needs_its_own_tokenizer(tmp_path):
    torch.save(draw(CLIP(scalars=True)).state_dict(), tmp_path / "clip.pt")
    model = jaxdino.load(tmp_path / "clip.pt")
    with pytest.raises(jaxdino.UserError, match="this model has 99 tokens"):
        model.encode_text(PROMPTS)
    assert model.encode_text(np.array([[97, 5, 98]])).shape == (1, 48)


def test_a_tokenizer_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{")
    assert tokenizer.is_tokenizer(tmp_path)
    with pytest.raises(jaxdino.UserError, match="cannot be read"):
        tokenizer.from_folder(tmp_path)


def test_without_the_package_the_way_out_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "instant_clip_tokenizer", None)
    with pytest.raises(jaxdino.UserError, match="not installed: put the tokenizer's files beside the weights"):
        tokenizer.published()


def test_texts_find_images_in_a_file_of_embeddings(twins, tmp_path, capsys):
    _, folder, model = twins
    rng, root = np.random.default_rng(1), tmp_path / "images"
    root.mkdir()
    for name in "abc":
        Image.fromarray(rng.integers(0, 256, (20, 24, 3), np.uint8)).save(root / f"{name}.png")
    file = str(tmp_path / "e.parquet")
    assert embed.main(["--weights", str(folder), "--root", str(root), "--out", file]) == 0
    assert search.main(["--embeddings", file, "--text", *PROMPTS, "--top", "3"]) == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()[1:]]
    images = model.encode_image(model.preprocess([str(root / f"{name}.png") for name in "abc"]), normalize=True)
    cosines = np.asarray(model.encode_text(PROMPTS, normalize=True) @ images.T)
    for text, row in zip(PROMPTS, cosines, strict=True):
        mine = [line for line in lines if line[0] == text]
        assert [line[2] for line in mine] == [f"{'abc'[i]}.png" for i in np.argsort(-row)]
        np.testing.assert_allclose([float(line[1]) for line in mine], np.sort(row)[::-1], atol=1e-4)
