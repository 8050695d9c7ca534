"""The linear classification head on pooled features of a backbone."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from jaxdino.core.errors import UserError
from jaxdino.core.options import check_range
from jaxdino.core.rules import did_you_mean
from jaxdino.models.heads import calibration
from jaxdino.models.heads.calibration import Calibration
from jaxdino.models.heads.choice import AboveThresholds, Choice, MostProbable
from jaxdino.models.layers import Linear
from jaxdino.models.output import Output


@dataclasses.dataclass(frozen=True)
class Pool:
    """The input features of a classification head.

    Attributes:
      features: maps the outputs of the last `blocks` blocks, in order, to (B, widths x D).
    """

    features: Callable[[Sequence[Output]], jax.Array]
    widths: int = 1
    blocks: int = 1


def _mean(outs: Sequence[Output]) -> jax.Array:
    return outs[-1].patches.mean(axis=(1, 2))


def _cls_mean(outs: Sequence[Output]) -> jax.Array:
    return jnp.concatenate([*(out.cls for out in outs), _mean(outs)], axis=-1)


POOLS = {
    "cls": Pool(lambda outs: outs[-1].cls),
    "mean": Pool(_mean),
    "cls_mean": Pool(_cls_mean, widths=2),
    "cls4_mean": Pool(_cls_mean, widths=5, blocks=4),
}
"""Input of the head: the class token, the mean patch, both side by side (DINOv2's and DINOv3's linear head), or the
class tokens of the last four blocks and the mean patch (DINOv2's linear head of four layers).

Source of the last two: facebookresearch/dinov2 hub/classifiers.py.
"""


def pool_named(name: str) -> Pool:
    """Return one of `POOLS`. Raise UserError with the nearest names if it does not exist."""
    if name not in POOLS:
        raise UserError(f"pool {name!r} is not known; {did_you_mean(name, POOLS)}")
    return POOLS[name]


@dataclasses.dataclass(frozen=True)
class LinearHeadConfig:
    """The shape of a linear classification head; see `heads.HeadConfig`.

    Attributes:
      pool: a key of `POOLS`; without classes, the pooling that a new head would have.
      thresholds: for an image with several labels, the probability from which it has each class; () for one label.
        They are for probabilities before calibration.
      calibration: how scores become probabilities; None for softmax, or sigmoid for several labels.
    """

    num_classes: int = 0
    pool: str = "cls"
    thresholds: tuple[float, ...] = ()
    calibration: Calibration | None = None
    name: ClassVar[str] = "linear"
    of: ClassVar[str] = "image"

    def __post_init__(self):
        check_range("num_classes", self.num_classes, "[0, inf)")
        pool_named(self.pool)
        check_range("thresholds", self.thresholds, "[0, 1]")
        if len(self.thresholds) not in (0, self.num_classes):
            raise UserError(f"there are {len(self.thresholds)} thresholds for {self.num_classes} classes")
        if self.calibration is not None:
            if not isinstance(self.calibration, Calibration):  # as `model.json` has it
                object.__setattr__(self, "calibration", calibration.from_json(self.calibration))
            self.calibration.check(self.num_classes)

    @property
    def blocks(self) -> int:
        """Number of last blocks whose outputs the head reads."""
        return POOLS[self.pool].blocks

    @property
    def choice(self) -> Choice:
        """How an image's classes are chosen: all above their thresholds, or without thresholds the most probable."""
        if self.thresholds:
            return AboveThresholds(self.thresholds, self.calibration)
        return MostProbable(self.calibration)

    def build(self, width: int, rngs: nnx.Rngs, *, dtype: jnp.dtype = jnp.float32) -> "LinearHead":
        """Build the head with a small random kernel (std 0.02) and zero bias."""
        return LinearHead(self, width, rngs)


class LinearHead(Linear):
    """A linear layer, which can have an adapter, on pooled features; computed in float32."""

    def __init__(self, cfg: LinearHeadConfig, width: int, rngs: nnx.Rngs):
        super().__init__(width * POOLS[cfg.pool].widths, cfg.num_classes, rngs=rngs)
        self.cfg = cfg

    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride] (its input is a backbone's outputs)
        self, outs: Sequence[Output], key: jax.Array | None = None
    ) -> dict[str, jax.Array]:
        """Map a backbone's outputs to {"logits": (B, classes) float32}; `key` is not used."""
        return {"logits": super().__call__(POOLS[self.cfg.pool].features(outs).astype(jnp.float32))}
