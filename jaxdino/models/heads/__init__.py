"""Heads by name: what a model predicts from a backbone's outputs, as data.

A head is a frozen dataclass, saved with the weights as `{"name": "linear", "num_classes": 10, "pool": "cls"}`; its
module stands at `head` beside `backbone`, or under the name that `ModelSpec.heads` gives it. To add one, write a module
here and name it in `HEADS`.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol

import jax
import jax.numpy as jnp
from flax import nnx

from jaxdino.core import options
from jaxdino.models.heads.align import AlignHeadConfig
from jaxdino.models.heads.choice import Choice
from jaxdino.models.heads.decoders import DPTHeadConfig, FPNHeadConfig, MLPHeadConfig
from jaxdino.models.heads.depth import DepthDPTHeadConfig, DepthLinearHeadConfig
from jaxdino.models.heads.detr import DETRHeadConfig
from jaxdino.models.heads.fcos import FCOSHeadConfig
from jaxdino.models.heads.linear import LinearHeadConfig
from jaxdino.models.heads.mask_queries import MaskQueriesHeadConfig
from jaxdino.models.heads.patches import PatchesHeadConfig
from jaxdino.models.heads.projection import DINOHeadConfig
from jaxdino.models.output import Output

Blocks = int | tuple[int, ...]
"""The blocks whose outputs a head reads: the last n, or indices from 0, the last block last."""


class Head(Protocol):
    """The interface of a module with classes. One without is called on features (..., D) by the objective."""

    def __call__(self, outs: Sequence[Output], key: jax.Array | None = None) -> dict[str, jax.Array]:
        """Map the outputs of the blocks in `HeadConfig.blocks` to predictions by name, float32.

        Args:
          key: random key, in training only.
        """
        ...


class HeadConfig(Protocol):
    """The interface of every head's configuration, a frozen dataclass.

    Attributes:
      name: its key in `HEADS`. of: what gets a class: "image", "patch", "box" or "mask"; "depth" for a depth of each
        pixel; "" if nothing does.
      num_classes: number of classes; with 0 no `head` is built.
      blocks: see `Blocks`.
      choice: how the classes of an image are chosen from its scores, "logits" (C,); None for a head of patches, or
        without classes.
    """

    name: ClassVar[str]
    of: ClassVar[str]

    @property
    def num_classes(self) -> int: ...

    @property
    def blocks(self) -> Blocks: ...

    @property
    def choice(self) -> Choice | None: ...

    def build(self, width: int, rngs: nnx.Rngs, *, dtype: jnp.dtype = jnp.float32) -> Any:
        """Build the head with random parameters, for a backbone whose outputs have this width.

        Args:
          dtype: the compute dtype of the backbone. Classes are computed in float32.
        """
        ...


HEADS: dict[str, type[HeadConfig]] = {
    head.name: head
    for head in (
        LinearHeadConfig,
        PatchesHeadConfig,
        MLPHeadConfig,
        FPNHeadConfig,
        DPTHeadConfig,
        FCOSHeadConfig,
        DETRHeadConfig,
        MaskQueriesHeadConfig,
        DepthLinearHeadConfig,
        DepthDPTHeadConfig,
        DINOHeadConfig,
        AlignHeadConfig,
    )
}
"""{name: class of the head's configuration}."""

NamedHeads = tuple[tuple[str, HeadConfig], ...]
"""Heads with the names of their modules in a network, which begin the paths of their parameters."""

NO_HEAD = LinearHeadConfig()
"""A head without classes, of which nothing is built."""


def to_json(head: HeadConfig) -> dict[str, Any]:
    """Return the head as values that JSON can hold, with its name."""
    return {"name": head.name, **dataclasses.asdict(head)}  # pyright: ignore[reportArgumentType]


def from_json(fields: Mapping[str, Any], where: str = "head") -> HeadConfig:
    """Rebuild a head; the inverse of `to_json`.

    Args:
      where: name of the fields in errors.

    Raises:
      UserError: for an unknown name or field, with the nearest, and for a value of another type.
    """
    name = fields.get("name")
    options.check_choice(f"{where}: name", name, list(HEADS))
    return options.read(HEADS[str(name)], {key: value for key, value in fields.items() if key != "name"}, where)
