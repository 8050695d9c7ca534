"""Read and validate the header of a safetensors file before any tensor is used.

Format: eight bytes of header length (little endian), the header as JSON, then the tensors' bytes, which the
entries' `data_offsets` must cover without gap or overlap. Source: huggingface/safetensors README.md.
"""

import math

from convert.byte_ranges import BinaryFile, ByteRange, is_addressable
from convert.dtypes import BY_SAFETENSORS
from jaxdino.core.errors import UserError
from jaxdino.core.json_file import parse_json

MAX_HEADER_BYTES = 100_000_000
MAX_WIDE_BYTES = 16_000_000  # of a header that is not ASCII: one wide character makes all of them four bytes wide
MAX_AXES = 64


def read_safetensors(file: BinaryFile) -> tuple[dict[str, ByteRange], dict[str, str]]:
    """Return the byte ranges by key, in the header's order, and the file's metadata. Raise UserError if damaged."""
    header, start = _header(file)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise UserError(f"{file.path}: __metadata__ must map text to text")
    spans, ranges = {}, []
    for key, entry in header.items():
        spans[key], end = _span(file, start, key, entry)
        ranges.append((spans[key].start - start, end, key))
    _check_tiling(file, sorted(ranges), file.size - start)
    return spans, metadata


def _header(file: BinaryFile) -> tuple[dict, int]:
    length = int.from_bytes(file.read(0, 8), "little")
    if file.size < 10:
        raise UserError(f"{file.path}: {file.size} bytes are too few for a safetensors file: truncated?")
    if length > MAX_HEADER_BYTES:
        raise UserError(f"{file.path}: the header length {length} is above the limit of {MAX_HEADER_BYTES}")
    if length > file.size - 8:
        raise UserError(f"{file.path}: the header length {length} exceeds the file ({file.size} bytes): truncated?")
    what, text = f"{file.path}: the safetensors header", file.read(8, length)
    if length > MAX_WIDE_BYTES and not text.isascii():
        raise UserError(f"{what} has {length} bytes with characters beyond ASCII, at most {MAX_WIDE_BYTES} are read")
    return parse_json(text, what, dict, max_bytes=MAX_HEADER_BYTES), 8 + length


def _span(file: BinaryFile, start: int, key: str, entry: object) -> tuple[ByteRange, int]:
    where = f"{file.path}: tensor {key!r}"
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise UserError(f"{where}: the header entry needs dtype, shape and data_offsets, nothing else")
    name, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(name, str) or name not in BY_SAFETENSORS:
        raise UserError(f"{where}: dtype {name!r} is not one of {', '.join(BY_SAFETENSORS)}")
    if not _is_sizes(shape) or len(shape) > MAX_AXES:
        raise UserError(f"{where}: shape {shape!r} is not a list of at most {MAX_AXES} sizes")
    if not _is_sizes(offsets) or len(offsets) != 2 or not offsets[0] <= offsets[1] <= file.size - start:
        raise UserError(f"{where}: data_offsets {offsets!r} are outside the {file.size - start} data bytes: truncated?")
    dtype = BY_SAFETENSORS[name]
    need, have = math.prod(shape) * dtype.itemsize, offsets[1] - offsets[0]
    if not is_addressable(shape, dtype):
        raise UserError(f"{where}: shape {shape} is larger than any memory")
    if need != have:
        raise UserError(f"{where}: {name} of shape {shape} needs {need} bytes, its data_offsets give {have}")
    return ByteRange(file, start + offsets[0], dtype, tuple(shape)), offsets[1]


def _is_sizes(value: object) -> bool:
    return isinstance(value, list) and all(type(n) is int and 0 <= n < 2**63 for n in value)


def _check_tiling(file: BinaryFile, ranges: list[tuple[int, int, str]], total: int) -> None:
    at, last = 0, "the header"
    for begin, end, key in ranges:
        if begin != at:
            fault = "overlaps" if begin < at else "leaves a hole after"
            raise UserError(f"{file.path}: tensor {key!r} {fault} {last!r} (byte {begin}, expected {at})")
        at, last = end, key
    if at != total:
        raise UserError(f"{file.path}: {total - at} bytes after the last tensor belong to none")
