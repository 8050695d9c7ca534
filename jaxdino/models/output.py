"""What every backbone gives."""

import dataclasses

import jax


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Output:
    """What a backbone gives, after its final norm if it has one.

    Attributes:
      cls: (B, D) class token; of a network without one, the pooled feature map.
      patches: (B, h, w, D): patch tokens, or the last feature map.
      registers: (B, R, D), R = 0 without registers.
      pooled: (B, D) the family's pooled output: the class token (through the pooler if the model has one), or the
        pooled feature map.
      stages: the feature maps (B, h, w, D of the stage) of a hierarchical network, in order; () of others.
      logits: (B, classes), or None without a head.
    """

    cls: jax.Array
    patches: jax.Array
    registers: jax.Array
    pooled: jax.Array
    stages: tuple[jax.Array, ...] = ()
    logits: jax.Array | None = None
