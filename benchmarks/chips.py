"""Published figures of accelerators, for estimates by roofline. They are data sheets', not measurements."""

from typing import NamedTuple

from benchmarks.collectives import Collective


class Chip(NamedTuple):
    """One accelerator.

    Attributes:
      flops: dense bfloat16 operations in a second. memory: bytes. bandwidth: of its memory, bytes in a second.
      near: bytes in a second that it sends to the `island` chips around it. far: to any other.
    """

    name: str
    flops: float
    memory: int
    bandwidth: float
    near: float
    island: int
    far: float

    def sending(self, found: list[Collective]) -> float:
        """Return the seconds that the collectives take, if nothing else happens meanwhile.

        Groups of up to `island` devices are taken to lie within one island.
        """
        return sum(one.sent / (self.near if one.group <= self.island else self.far) for one in found)


CHIPS = (
    Chip("H100", 989e12, 80 * 10**9, 3.35e12, 450e9, 8, 50e9),
    Chip("TPU v5p", 459e12, 95 * 10**9, 2.765e12, 600e9, 8960, 600e9),
)
"""H100 SXM: NVLink 900 GB/s both ways together, eight in a DGX H100, each with one 400 Gb/s network port.
TPU v5p: 4,800 Gb/s of interconnect a chip, pods of 8,960.

Sources: NVIDIA H100 Tensor Core GPU data sheet; NVIDIA DGX H100 data sheet; Google Cloud TPU v5p documentation.
"""
