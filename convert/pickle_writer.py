"""Write the pickle inside a .pth file opcode by opcode, in the form of torch.save that torch.load reads.

Source: pytorch/pytorch torch/_tensor.py (the rebuild calls) and torch/serialization.py (storage ids).
"""

import struct
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from convert.byte_ranges import row_major
from convert.dtypes import STORAGE_OF, TO_TORCH

ORDERED_DICT = b"ccollections\nOrderedDict\n)R"


def pickle_state_dict(tensors: Iterable[tuple[str, tuple[int, ...], np.dtype]], wrap: str | None) -> bytes:
    """Pickle a state dict of contiguous tensors, the n-th in storage "n"; with `wrap`, inside {wrap: ...}."""
    items = b"".join(_text(key) + _tensor(str(i), tuple(shape), dtype) for i, (key, shape, dtype) in enumerate(tensors))
    body = ORDERED_DICT + b"(" + items + b"u"
    if wrap is not None:
        body = b"}" + _text(wrap) + body + b"s"
    return b"\x80\x02" + body + b"."


def pickle_checkpoint(
    tensors: Iterable[tuple[str, tuple[int, ...], np.dtype]], groups: Sequence[str], numbers: Mapping[str, int]
) -> bytes:
    """Pickle {group: state dict} for tensors whose keys begin with "group.", and integers beside the groups."""
    inside: dict[str, list[bytes]] = {group: [] for group in groups}
    for i, (key, shape, dtype) in enumerate(tensors):
        group, _, rest = key.partition(".")
        inside[group].append(_text(rest) + _tensor(str(i), tuple(shape), dtype))
    dicts = [_text(group) + ORDERED_DICT + b"(" + b"".join(items) + b"u" for group, items in inside.items()]
    beside = [_text(name) + _integer(value) for name, value in numbers.items()]
    return b"\x80\x02}(" + b"".join(dicts + beside) + b"u."


def _text(text: str) -> bytes:
    data = text.encode("utf-8")
    return b"X" + struct.pack("<I", len(data)) + data


def _integer(value: int) -> bytes:
    if value < 2**31:
        return b"J" + struct.pack("<i", value)
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def _integers(values: tuple[int, ...]) -> bytes:
    return b"(" + b"".join(map(_integer, values)) + b"t"


def _tensor(storage: str, shape: tuple[int, ...], dtype: np.dtype) -> bytes:
    name, count = TO_TORCH[dtype], int(np.prod(shape, dtype=object))
    typed = name in STORAGE_OF
    version = b"2" if typed else b"3"
    kind = f"ctorch\n{STORAGE_OF[name]}\n" if typed else "ctorch.storage\nUntypedStorage\n"
    length = count if typed else count * dtype.itemsize
    place = b"(" + _text("storage") + kind.encode() + _text(storage) + _text("cpu") + _integer(length) + b"tQ"
    view = place + _integer(0) + _integers(shape) + _integers(row_major(shape))
    tail = b"\x89" + ORDERED_DICT + (b"" if typed else f"ctorch\n{name}\n".encode())
    return b"ctorch._utils\n_rebuild_tensor_v" + version + b"\n(" + view + tail + b"tR"
