"""The output of every model."""

import dataclasses
from collections.abc import Sequence

import jax

from jaxdino.core.errors import UserError


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Output:
    """The output of a backbone, after its final norm if it has one, and the predictions of the head on it.

    Attributes:
      cls: (B, D) class token, or the pooled feature map if the network has none.
      patches: (B, h, w, D): patch tokens, or the last feature map.
      registers: (B, R, D), R = 0 without registers.
      pooled: (B, D) the family's pooled output: the class token (through the pooler if the model has one), or the
        pooled feature map.
      stages: the feature maps (B, h, w, D of the stage) of a hierarchical network, in order; () otherwise.
      predictions: what the head gives, by name (see `jaxdino.models.heads`); {} without a head.
    """

    cls: jax.Array
    patches: jax.Array
    registers: jax.Array
    pooled: jax.Array
    stages: tuple[jax.Array, ...] = ()
    predictions: dict[str, jax.Array] = dataclasses.field(default_factory=dict)

    @property
    def logits(self) -> jax.Array | None:
        """The prediction "logits": (B, classes), or (B, h, w, classes) of patches; None without a head that has it."""
        return self.predictions.get("logits")


def chosen(n: int | Sequence[int], count: int, what: str) -> list[int]:
    """Return indices from 0, in the given order: the last `n` of `count` blocks or stages, or those listed in `n`.

    Raises:
      UserError: if there are no such blocks or stages.
    """
    places = list(range(count - n, count) if isinstance(n, int) else n)
    if not places or not all(0 <= place < count for place in places):
        raise UserError(f"n={n} asks for {what} that the model does not have: it has {what} 0 to {count - 1}")
    return places
