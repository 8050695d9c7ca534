"""Written checkpoints are read by PyTorch and safetensors bit for bit, and failures leave nothing behind."""

import json
import tracemalloc
import zipfile

import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from convert.readers import open_source
from convert.writers import write_pth, write_safetensors
from jaxdino.core.errors import UserError

DTYPES = [np.float64, np.float32, np.float16, ml_dtypes.bfloat16, np.int64, np.int32, np.uint8, np.bool_]
YOUNG_DTYPES = [np.uint16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2]


def arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    found = {f"w.{np.dtype(d)}": (rng.normal(size=(3, 5)) * 3).clip(0).astype(d) for d in DTYPES + YOUNG_DTYPES}
    return found | {"turned": rng.normal(size=(4, 6)).T, "scalar": np.array(2.5), "empty": np.zeros((0, 4))}


def announced(found: dict[str, np.ndarray]) -> list[tuple]:
    return [(key, a.shape, a.dtype, lambda a=a: a) for key, a in found.items()]


def assert_same(loaded: dict[str, torch.Tensor], found: dict[str, np.ndarray]) -> None:
    assert sorted(loaded) == sorted(found)
    for key, array in found.items():
        tensor = loaded[key]
        assert str(tensor.dtype) == f"torch.{array.dtype}" and tuple(tensor.shape) == array.shape
        assert bytes(tensor.contiguous().reshape(-1).view(torch.uint8).tolist()) == array.tobytes(), key


@pytest.mark.parametrize("wrap", [None, "teacher"])
@pytest.mark.parametrize("mmap", [False, True])
def test_pth_is_read_by_torch(tmp_path, wrap, mmap):
    found = arrays()
    path = write_pth(tmp_path / "w.pth", announced(found), wrap=wrap)
    loaded = torch.load(path, weights_only=True, mmap=mmap)
    assert_same(loaded[wrap] if wrap else loaded, found)
    with open_source(path) as source:
        prefix = f"{wrap}." if wrap else ""
        assert all(source.read(prefix + key).tobytes() == array.tobytes() for key, array in found.items())
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
    assert [p.name for p in tmp_path.iterdir()] == ["w.pth"]


def test_pth_storages_are_aligned_and_the_file_is_the_same_every_time(tmp_path):
    write_pth(tmp_path / "w.pth", announced(arrays()))
    (tmp_path / "again").mkdir()
    write_pth(tmp_path / "again" / "w.pth", announced(arrays()))
    assert (tmp_path / "w.pth").read_bytes() == (tmp_path / "again" / "w.pth").read_bytes()
    with open_source(tmp_path / "w.pth") as source:
        assert {span.start % 64 for span in source.spans.values()} == {0}


def test_large_records_keep_their_alignment(tmp_path, monkeypatch):
    monkeypatch.setattr("convert.writers.LARGE_RECORD", 0)
    path = write_pth(tmp_path / "w.pth", announced(arrays()))
    assert_same(torch.load(path, weights_only=True, mmap=True), arrays())
    with open_source(path) as source:
        assert {span.start % 64 for span in source.spans.values()} == {0}


def test_a_model_loads_what_was_written(tmp_path):
    model = torch.nn.BatchNorm1d(3)
    found = {key: value.numpy() + 1 for key, value in model.state_dict().items()}
    write_pth(tmp_path / "w.pth", announced(found))
    model.load_state_dict(torch.load(tmp_path / "w.pth", weights_only=True))
    assert model.running_mean.tolist() == [1, 1, 1] and model.num_batches_tracked.item() == 1


def test_one_safetensors_file(tmp_path):
    found = arrays()
    (path,) = write_safetensors(tmp_path / "w.safetensors", announced(found), {"layout": "meta"})
    assert_same(load_file(path), found)
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"format": "pt", "layout": "meta"}
    with open_source(path) as source:
        assert all(span.start % span.dtype.itemsize == 0 for span in source.spans.values())
        assert all(source.read(key).tobytes() == array.tobytes() for key, array in found.items())


def test_a_folder_of_shards_and_its_index(tmp_path):
    found = {f"w{i}": np.full((4, 4), i, np.float32) for i in range(5)}
    names = [path.name for path in write_safetensors(tmp_path / "hf", announced(found), max_shard_bytes=128)]
    assert names == [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)] + ["model.safetensors.index.json"]
    assert sorted(p.name for p in (tmp_path / "hf").iterdir()) == names
    index = json.loads((tmp_path / "hf" / names[-1]).read_text())
    assert index["metadata"]["total_size"] == 5 * 64
    loaded = {}
    for name in names[:-1]:
        part = load_file(tmp_path / "hf" / name)
        assert {key for key, place in index["weight_map"].items() if place == name} == set(part)
        loaded |= part
    assert_same(loaded, found)
    (path,) = write_safetensors(tmp_path / "hf", announced(found), overwrite=True)
    assert [p.name for p in (tmp_path / "hf").iterdir()] == ["model.safetensors"] == [path.name]
    with open_source(tmp_path / "hf") as source:
        assert source.kind == "hf_folder" and source.keys() == list(found)


def write_shards(target, tensors, **options):
    return write_safetensors(target.with_suffix(""), tensors, max_shard_bytes=8, **options)


TARGETS = [(write_pth, "w.pth"), (write_safetensors, "w.safetensors"), (write_shards, "w.safetensors")]


@pytest.mark.parametrize("write, name", TARGETS)
def test_a_failure_leaves_nothing_and_an_older_file_alone(tmp_path, write, name):
    good = {"a": np.ones(4), "b": np.ones(4), "c": np.ones(4)}

    def broken():
        raise RuntimeError("no tensor")

    tensors = [*announced(good), ("broken", (2,), np.dtype(np.float32), broken)]
    target = tmp_path / "new" / name
    with pytest.raises(RuntimeError, match="no tensor"):
        write(target, tensors)
    assert list(tmp_path.iterdir()) == []
    write(target, announced(good))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=r"/new/w.*already exists"):
        write(target, announced(good))
    with pytest.raises(RuntimeError, match="no tensor"):
        write(target, tensors, overwrite=True)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    write(target, announced({"d": np.zeros(1)}), overwrite=True)
    with open_source(target if target.exists() else target.with_suffix("")) as source:
        assert source.keys() == ["d"]


@pytest.mark.parametrize("write, name", TARGETS)
@pytest.mark.parametrize(
    "tensors, words",
    [
        ([("w", (2,), np.float32, lambda: np.zeros(3, np.float32))], r"'w'.*\(2,\).*\(3,\)"),
        ([("w", (2,), np.float32, lambda: np.zeros(2))], "'w'.*float32.*float64"),
        ([("w", (2,), "datetime64[s]", None)], "'w'.*datetime64"),
        ([("w", (1,), np.int8, None), ("w", (1,), np.int8, None)], "'w'.*duplicate"),
        ([], "no tensor"),
    ],
)
def test_wrong_announcements_are_named(tmp_path, write, name, tensors, words):
    with pytest.raises(UserError, match=words):
        write(tmp_path / name, tensors)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("write, name", TARGETS)
def test_writing_holds_one_tensor_at_a_time(tmp_path, write, name):
    shape, one = (512, 1024), 512 * 1024 * 4
    tensors = [(f"w{i}", shape, np.float32, lambda i=i: np.full(shape, i, np.float32)) for i in range(8)]
    tracemalloc.start()
    try:
        write(tmp_path / name, tensors)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert one <= peak < 1.5 * one
