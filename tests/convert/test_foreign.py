"""Files and folders that hold no weights of ours say what they hold, and what to give in their place."""

import json

import pytest
import torch
import transformers as hf

from convert.load import load_pretrained
from convert.readers import open_source
from jaxdino.core.errors import UserError

SMALL = dict(
    hidden_size=32, num_hidden_layers=1, num_attention_heads=2, patch_size=8, image_size=16, intermediate_size=32
)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The files of a small ViT of transformers."""
    folder = tmp_path_factory.mktemp("vit")
    hf.ViTModel(hf.ViTConfig(**SMALL)).save_pretrained(folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def fill(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("w.pth", b"GGUF\x03\0\0\0" + b"\0" * 60, "a GGUF file"),
        ("w.onnx", b"\x08\x08\x12\x07pytorch" + b"\0" * 60, "an ONNX graph"),
        ("w.pth", b'{"error": "Repository not found"}', "a JSON text"),
        ("w.7z", b"7z\xbc\xaf'\x1c" + b"\0" * 60, "a 7z archive"),
        ("w.tar.xz", b"\xfd7zXZ\0" + b"\0" * 60, "an xz archive"),
    ],
)
def test_a_file_of_another_kind_is_named(tmp_path, name, content, says):
    with pytest.raises(UserError, match=says):
        open_source(fill(tmp_path, {name: content}) / name)


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["adapter_model.safetensors", "adapter_config.json"], "without its base model.*merge_and_unload"),
        (["latest", "zero_to_fp32.py"], "DeepSpeed.*zero_to_fp32.py"),
        (["tf_model.h5", "config.json"], "TensorFlow or Flax"),
    ],
)
def test_a_folder_without_weights_says_the_way_out(tmp_path, names, says):
    with pytest.raises(UserError, match=says):
        open_source(fill(tmp_path, dict.fromkeys(names, b"{}")))


def test_the_folder_above_a_trainers_checkpoints_names_them(tmp_path, saved):
    for step in (500, 1000):
        fill(tmp_path / f"checkpoint-{step}", {**saved, "training_args.bin": b"", "optimizer.pt": b""})
    with pytest.raises(UserError, match="in the folders checkpoint-1000, checkpoint-500: give one of them"):
        open_source(tmp_path)
    assert load_pretrained(tmp_path / "checkpoint-500").card.spec.config.num_heads == 2


def test_an_adapter_beside_its_base_is_not_passed_over(tmp_path, saved):
    fill(tmp_path, {**saved, "adapter_config.json": b"{}", "adapter_model.safetensors": b""})
    (note,) = [note for note in load_pretrained(tmp_path).notes if "adapter" in note]
    assert note.startswith("warning: ") and "was not applied" in note


def test_a_variant_is_read_with_its_config(tmp_path, saved):
    """As `save_pretrained(variant="fp16")` names it."""
    files = {name.replace("model.", "model.fp16."): content for name, content in saved.items()}
    assert "model.fp16.safetensors" in files
    assert load_pretrained(fill(tmp_path, files)).card.spec.config.num_heads == 2


def test_a_byte_order_mark_is_passed_over(tmp_path, saved):
    fill(tmp_path, saved | {"config.json": b"\xef\xbb\xbf" + saved["config.json"]})
    assert load_pretrained(tmp_path).card.spec.config.num_heads == 2


def test_the_config_of_a_model_around_the_vit_is_followed(tmp_path):
    """A depth or caption model keeps its image tower's config inside its own."""
    config = hf.ViTConfig(**SMALL, layer_norm_eps=0.01)
    state = hf.ViTModel(config).state_dict()
    torch.save({f"encoder.{key}": tensor for key, tensor in state.items()}, tmp_path / "pytorch_model.bin")
    outer = {"model_type": "vision-encoder-decoder", "encoder": config.to_dict(), "decoder": {"model_type": "gpt2"}}
    (tmp_path / "config.json").write_text(json.dumps(outer))
    found = load_pretrained(tmp_path).card.spec.config
    assert (found.num_heads, found.norm_eps) == (2, 0.01)
