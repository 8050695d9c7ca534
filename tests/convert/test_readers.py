"""Checkpoints made by PyTorch and safetensors are read bit for bit, lazily, and without torch."""

import argparse
import collections
import json
import subprocess
import sys
import tracemalloc
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from convert.readers import open_source
from jaxdino.core.errors import UserError

torch.manual_seed(0)
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int8, torch.bool]
YOUNG_DTYPES = [torch.uint16, torch.float8_e4m3fn, torch.float8_e5m2]
LEGACY = {"_use_new_zipfile_serialization": False}
FORMATS = [{}, {"pickle_protocol": 4}, LEGACY]


def bits(tensor: torch.Tensor) -> bytes:
    return bytes(tensor.detach().contiguous().reshape(-1).view(torch.uint8).tolist())


def assert_holds(path: Path, expected: dict[str, torch.Tensor]) -> None:
    with open_source(path) as source:
        assert sorted(source.keys()) == sorted(expected)
        for key, tensor in expected.items():
            array = source.read(key)
            assert source.shape(key) == array.shape == tuple(tensor.shape)
            assert source.dtype(key) == array.dtype
            assert str(array.dtype) == str(tensor.dtype).removeprefix("torch.")
            assert array.tobytes() == bits(tensor), key


def plain(dtypes) -> dict[str, torch.Tensor]:
    tensors = {f"w.{dtype}": (torch.randn(3, 5) * 3).to(dtype) for dtype in dtypes}
    return tensors | {"scalar": torch.tensor(2.5), "empty": torch.zeros(0, 4)}


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        open_source(path).close()
    return str(caught.value)


@pytest.mark.parametrize("options", FORMATS)
def test_pth_of_every_dtype(tmp_path, options):
    tensors = plain(DTYPES)
    torch.save(tensors, tmp_path / "w.pth", **options)
    assert_holds(tmp_path / "w.pth", tensors)


def test_pth_of_dtypes_without_a_storage_class(tmp_path):
    tensors = plain(YOUNG_DTYPES)
    torch.save(tensors, tmp_path / "w.pth")
    assert_holds(tmp_path / "w.pth", tensors)


@pytest.mark.parametrize("options", FORMATS)
def test_views_shared_storages_and_parameters(tmp_path, options):
    base = torch.randn(6, 8)
    tensors = {
        "base": base,
        "turned": base.T,
        "window": base[1:5:2, 2:7],
        "row": base[3],
        "expanded": torch.randn(1, 4).expand(3, 4),
        "scalar": base[2, 3],
        "parameter": torch.nn.Parameter(torch.randn(2, 2)),
    }
    torch.save(tensors, tmp_path / "w.pth", **options)
    assert_holds(tmp_path / "w.pth", tensors)


@pytest.mark.parametrize("options", FORMATS)
def test_training_checkpoint_parts_tensors_from_the_rest(tmp_path, options):
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.5)
    model(torch.randn(5, 3)).sum().backward()
    optimizer.step()
    checkpoint = {
        "teacher": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "epoch": 7,
        "best": np.float64(0.25),
        "order": np.arange(4, dtype=np.int32),
        "args": argparse.Namespace(arch="vit_small", lr=1e-3, crops=(0.4, 1.0), out=None),
        "history": collections.defaultdict(list, {"loss": [1.0, 2.0]}),
        "shape": torch.Size([2, 3]),
        "dtype": torch.bfloat16,
        "seen": {1, 2},
    }
    torch.save(checkpoint, tmp_path / "w.pth", **options)
    with open_source(tmp_path / "w.pth") as source:
        assert source.kind == "pth"
        for key, tensor in model.state_dict().items():
            assert source.read(f"teacher.{key}").tobytes() == bits(tensor)
        assert source.read("optimizer.state.0.exp_avg").shape == (4, 3)
        extras = source.extras
        assert (extras["epoch"], extras["best"], extras["args.arch"]) == (7, 0.25, "vit_small")
        assert extras["args.crops"] == (0.4, 1.0) and extras["args.out"] is None
        assert extras["history.loss"] == [1.0, 2.0] and extras["shape"] == (2, 3) and extras["seen"] == {1, 2}
        assert extras["dtype"] == ml_dtypes.bfloat16 and extras["order"].tolist() == [0, 1, 2, 3]
        assert extras["optimizer.param_groups.0.lr"] == 0.5


def test_safetensors_of_every_dtype(tmp_path):
    tensors = plain(DTYPES + YOUNG_DTYPES)
    save_file(tensors, tmp_path / "w.safetensors", metadata={"format": "pt"})
    assert_holds(tmp_path / "w.safetensors", tensors)
    with open_source(tmp_path / "w.safetensors") as source:
        assert source.kind == "safetensors" and source.metadata == {"format": "pt"}
        assert source.origin["bytes"] == (tmp_path / "w.safetensors").stat().st_size


def folder_of_shards(folder: Path) -> dict[str, torch.Tensor]:
    tensors = {f"blocks.{i}.w": torch.randn(2, 3) for i in range(4)}
    keys = list(tensors)
    places = {key: f"model-0000{1 + i // 2}-of-00002.safetensors" for i, key in enumerate(keys)}
    for name in set(places.values()):
        save_file({key: tensors[key] for key in keys if places[key] == name}, folder / name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    (folder / "config.json").write_text('{"model_type": "dinov2"}')
    (folder / "preprocessor_config.json").write_text('{"size": 224}')
    return tensors


def test_hugging_face_folders(tmp_path):
    tensors = folder_of_shards(tmp_path)
    assert_holds(tmp_path, tensors)
    with open_source(tmp_path) as source:
        assert source.kind == "hf_folder" and source.config == {"model_type": "dinov2"}
        assert source.preprocessor == {"size": 224} and source.origin["path"] == str(tmp_path)
    (tmp_path / "bin").mkdir()
    torch.save(tensors, tmp_path / "bin" / "pytorch_model.bin")
    assert_holds(tmp_path / "bin", tensors)


def test_folder_faults_are_named(tmp_path):
    folder_of_shards(tmp_path)
    index = tmp_path / "model.safetensors.index.json"
    good = index.read_text()
    index.write_text(good.replace("blocks.3.w", "blocks.9.w"))
    assert "blocks.3.w" in refusal(tmp_path) and "blocks.9.w" in refusal(tmp_path)
    index.write_text(good.replace("model-00002-of-00002", "../elsewhere"))
    assert "'../elsewhere.safetensors'" in refusal(tmp_path)
    index.write_text(good)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    assert "model-00002-of-00002.safetensors" in refusal(tmp_path)
    index.unlink()
    message = refusal(tmp_path)
    assert "expected model.safetensors" in message and "pass that file itself" in message
    (tmp_path / "config.json").write_text("{")
    torch.save({"w": torch.ones(1)}, tmp_path / "pytorch_model.bin")
    assert "config.json" in refusal(tmp_path)


def test_reading_holds_one_tensor_at_a_time(tmp_path):
    n = 8
    tensors = {f"w{i}": torch.randn(256, 1024) for i in range(n)}
    one = tensors["w0"].nbytes
    torch.save(tensors, tmp_path / "new.pth")
    torch.save(tensors, tmp_path / "old.pth", **LEGACY)
    save_file(tensors, tmp_path / "w.safetensors")
    for name in ("new.pth", "old.pth", "w.safetensors"):
        tracemalloc.start()
        with open_source(tmp_path / name) as source:
            assert tracemalloc.get_traced_memory()[1] < one // 4, "opening read tensors"
            kept = {key: source.read(key) for key in source.keys()}  # noqa: SIM118
            assert n * one <= tracemalloc.get_traced_memory()[1] < n * one + one // 2
            kept.clear()
            tracemalloc.reset_peak()
            for key in source.keys():  # noqa: SIM118
                source.read(key)
            assert tracemalloc.get_traced_memory()[1] < 1.5 * one
        tracemalloc.stop()


def test_an_unknown_key_and_a_closed_source_are_named(tmp_path):
    save_file({"blocks.0.weight": torch.ones(2)}, tmp_path / "w.safetensors")
    source = open_source(tmp_path / "w.safetensors")
    with pytest.raises(UserError, match=r"'blocks.0.wieght'.*blocks.0.weight"):
        source.read("blocks.0.wieght")
    source.close()
    with pytest.raises(UserError, match="closed"):
        source.read("blocks.0.weight")


def test_reading_needs_no_torch(tmp_path):
    torch.save({"w": torch.ones(2), "n": np.float32(2)}, tmp_path / "w.pth")
    save_file({"w": torch.ones(2)}, tmp_path / "w.safetensors")
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from convert.readers import open_source\n"
        "for path in sys.argv[1:]:\n"
        "    with open_source(path) as source: assert source.read('w').tolist() == [1, 1]\n"
        "print('read')"
    )
    files = [str(tmp_path / "w.pth"), str(tmp_path / "w.safetensors")]
    root = Path(__file__).parents[2]
    run = subprocess.run([sys.executable, "-c", code, *files], cwd=root, capture_output=True, text=True)
    assert run.stdout == "read\n", run.stderr


@pytest.mark.parametrize("name", ["x" * 300 + ".safetensors", "../model.safetensors", "a\0b"])
def test_shards_are_file_names(tmp_path, name):
    folder_of_shards(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"blocks.0.w": name}}))
    assert "not a file name in this folder" in refusal(tmp_path)
    (tmp_path / "model.safetensors.index.json").unlink()
    (tmp_path / "jaxdino.json").write_text(json.dumps({"file": name, "head_file": name}))
    assert "no checkpoint in this folder" in refusal(tmp_path)
