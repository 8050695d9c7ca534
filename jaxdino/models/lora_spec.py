"""The settings of LoRA adapters, as in a config; does not import JAX."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from jaxdino.core import options
from jaxdino.core.errors import UserError


@dataclasses.dataclass(frozen=True)
class LoRA:
    """Which linear layers get an adapter, and its shape.

    Attributes:
      rank: columns of A and rows of B.
      alpha: A B is multiplied by alpha / rank, or by alpha / sqrt(rank) with `rslora`.
      dropout: share of A's inputs set to zero in training (see `set_dropout`), in 0..1.
      targets: each a regular expression that matches the end of a layer's path, from a dot: "attn.qkv", "fc[12]",
        r"text\\.blocks\\..*proj"; "q", "k", "v" for a part of a fused qkv, or for q_proj, k_proj, v_proj;
        "w1", "w2" for a part of a fused w12; or one of `lora_targets.KINDS`.
      last_blocks: adapt only this number of last blocks; None adapts all.
      rslora: divide alpha by sqrt(rank) instead of rank.
      dora: scale the columns of W + scale A B to a learned length, the `magnitude` (out,).
    """

    rank: int = 8
    alpha: float = 8.0
    dropout: float = 0.0
    targets: tuple[str, ...] = ("q", "v")
    last_blocks: int | None = None
    rslora: bool = False
    dora: bool = False

    def __post_init__(self):
        targets = (self.targets,) if isinstance(self.targets, str) else tuple(self.targets)
        object.__setattr__(self, "targets", targets)
        blocks = self.last_blocks
        for name, good, want in (
            ("rank", _whole(self.rank) and self.rank > 0, "a whole number above 0"),
            ("alpha", _number(self.alpha) and self.alpha > 0, "a number above 0"),
            ("dropout", _number(self.dropout) and 0 <= self.dropout < 1, "in [0, 1)"),
            ("last_blocks", blocks is None or (_whole(blocks) and blocks > 0), "None or a whole number above 0"),
            ("targets", targets and all(isinstance(t, str) and t for t in targets), "names or patterns of layers"),
        ):
            if not good:
                raise UserError(f"LoRA {name}={getattr(self, name)!r}: give {want}")

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> "LoRA":
        """Read a dict or ConfigDict (see `options.read`)."""
        return options.read(cls, fields, "LoRA")

    @property
    def scale(self) -> float:
        """The factor of A B."""
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
