"""JSON that a stranger wrote, flags that cannot be, disks that fail: one error, its exit status, and nothing left."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from convert import export as exporting
from convert import store
from convert.__main__ import main
from convert.load import load_pretrained
from convert.readers import open_source

WEIGHTS, NORM, OURS = "model.safetensors", "norm.weight", "backbone.norm.scale"


@pytest.fixture(scope="module")
def hf(tmp_path_factory):
    """The embedded model as a Hugging Face folder, with a head of two classes."""
    folder = tmp_path_factory.mktemp("plausible") / "hf"
    assert main(["export", "dinov3_digits", "--format", "hf", "--out", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plausible") / "ours"
    assert main(["import", "dinov3_digits", "--out", str(folder)]) == 0
    return folder


def changed(folder, copy, file: str, content) -> str:
    """A copy of the folder in which a JSON file says more, or something else altogether."""
    shutil.copytree(folder, copy)
    own = json.loads((copy / file).read_text()) if (copy / file).is_file() else {}
    (copy / "seal.json").unlink(missing_ok=True)  # see test_seal.py
    (copy / file).write_text(content if isinstance(content, str) else json.dumps(own | content))
    return str(copy)


JSON = [
    ("config.json", {"layer_norm_eps": "x"}, "norm_eps"),
    ("config.json", {"rope_theta": [1]}, "rope_base"),
    ("config.json", {"id2label": [1, 2]}, "cannot be understood"),
    ("config.json", {"id2label": {"a": "b"}}, "cannot be understood"),
    ("preprocessor_config.json", {"rescale_factor": "x"}, "cannot be understood"),
    ("preprocessor_config.json", {"size": {"shortest_edge": "x"}}, "cannot be understood"),
    ("jaxdino.json", {"preprocess": 3}, "cannot be understood"),
    ("jaxdino.json", {"preprocess": {"std": [0.1, 0, 0.1]}}, "images cannot be prepared"),
    ("jaxdino.json", {"preprocess": {"size": [0, 8]}}, "images cannot be prepared"),
    ("jaxdino.json", {"preprocess": {"mean": "red"}}, "mean is 'red'"),
    ("jaxdino.json", {"layout": 3}, "cannot be understood"),
    ("jaxdino.json", {"model": []}, "cannot be understood"),
]


@pytest.mark.parametrize(("file", "content", "words"), JSON)
def test_json_beside_the_weights(hf, tmp_path, capsys, file, content, words):
    assert main(["import", changed(hf, tmp_path / "in", file, content), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and words in error and str(tmp_path / "in") in error
    assert [entry.name for entry in tmp_path.iterdir()] == ["in"]


def spec(card: dict, part: str, **fields) -> dict:
    return {"spec": card["spec"] | {part: card["spec"][part] | fields}}


CARDS = [
    ("{", "model.json: not valid JSON"),
    ("[]", "model.json: must be an object, not a list"),
    ({"more": 1}, "cannot be understood"),
    ({"head": {"name": "linear", "num_classes": "x"}}, "model.json: head has num_classes='x'"),
    ({"head": {"name": "linear", "num_classes": -1}}, "num_classes=-1"),
    ({"head": {"name": "linear", "num_classes": 3}}, "differ in head"),
    ({"head": {"name": "patches", "num_classes": 3, "blocks": [1, 99]}}, "blocks is 99, but only"),
    ({"head": {"name": "linea"}}, "linear"),
    ({"head": {"name": "linear", "bloks": 3}}, "has no field 'bloks'"),
    ({"head": 3}, "cannot be understood"),
    ({"source": 3}, "source"),
    (lambda card: spec(card, "config", width="x"), "width is 'x'"),
    (lambda card: spec(card, "config", depth=10**9), "depth is 1000000000"),
    (lambda card: spec(card, "config", depth=0), "differ in backbone.blocks.0"),
    (lambda card: spec(card, "config", depth=16_000_000), "depth is 16000000, but only"),
    (lambda card: spec(card, "config", num_heads=10**7), "model.json: cannot be understood: ZeroDivisionError"),
    ({"class_names": "ab"}, "class_names must be a list of texts"),
    ({"class_names": [1, 2]}, "class_names must be a list of texts"),
    (lambda card: spec(card, "preprocess", size=[0, 0]), "images cannot be prepared"),
]


@pytest.mark.parametrize(("content", "words"), CARDS)
def test_a_card_that_is_not_of_the_parameters(ours, tmp_path, capsys, content, words):
    if callable(content):
        content = content(json.loads((ours / "model.json").read_text()))
    src = changed(ours, tmp_path / "in", "model.json", content)
    for command in (["inspect", src], ["export", src, "--out", str(tmp_path / "out")]):
        assert main(command) == 2
        assert words in capsys.readouterr().err
    assert [entry.name for entry in tmp_path.iterdir()] == ["in"]


FLAGS = [("import", "--num_heads", "0"), ("import", "--num_heads", "-2")]
FLAGS += [("export", "--max_shard_size", size) for size in ("0", "-1", "nan", "inf")]


@pytest.mark.parametrize(("command", "flag", "value"), FLAGS)
def test_flags_that_cannot_be(hf, tmp_path, capsys, command, flag, value):
    with pytest.raises(SystemExit) as caught:
        main([command, str(hf), "--out", str(tmp_path / "out"), flag, value])
    assert caught.value.code == 2 and "number above zero" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["a" * 300, "a\0b"])
@pytest.mark.parametrize("command", ["import", "export"])
def test_a_name_that_no_folder_has(hf, tmp_path, capsys, command, name):
    assert main([command, str(hf), "--out", str(tmp_path / name)]) == 2
    assert capsys.readouterr().err.startswith("error: ") and not any(tmp_path.iterdir())


def test_warnings_reach_the_user_of_export(hf, tmp_path, capsys):
    """NaN in the source, and numbers that half precision has no room for."""
    shutil.copytree(hf, tmp_path / "in")
    tensors = load_file(hf / WEIGHTS)
    tensors[NORM] = np.where(np.arange(len(tensors[NORM])) == 1, np.float32(1e6), tensors[NORM])
    save_file(tensors, tmp_path / "in" / WEIGHTS, metadata={"format": "pt"})
    assert main(["export", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--dtype", "float16"]) == 0
    assert f"values of {NORM} are too large for float16" in capsys.readouterr().out
    assert main(["export", str(tmp_path / "out"), "--out", str(tmp_path / "again")]) == 0
    assert f"warning: NaN or infinity in {OURS}" in capsys.readouterr().out


class Usage:
    free = 1000


def test_a_full_disk(hf, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(store.shutil, "disk_usage", lambda folder: Usage)
    assert main(["import", str(hf), "--out", str(tmp_path / "out")]) == 2
    assert "the disk has 0.00 left" in capsys.readouterr().err and not any(tmp_path.iterdir())


def test_what_orbax_says_of_a_failing_disk(hf, tmp_path, capsys, monkeypatch):
    def fails(*_):
        raise ValueError("RESOURCE_EXHAUSTED: no space\nand much more")

    monkeypatch.setattr(store.Digest, "add", fails)
    assert main(["import", str(hf), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "cannot be written: RESOURCE_EXHAUSTED" in error and len(error.splitlines()) == 1
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("command", "module", "name"), [("import", store, "write_model"), ("export", exporting, "_write")]
)
def test_ctrl_c_leaves_nothing(hf, tmp_path, capsys, monkeypatch, command, module, name):
    work = getattr(module, name)

    def interrupted(*args):
        work(*args)
        raise KeyboardInterrupt

    monkeypatch.setattr(module, name, interrupted)
    assert main([command, str(hf), "--out", str(tmp_path / "out")]) == 130
    assert capsys.readouterr().err == "interrupted\n" and not any(tmp_path.iterdir())


def test_blocks_in_chunks(hf, tmp_path, capsys):
    """DINOv2's training code parts the blocks, blocks.CHUNK.BLOCK., under their own numbers."""
    assert main(["export", str(hf), "--format", "meta", "--out", str(tmp_path / "meta")]) == 0
    with open_source(tmp_path / "meta") as source:
        tensors = {key: source.read(key) for key in source.keys()}  # noqa: SIM118
    chunked = {key.replace("blocks.", f"blocks.{int('blocks.1.' in key)}."): a for key, a in tensors.items()}
    assert any(key.startswith("blocks.1.1.") for key in chunked)
    save_file(chunked, tmp_path / "chunked.safetensors")
    plain, found = (
        load_pretrained(tmp_path / "meta"),
        load_pretrained(tmp_path / "chunked.safetensors", num_heads=plain_heads(tmp_path)),
    )
    assert found.card.digest == plain.card.digest and any("chunks" in note for note in found.notes)


def plain_heads(folder) -> int:
    return json.loads((folder / "meta" / "jaxdino.json").read_text())["num_heads"]
