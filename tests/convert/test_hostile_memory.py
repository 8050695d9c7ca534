"""Weight files that ask for far more memory than they have bytes are refused before the memory is taken."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from convert import pickle_machine, safetensors_file, torch_file, tree
from convert.readers import open_source
from jaxdino.core import json_file
from jaxdino.core.errors import UserError

START = b"\x80\x02"
PAIRS = b"ccollections\nOrderedDict\nq\x00]q\x01(" + b"K\x01K\x02\x86" * 200 + b"e"
PICKLES = {
    "marks": b"(",
    "sets": b"\x8f",
    "dictionaries": b"}",
    "small dictionaries": b"}K\x01Ns",
    "memo": b"N\x94",
    "tuples": b")\x85",
    "lists": b"(NNl",
    "nothing": b"N",
    "texts": b"X\x08\0\0\0\xf0\x9f\x98\x80abcd",
    "invalid text": b"X\x08\0\0\0" + b"\xff" * 8,
    "globals": b"ctorch\nfloat32\n",
    "copies": b"h\x00h\x01\x85R",
    "frozen sets": b"(K\x01\x91",
}
HEADERS = {
    "objects": b'{"a":[' + b"{}," * 1000 + b"{}]}",
    "lists": b'{"a":[' + b"[]," * 3000 + b"[]]}",
    "numbers": b'{"a":[' + b"1e1," * 6000 + b"1]}",
    "keys": b"{" + b",".join(b'"%d":0' % n for n in range(1500)) + b"}",
}


def write_pickle(file: Path, body: bytes) -> Path:
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("w/data.pkl", START + body + b".")
    return file


def write_header(file: Path, header: bytes) -> Path:
    file.write_bytes(len(header).to_bytes(8, "little") + header)
    return file


def refusal(file: Path) -> str:
    with pytest.raises(UserError) as caught:
        open_source(file).close()
    return str(caught.value)


@pytest.mark.parametrize("name", PICKLES)
def test_pickles(tmp_path, monkeypatch, name):
    monkeypatch.setattr(pickle_machine, "ROOM", 1 << 16)
    unit = PICKLES[name]
    body = PAIRS * (name == "copies") + unit * (20_000 // len(unit))
    assert "far more memory than the file" in refusal(write_pickle(tmp_path / "w.pth", body))


@pytest.mark.parametrize("name", HEADERS)
def test_headers(tmp_path, monkeypatch, name):
    assert "of memory" not in refusal(write_header(tmp_path / "w.safetensors", HEADERS[name]))
    monkeypatch.setitem(json_file.parse_json.__kwdefaults__, "max_memory", 200_000)
    assert "would take more than" in refusal(write_header(tmp_path / "w.safetensors", HEADERS[name]))


def test_wide_headers_directories_and_names(tmp_path, monkeypatch):
    monkeypatch.setattr(safetensors_file, "MAX_WIDE_BYTES", 20)
    header = '{"__metadata__":{"a":"\U0001f600"}}'.encode()
    assert "characters beyond ASCII" in refusal(write_header(tmp_path / "w.safetensors", header))
    write_pickle(tmp_path / "w.pth", b"}")
    monkeypatch.setattr(torch_file, "MAX_DIRECTORY", 40)
    assert refusal(tmp_path / "w.pth").endswith("the zip directory has more than 40 bytes")
    monkeypatch.setattr(tree, "MAX_NAMES", 100)
    with pytest.raises(UserError, match="more than 100 characters"):
        tree.flatten({"k" * 30: {n: 1 for n in range(5)}}, "w.pth")


MEASURE = """
import sys
from pathlib import Path
from convert.readers import open_source
from jaxdino.core.errors import UserError
from tests.soak.worker import peak, reset_peak, resident
reset_peak()
before = resident()
try:
    open_source(sys.argv[1])
except UserError:
    print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="measures memory as Linux shows it")
@pytest.mark.parametrize("name", ["marks", "sets", "memo", "objects"])
def test_at_most_three_times_the_file_and_200_mb(tmp_path, name):
    file = tmp_path / "w"
    if name in PICKLES:
        write_pickle(file, PICKLES[name] * (10_000_000 // len(PICKLES[name])))
    else:
        write_header(file, b'{"a":[' + b"{}," * 30_000_000 + b"{}]}")
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", MEASURE, str(file)]
    out = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout
    assert int(out) < 3 * file.stat().st_size + (200 << 20)
