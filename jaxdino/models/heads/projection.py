"""The projection head of self-distillation: the layers from a backbone to the prototypes of DINO and iBOT.

Sources: facebookresearch/dino vision_transformer.py (DINOHead), facebookresearch/dinov2 and dinov3
layers/dino_head.py.
"""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from jaxdino.core.errors import UserError
from jaxdino.core.params import Buffer
from jaxdino.models.batch_norm import BatchNorm
from jaxdino.models.initial import truncated_normal
from jaxdino.models.layer_spec import Layer
from jaxdino.models.layers import Linear, gelu, linear, over_last_axis

LAST_LAYERS = ("weight_norm", "parametrized", "plain")


@dataclasses.dataclass(frozen=True)
class DINOHeadConfig:
    """The shape of a projection head, with the argument names of its published constructor.

    It is a head on a backbone (see `heads.HeadConfig`), and the family `dino_head` of heads alone (see `spec.Config`).

    Attributes:
      in_dim: width of the features. hidden_dim, bottleneck_dim: widths of the feed-forward layers. out_dim: number of
        prototypes.
      num_layers: feed-forward layers up to the bottleneck; a single one is linear.
      use_bn, mlp_bias: whether the hidden layers have a batch norm, and whether all layers have a bias.
      counts: whether the batch norms count their steps, as torch's do since 0.4.1.
      last_layer: "weight_norm" or "parametrized": torch's two spellings of weight norm, with the same forward pass;
        "plain": DINOv3's layer, whose weight is used without normalisation.
      norm_last_layer: keep the prototypes' lengths `last_layer.g` fixed: they are a buffer, not a parameter.
    """

    in_dim: int = 384
    hidden_dim: int = 2048
    bottleneck_dim: int = 256
    out_dim: int = 65536
    num_layers: int = 3
    use_bn: bool = False
    mlp_bias: bool = True
    counts: bool = True
    last_layer: str = "weight_norm"
    norm_last_layer: bool = False
    name: ClassVar[str] = "projection"
    of: ClassVar[str] = ""
    input_kernel: ClassVar[str] = ""
    num_classes = in_channels = 0  # without annotations, so that these are no fields
    blocks, choice = 1, None

    @property
    def width(self) -> int:
        """Width of the output."""
        return self.out_dim

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The feed-forward layers and the prototypes."""
        return (
            Layer("mlp", "block", ("backbone.mlp",)),
            Layer("last_layer", "block", ("backbone.last_layer",)),
        )

    def places(self) -> list[dict[str, int]]:
        """Numbers in torch's Sequential: {l} of linear layers, {b} of batch norms; empty for a single linear layer."""
        if self.num_layers == 1:
            return []
        step = 3 if self.use_bn else 2
        linears = [{"l": step * n} for n in range(self.num_layers)]
        return linears + [{"b": step * n + 1} for n in range(self.num_layers - 1) if self.use_bn]

    def build(
        self,
        width: int | None = None,
        rngs: nnx.Rngs | None = None,
        *,
        dtype: jnp.dtype = jnp.float32,
        **how: Any,
    ) -> "DINOHead":
        """Build the head with random parameters; the other arguments for backbones, `how`, have no effect.

        Raises:
          UserError: for a backbone of another width than `in_dim`, and for a head without layers.
        """
        if width not in (None, self.in_dim):
            raise UserError(
                f"this projection head takes features of width {self.in_dim}, and the backbone's have {width}"
            )
        return DINOHead(self, rngs=rngs or nnx.Rngs(0), dtype=dtype)


class Gelu(nnx.Module):
    """The exact GELU as a module, for lists of layers."""

    def __call__(self, x: jax.Array) -> jax.Array:
        return gelu(x)


class Prototypes(nnx.Module):
    """A weight-normalised linear layer without bias: row k of the weight is g_k v_k / |v_k|.

    Source: Salimans and Kingma 2016 (arXiv:1602.07868). Parameters: v (in, out), g (out,), normalised in float32.
    """

    def __init__(self, cfg: DINOHeadConfig, rngs: nnx.Rngs):
        self.v = nnx.Param(truncated_normal(rngs, (cfg.bottleneck_dim, cfg.out_dim)))
        self.g = (Buffer if cfg.norm_last_layer else nnx.Param)(jnp.ones((cfg.out_dim,)))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Map (..., in) to (..., out)."""
        v = self.v[...].astype(jnp.float32)
        factor = self.g[...].astype(jnp.float32) * lax.rsqrt(jnp.sum(jnp.square(v), axis=0))
        return linear(x, v * over_last_axis(factor, v), None)


class DINOHead(nnx.Module):
    """Feed-forward layers with GELU to an L2-normalised bottleneck, then its products with the prototypes."""

    def __init__(self, cfg: DINOHeadConfig, *, rngs: nnx.Rngs, dtype: jnp.dtype = jnp.float32):
        if cfg.num_layers < 1 or cfg.last_layer not in LAST_LAYERS:
            raise UserError(
                f"a projection head has at least one layer and a last_layer out of {', '.join(LAST_LAYERS)}, "
                f"not {cfg.num_layers} and {cfg.last_layer!r}"
            )
        self.mlp = self._mlp(cfg, rngs)
        plain = cfg.last_layer == "plain"
        self.last_layer = (
            Linear(cfg.bottleneck_dim, cfg.out_dim, use_bias=False, rngs=rngs) if plain else Prototypes(cfg, rngs)
        )
        self.cfg, self.dtype = cfg, dtype

    @staticmethod
    def _mlp(cfg: DINOHeadConfig, rngs: nnx.Rngs) -> Any:
        """Build the layers, numbered as in torch's Sequential."""
        widths = [cfg.in_dim, *[cfg.hidden_dim] * (cfg.num_layers - 1), cfg.bottleneck_dim]
        linears = [Linear(*widths[n : n + 2], use_bias=cfg.mlp_bias, rngs=rngs) for n in range(cfg.num_layers)]
        if cfg.num_layers == 1:
            return linears[0]
        layers: list[nnx.Module] = []
        for hidden in linears[:-1]:
            norm = [BatchNorm(cfg.hidden_dim, count=cfg.counts)] if cfg.use_bn else []
            layers += [hidden, *norm, Gelu()]
        return nnx.List([*layers, linears[-1]])

    def __call__(self, features: jax.Array) -> jax.Array:
        """Map (..., in_dim) to (..., out_dim): with g = 1, the cosines of the bottleneck and the prototypes.

        Raises:
          UserError: if the features have another width.
        """
        return self.last_layer(self.bottleneck(features))

    def bottleneck(self, features: jax.Array) -> jax.Array:
        """Map (..., in_dim) to (..., bottleneck_dim) of length one."""
        if features.shape[-1] != self.cfg.in_dim:
            raise UserError(f"this projection head takes features (..., {self.cfg.in_dim}), not {features.shape}")
        x = features.astype(self.dtype)
        for layer in [self.mlp] if self.cfg.num_layers == 1 else self.mlp:
            x = layer(x)
        return _unit(x, 1e-6 if self.dtype == jnp.float16 else 1e-12)


def _unit(x: jax.Array, eps: float) -> jax.Array:
    """Compute x / max(|x|, eps) along the last axis, in float32; the gradient at zero is finite, 1 / eps."""
    x32 = x.astype(jnp.float32)
    squared = jnp.sum(jnp.square(x32), axis=-1, keepdims=True)
    return (x32 * lax.rsqrt(jnp.maximum(squared, eps * eps))).astype(x.dtype)
