"""What a compiled program sends between devices, read from its text."""

import math
import re
from collections.abc import Iterable
from typing import NamedTuple

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_CALL = re.compile(rf"= (.*?) ({'|'.join(KINDS)})(-start)?\((.*)")
_ARRAY = re.compile(r"\b(pred|[suf]\d+|bf16)\[([\d,]*)\]")
_TILES = re.compile(r"replica_groups=\[(?:\d+,)*(\d+)\]<=")
_LISTED = re.compile(r"replica_groups=\{\{([\d,]*)\}")
_NAMED = re.compile(r"replica_groups=mesh\[(.*?)\].*?\{(.*?)\}")


class Collective(NamedTuple):
    """One operation.

    Attributes:
      group: number of devices that exchange with each other. size: bytes of its result on one device.
      dtypes: element types. sent: bytes that a device sends, by the usual ring algorithms.
    """

    kind: str
    group: int
    size: int
    dtypes: tuple[str, ...]

    @property
    def sent(self) -> float:
        """Bytes that one device sends: all-reduce 2 S (n - 1) / n, all-gather and all-to-all S (n - 1) / n, ..."""
        share = (self.group - 1) / self.group
        if self.kind == "collective-permute":
            return self.size
        if self.kind == "reduce-scatter":  # the result is a part
            return self.size * (self.group - 1)
        return self.size * share * (2 if self.kind == "all-reduce" else 1)


def collectives(program: str, devices: int) -> list[Collective]:
    """Return the collectives in the text of a compiled program (`Compiled.as_text`), each call once.

    Args:
      devices: of the whole program: the group of an operation that names none.
    """
    found = []
    for line in program.splitlines():
        if call := _CALL.search(line):
            arrays = _ARRAY.findall(call[1])
            if call[3] and call[2] != "all-reduce":  # an asynchronous start also returns its operands, first
                arrays = arrays[len(arrays) // 2 :]
            size = sum(_bytes(name) * math.prod(int(n) for n in shape.split(",") if n) for name, shape in arrays)
            found.append(Collective(call[2], _group(line, devices), size, tuple(name for name, _ in arrays)))
    return found


def by_kind(found: Iterable[Collective]) -> dict[str, float]:
    """Return {kind: bytes that one device sends}, without kinds that do not occur."""
    sums = dict.fromkeys(KINDS, 0.0)
    for one in found:
        sums[one.kind] += one.sent
    return {kind: sent for kind, sent in sums.items() if sent}


def _bytes(dtype: str) -> int:
    return 1 if dtype == "pred" else int(re.sub(r"\D", "", dtype)) // 8


def _group(line: str, devices: int) -> int:
    """Return the size of the groups in each of the forms in which XLA prints them."""
    if tiles := _TILES.search(line):
        return int(tiles[1])
    if listed := _LISTED.search(line):
        return len(listed[1].split(","))
    if named := _NAMED.search(line):
        sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", named[1])}
        axes = re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", named[2])  # an axis, or a part of one: 'a':(1)2
        return math.prod(int(part) if part else sizes[name] for name, part in axes)
    return devices
