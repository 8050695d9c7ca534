"""What is damaged, hostile or no checkpoint is refused with a UserError that names it, and nothing else."""

import argparse
import collections
import io
import json
import os
import pickle
import random
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from convert.readers import open_source
from jaxdino.core.errors import UserError

LEGACY = {"_use_new_zipfile_serialization": False}
FORMATS = [{}, {"pickle_protocol": 4}, LEGACY]


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        open_source(path).close()
    return str(caught.value)


class Call:
    """Pickles as a call of `target(*args)`."""

    def __init__(self, target, *args):
        self.target, self.args = target, args

    def __reduce__(self):
        return self.target, self.args


HOSTILE = [
    (Call(os.system, "true"), f"{os.name}.system"),
    (Call(eval, "1"), "builtins.eval"),
    (Call(getattr, "a", "upper"), "builtins.getattr"),
    (Call(torch.load, "x"), "torch.serialization.load"),
    (Call(torch.storage._load_from_bytes, b""), "torch.storage._load_from_bytes"),
    (Call(torch._utils._rebuild_qtensor), "torch._utils._rebuild_qtensor"),
    (torch.nn.Linear(1, 1), "torch.nn.modules.linear.Linear"),
    (Path("x"), "pathlib"),
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("options", FORMATS)
@pytest.mark.parametrize("value, name", HOSTILE)
def test_names_outside_the_list_are_refused(tmp_path, options, value, name):
    torch.save({"w": torch.ones(2), "x": value}, tmp_path / "w.pth", **options)
    message = refusal(tmp_path / "w.pth")
    assert name in message and "w.pth" in message and "torch.save(model.state_dict()" in message


def with_record(path: Path, name: str, data: bytes | None, compression=zipfile.ZIP_STORED) -> None:
    """Rewrites a torch zip with one record replaced, added, or (None) left out."""
    with zipfile.ZipFile(path) as archive:
        records = {info.filename: archive.read(info) for info in archive.infolist()}
    full = f"{path.stem}/{name}"
    records[full] = data
    with zipfile.ZipFile(path, "w") as archive:
        for record, content in records.items():
            if content is not None:
                archive.writestr(record, content, compression if record == full else zipfile.ZIP_STORED)


def pickle_of(*parts: bytes) -> bytes:
    return b"\x80\x02" + b"".join(parts) + b"."


BOMBS = {
    "deep key": (pickle_of(b"}", b")", b"\x85" * 200_000, b"K\x01s"), "cannot be a key"),
    "deep lists": (pickle_of(b"}U\x01a", b"]" * 5000, b"a" * 4999, b"s"), "deep"),
    "loop": (pickle_of(b"}q\x00U\x01ah\x00s"), "deep"),
    "doubling": (
        pickle_of(b"}U\x01a]q\x000", b"".join(b"](h%ch%ceq%c0" % (i, i, i + 1) for i in range(60)), b"h\x3cs"),
        "entries",
    ),
    "long integer": (pickle_of(b"\x8b\xff\xff\xff\x7f"), "integer"),
    "long text": (pickle_of(b"\x8d" + (2**60).to_bytes(8, "little")), "truncated"),
    "far memo": (pickle_of(b"}r\xff\xff\xff\xffj\xff\xff\xff\xfe"), "damaged"),
    "empty stack": (pickle_of(b"aaaa"), "damaged"),
    "persistent text": (pickle_of(b"Pid\n"), "opcode b'P'"),
    "instance": (pickle_of(b"(ios\nsystem\n"), "opcode b'i'"),
    "extension": (pickle_of(b"\x82\x01"), "opcode"),
    "attribute write": (pickle_of(b"ctorch\nSize\n}b"), "damaged"),
    "no tensor": (pickle_of(b"}U\x05epochK\x01s"), "epoch"),
    "bare value": (pickle_of(b"K\x01"), "int"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_pickle_bombs_are_refused(tmp_path, name):
    torch.save({"w": torch.ones(2)}, tmp_path / "w.pth")
    data, word = BOMBS[name]
    with_record(tmp_path / "w.pth", "data.pkl", data)
    assert word in refusal(tmp_path / "w.pth")


def tensor_pickle(count: int, offset: int, shape: int, stride: int) -> bytes:
    class Ids(pickle.Pickler):
        def persistent_id(self, value):
            return ("storage", torch.FloatStorage, "0", "cpu", count) if value == "here" else None

    class View:
        def __reduce__(self):
            hooks = collections.OrderedDict()
            return torch._utils._rebuild_tensor_v2, ("here", offset, (shape,), (stride,), False, hooks)

    stream = io.BytesIO()
    Ids(stream, protocol=2).dump({"w": View()})
    return stream.getvalue()


@pytest.mark.parametrize(
    "view, word",
    [
        ((2, 0, 3, 1), "exceeds its storage"),
        ((2, 1, 2, 1), "exceeds its storage"),
        ((2, 0, 2, 2), "exceeds its storage"),
        ((2, -1, 1, 1), "shape or stride"),
        ((2, 1, 2, -1), "shape or stride"),
        ((2, 0, 2**62, 0), "expands to"),
        ((3, 0, 3, 1), "w/data/0 has 8 bytes, its tensors need 12"),
        ((-1, 0, 0, 1), "storage"),
    ],
)
def test_tensors_outside_their_storage_are_refused(tmp_path, view, word):
    torch.save({"w": torch.ones(2)}, tmp_path / "w.pth")
    with_record(tmp_path / "w.pth", "data.pkl", tensor_pickle(*view))
    assert word in refusal(tmp_path / "w.pth")


def test_lying_zips_are_refused(tmp_path):
    path = tmp_path / "w.pth"

    def fresh():
        torch.save({"w": torch.ones(64)}, path)
        return path

    with_record(fresh(), "data/0", b"\0" * 256, zipfile.ZIP_DEFLATED)
    assert "w/data/0" in refusal(path) and "compressed" in refusal(path)
    with_record(fresh(), "data/0", None)
    assert "lacks the storage w/data/0" in refusal(path)
    with_record(fresh(), "byteorder", b"middle")
    assert "'middle'" in refusal(path)
    with_record(fresh(), "code/x.py", b"")
    assert "not of a model" in refusal(path)
    with_record(fresh(), "data.pkl", None)
    assert "data.pkl" in refusal(path)
    data = fresh().read_bytes()
    size = data.rindex((256).to_bytes(4, "little") * 2)
    path.write_bytes(data[:size] + (2**20).to_bytes(4, "little") * 2 + data[size + 8 :])
    assert "w/data/0" in refusal(path) and "beyond the file's end" in refusal(path)


def test_big_endian_records_are_turned(tmp_path):
    torch.save({"w": torch.ones(2), "b": torch.ones(2, dtype=torch.bfloat16)}, tmp_path / "w.pth")
    with_record(tmp_path / "w.pth", "byteorder", b"big")
    with_record(tmp_path / "w.pth", "data/0", np.array([1.5, -2], ">f4").tobytes())
    with_record(tmp_path / "w.pth", "data/1", b"\x3f\x80\xc0\x00")
    with open_source(tmp_path / "w.pth") as source:
        assert source.read("w").tolist() == [1.5, -2] and source.read("b").tolist() == [1, -2]


def safetensors_bytes(header: object, data: bytes = b"\0" * 8, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def entry(dtype="F32", shape=(2,), offsets=(0, 8), **more) -> dict:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets), **more}


@pytest.mark.parametrize(
    "content, words",
    [
        (safetensors_bytes({"w": entry()}, length=2**62), ["header length", str(2**62)]),
        (safetensors_bytes({"w": entry()}, length=5000), ["header length 5000", "truncated"]),
        (b"\x02\0\0\0", ["4 bytes", "truncated"]),
        (safetensors_bytes({"w": entry(offsets=(0, 16), shape=[4])}), ["'w'", "[0, 16]", "truncated"]),
        (safetensors_bytes({"w": entry(shape=[3])}), ["'w'", "needs 12 bytes", "give 8"]),
        (safetensors_bytes({"w": entry(offsets=(-8, 0))}), ["'w'", "[-8, 0]"]),
        (safetensors_bytes({"w": entry(shape=[True])}), ["'w'", "[True]"]),
        (safetensors_bytes({"w": entry("F4")}), ["'w'", "'F4'"]),
        (safetensors_bytes({"w": entry(more=1)}), ["'w'", "nothing else"]),
        (safetensors_bytes({"w": entry(), "v": entry()}), ["'w'", "overlaps 'v'"]),
        (safetensors_bytes({"w": entry(offsets=(8, 16))}, b"\0" * 16), ["'w'", "hole"]),
        (safetensors_bytes({"w": entry()}, b"\0" * 9), ["1 bytes after"]),
        (safetensors_bytes(b'{"w": 1, "w": 2}'), ["'w' twice"]),
        (safetensors_bytes(b"{" + b"[" * 100_000), ["not valid JSON"]),
        (safetensors_bytes(b'{"a":' * 100_000), ["not valid JSON"]),
        (safetensors_bytes({"w": entry(shape=[0, 2**62], offsets=(0, 0))}, b""), ["'w'", "larger than any memory"]),
        (safetensors_bytes({"__metadata__": {"a": 1}}), ["__metadata__"]),
        (safetensors_bytes([]), ["list"]),
        (b"", ["empty"]),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", ["Git LFS pointer"]),
        (b"<!DOCTYPE html><html></html>", ["web page"]),
        (b"neither this nor that", ["header length"]),
    ],
)
def test_bad_safetensors_are_refused(tmp_path, content, words):
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    message = refusal(path)
    assert all(word in message for word in [*words, str(path)]), message


def test_what_is_no_checkpoint_is_named(tmp_path):
    (tmp_path / "weights.pth").write_bytes(b"neither this nor that")
    assert "not a checkpoint" in refusal(tmp_path / "weights.pth")
    assert "weights.pth" in refusal(tmp_path / "wieghts.pth")
    assert "does not exist either" in refusal(tmp_path / "no" / "weights.pth")
    (tmp_path / "w.pkl").write_bytes(pickle.dumps({"a": 1}))
    assert "plain pickle" in refusal(tmp_path / "w.pkl")
    (tmp_path / "x").mkdir()
    assert "found nothing" in refusal(tmp_path / "x")
    np.savez(tmp_path / "w.npz", a=np.ones(2))
    assert "not a PyTorch checkpoint" in refusal(tmp_path / "w.npz")


def samples(folder: Path) -> list[Path]:
    tensors = {"model": {"w": torch.randn(3, 4), "b": torch.randn(4).bfloat16(), "t": torch.randn(3, 2).T}}
    tensors |= {"epoch": 3, "args": argparse.Namespace(lr=0.1), "f": np.float64(1)}
    torch.save(tensors, folder / "zip.pth")
    torch.save(tensors, folder / "old.pth", **LEGACY)
    save_file(tensors["model"] | {"t": torch.ones(2)}, folder / "w.safetensors", metadata={"a": "b"})
    return sorted(folder.iterdir())


def mutated(data: bytes, other: bytes, rng: random.Random) -> bytes:
    data = bytearray(data)
    kind = rng.randrange(4)
    if kind == 0:
        return bytes(data[: rng.randrange(len(data))])
    if kind == 1:
        at, start = rng.randrange(len(data)), rng.randrange(len(other))
        data[at : at + rng.randrange(40)] = other[start : start + rng.randrange(40)]
        return bytes(data)
    for _ in range(rng.choice([1, 1, 2, 8])):
        at = rng.randrange(len(data))
        data[at] = rng.choice([0, 0xFF, 0x80, data[at] ^ (1 << rng.randrange(8)), rng.randrange(256)])
    return bytes(data)


def survives(path: Path) -> bool:
    """Opens and reads everything; True when it could be read, False when it was refused."""
    try:
        with open_source(path) as source:
            for key in source.keys():  # noqa: SIM118
                source.read(key)
    except UserError:
        return False
    return True


@pytest.mark.parametrize("seed", range(3))
def test_mutated_files_give_user_errors_only(tmp_path, seed):
    paths = samples(tmp_path)
    originals = [path.read_bytes() for path in paths]
    rng = random.Random(int(os.environ.get("FUZZ_SEED", 0)) + seed)
    refused = 0
    for round in range(int(os.environ.get("FUZZ_ROUNDS", 300))):
        path, data = paths[round % len(paths)], originals[round % len(paths)]
        path.write_bytes(mutated(data, rng.choice(originals), rng))
        refused += not survives(path)
    assert refused > 30
