"""Change files at random: bytes of any file, and the parts of those whose format is known.

Each mutator takes the content and a generator and returns other content. A change of the bytes alone is mostly stopped
by the first check (a CRC, a length); a change of the parts gets behind it.
"""

import copy
import io
import json
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Rng = np.random.Generator
Mutator = Callable[[bytes, Rng], bytes]

NUMBERS = (0, -1, 1, 2, 255, 65_536, 2**31 - 1, 2**31, -(2**31), 2**32, 2**53, 2**63 - 1, 2**63, 2**64, 10**30)
NUMBERS += (0.5, -0.0, 1e-308, 1e308, float("nan"), float("inf"), float("-inf"))
TEXTS = ("", " ", "\0", "\x1b[31m", "\u202e", "../../etc/passwd", "/", "nan", "1e400", "True", "é" * 200, "x" * 5000)
TEXTS += (".*" * 50, "(a+)+$", "%s%n{0}", "\ud800", "\n" * 50, "[" * 100)
VALUES = (None, True, False, [], {}, [[]], [None], {"": None}, *NUMBERS, *TEXTS)
MARKS = b'{}[]",:\\\n\x00\xff'
OPCODES = b"(.0125}{]ld)tseuabqrhjcRQN\x80\x81\x85\x86\x87\x88\x8a\x8b\x8c\x8d\x8e\x8f\x90\x91\x93\x94\x95\x96X"
LONGEST = 1 << 20  # a mutant is cut at this length


def pick(rng: Rng, items: Any) -> Any:
    """Return one of the items."""
    return items[int(rng.integers(len(items)))]


def _cut(data: bytes, rng: Rng, most: int = 64) -> tuple[int, int]:
    """Return the start and end of a short range."""
    start = int(rng.integers(len(data) + 1))
    return start, min(len(data), start + int(rng.integers(1, most)))


def flip(data: bytes, rng: Rng) -> bytes:
    """Change a few bits."""
    out = bytearray(data)
    for _ in range(int(rng.integers(1, 5)) if out else 0):
        out[int(rng.integers(len(out)))] ^= 1 << int(rng.integers(8))
    return bytes(out)


def overwrite(data: bytes, rng: Rng) -> bytes:
    """Give a few bytes extreme values."""
    start, end = _cut(data, rng, 9)
    return data[:start] + bytes([pick(rng, (0, 1, 127, 128, 255))]) * (end - start) + data[end:]


def truncate(data: bytes, rng: Rng) -> bytes:
    return data[: int(rng.integers(len(data) + 1))]


def insert(data: bytes, rng: Rng) -> bytes:
    at = int(rng.integers(len(data) + 1))
    more = rng.bytes(int(rng.integers(1, 32))) if rng.random() < 0.5 else bytes([pick(rng, MARKS)]) * 7
    return data[:at] + more + data[at:]


def delete(data: bytes, rng: Rng) -> bytes:
    start, end = _cut(data, rng)
    return data[:start] + data[end:]


def duplicate(data: bytes, rng: Rng) -> bytes:
    """Repeat a block, sometimes very often."""
    start, end = _cut(data, rng, 200)
    times = int(pick(rng, (2, 3, 20, 2000)))
    return (data[:end] + data[start:end] * times + data[end:])[:LONGEST]


def swap(data: bytes, rng: Rng) -> bytes:
    """Exchange two blocks."""
    (a, b), (c, d) = sorted((_cut(data, rng), _cut(data, rng)))
    return data if b > c else data[:a] + data[c:d] + data[b:c] + data[a:b] + data[d:]


def number(data: bytes, rng: Rng) -> bytes:
    """Replace a decimal number in the text by an extreme one."""
    found = [match.span() for match in re.finditer(rb"-?\d+(\.\d+)?", data[:LONGEST])]
    if not found:
        return integer(data, rng)
    start, end = pick(rng, found)
    return data[:start] + repr(pick(rng, NUMBERS)).encode() + data[end:]


def integer(data: bytes, rng: Rng) -> bytes:
    """Replace a binary number of 2, 4 or 8 bytes by an extreme one."""
    size = int(pick(rng, (2, 4, 8)))
    if len(data) < size:
        return flip(data, rng)
    value = int(pick(rng, [n for n in NUMBERS if isinstance(n, int)])) % (1 << 8 * size)
    at = int(rng.integers(len(data) - size + 1))
    return data[:at] + value.to_bytes(size, pick(rng, ("little", "big"))) + data[at + size :]


def nested(data: bytes, rng: Rng) -> bytes:
    """Insert deep nesting."""
    start, end = _cut(data, rng)
    opening, closing = pick(rng, ((b"[", b"]"), (b'{"a":', b"}"), (b"(", b")"), (b"]", b"a")))
    times = int(pick(rng, (70, 70, 1000, 1000, 20_000)))
    return data[:start] + opening * times + data[start:end] + closing * times + data[end:]


BYTES: tuple[Mutator, ...] = (flip, flip, overwrite, truncate, insert, delete, duplicate, swap, number, integer, nested)


def some_bytes(data: bytes, rng: Rng) -> bytes:
    """Apply one of the mutators of bytes, sometimes several."""
    for _ in range(int(pick(rng, (1, 1, 1, 2, 4)))):
        data = pick(rng, BYTES)(data, rng)
    return data[: 4 * LONGEST]


def json_text(data: bytes, rng: Rng) -> bytes:
    """Change the values or keys of a JSON text."""
    try:
        tree = json.loads(data)
        for _ in range(int(pick(rng, (1, 1, 2, 5)))):
            tree = _changed(tree, rng)
    except (ValueError, RecursionError):  # an earlier change damaged it, or nested it deeply
        return some_bytes(data, rng)
    return json.dumps(tree, ensure_ascii=bool(rng.integers(2))).encode("utf-8", "surrogatepass")


def _places(node: Any, above: Any = None, key: Any = None) -> list[tuple[Any, Any]]:
    """Return (container, key) of all values."""
    found = [] if above is None else [(above, key)]
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return found + [place for name, value in items for place in _places(value, node, name)]


def _changed(tree: Any, rng: Rng) -> Any:
    places = _places(tree)
    if not places or rng.random() < 0.02:
        return copy.deepcopy(pick(rng, VALUES))
    above, key = pick(rng, places)
    how = int(rng.integers(8))
    if how == 0:
        del above[key]
    elif how == 1:
        above[key] = [above[key]] if rng.integers(2) else {str(key): above[key]}
    elif how == 2 and isinstance(above, dict):
        above[pick(rng, TEXTS)] = above.pop(key)
    elif how == 3 and isinstance(above[key], list):
        above[key] = above[key] * (int(pick(rng, (0, 2, 3000))) if len(above[key]) < 20 else 2)
    elif how == 4:
        above[key] = json.loads(json.dumps(pick(rng, [place[key] for place, key in places])))
    elif how == 5 and isinstance(above[key], int | float):
        above[key] = above[key] * pick(rng, (-1, 2, 10**6, 0.5)) + pick(rng, (0, 1, -1))
    else:
        above[key] = copy.deepcopy(pick(rng, VALUES))
    return tree


def lines_of(inner: Mutator) -> Mutator:
    """Return a mutator of one line of a file."""

    def mutate(data: bytes, rng: Rng) -> bytes:
        lines = data.split(b"\n")
        at = int(rng.integers(len(lines)))
        lines[at] = inner(lines[at], rng)
        return b"\n".join(lines)

    return mutate


def cell(data: bytes, rng: Rng) -> bytes:
    """Replace a value of a line of CSV."""
    cells = data.split(b",")
    cells[int(rng.integers(len(cells)))] = str(pick(rng, VALUES)).encode("utf-8", "surrogatepass")
    return b",".join(cells)


def safetensors(data: bytes, rng: Rng) -> bytes:
    """Change the header of a safetensors file, and say its new length."""
    length = int.from_bytes(data[:8], "little")
    inner = pick(rng, (json_text, json_text, some_bytes))
    header = inner(data[8 : 8 + length], rng)
    return len(header).to_bytes(8, "little") + header + data[8 + length :]


def pickled(data: bytes, rng: Rng) -> bytes:
    """Insert opcodes into a pickle, sometimes very many."""
    at = int(rng.integers(len(data) + 1))
    more = bytes([pick(rng, OPCODES) for _ in range(int(rng.integers(1, 4)))])
    return data[:at] + more * int(pick(rng, (1, 1, 2, 100, 30_000))) + data[at:]


def zipped(data: bytes, rng: Rng) -> bytes:
    """Change a record of a zip file (mostly its pickle), and write the file again."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            records = [[info.filename, archive.read(info)] for info in archive.infolist()]
    except Exception:
        return some_bytes(data, rng)
    pickles = [one for one in records if one[0].endswith(".pkl")]
    one = pick(rng, pickles if pickles and rng.random() < 0.8 else records)
    if rng.random() < 0.1:
        one[0] = pick(rng, [record[0] for record in records])
    else:
        one[1] = pick(rng, (pickled, some_bytes))(one[1], rng)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in records:
            archive.writestr(zipfile.ZipInfo(name), content)
    return stream.getvalue()


def png(data: bytes, rng: Rng) -> bytes:
    """Change the chunks of a PNG (IDAT unpacked), with valid checksums."""
    at, chunks = 8, []
    while at + 8 <= len(data):
        length, kind = struct.unpack(">I4s", data[at : at + 8])
        chunks.append([kind, data[at + 8 : at + 8 + length]])
        at += length + 12
    one = pick(rng, chunks)
    if one[0] == b"IDAT" and rng.integers(2):
        one[1] = zlib.compress(some_bytes(zlib.decompress(one[1]), rng))
    else:
        one[1] = some_bytes(one[1], rng)
    chunks.insert(int(rng.integers(len(chunks) + 1)), pick(rng, chunks)) if rng.random() < 0.2 else None
    if rng.random() < 0.1:
        one[0] = pick(rng, (b"tRNS", b"iCCP", b"eXIf", b"zTXt", b"iTXt", b"PLTE", b"acTL", b"gAMA", b"sBIT"))
    sealed = (kind + content for kind, content in chunks)
    parts = (struct.pack(">I", len(s) - 4) + s + struct.pack(">I", zlib.crc32(s)) for s in sealed)
    return data[:8] + b"".join(parts)


FORMATS: dict[str, Mutator] = {
    ".json": json_text,
    ".jsonl": lines_of(json_text),
    ".csv": lines_of(cell),
    ".safetensors": safetensors,
    ".pth": zipped,
    ".png": png,
}
"""Suffix -> mutator of the format's parts. A file that starts as a zip file is changed as one."""


def mutated(name: str, data: bytes, rng: Rng) -> bytes:
    """Return the content of a file, changed in its parts or its bytes."""
    by_format = FORMATS.get(Path(name).suffix)
    if by_format is zipped and data[:2] != b"PK":
        by_format = pickled
    return pick(rng, (by_format, by_format, some_bytes))(data, rng) if by_format else some_bytes(data, rng)
