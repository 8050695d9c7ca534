"""One vision transformer for DINO, DINOv2, DINOv3 and timm-style ViTs: `ViTConfig` holds the differences."""

import dataclasses
import math
from collections.abc import Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from jaxdino.core import sharding
from jaxdino.core.params import Buffer
from jaxdino.models import positions
from jaxdino.models.attention import attention
from jaxdino.models.initial import truncated_normal
from jaxdino.models.layer_spec import Layer
from jaxdino.models.layers import LayerNorm, LayerScale, Linear, drop_path, gelu, project_heads
from jaxdino.models.output import Output, chosen
from jaxdino.models.patches import PatchEmbed
from jaxdino.models.remat import Remat, repeated
from jaxdino.models.rope import rope_periods, rope_tables, rotate


@dataclasses.dataclass(frozen=True)
class ViTConfig:
    """The shape of a ViT and the details of its family; all of it can be derived from a checkpoint.

    Attributes:
      mlp_dim: hidden width of the feed-forward layer (of each half, for SwiGLU).
      qkv_bias: whether q, k, v have a bias; mask_k_bias: DINOv3 multiplies the key's part of it by zero.
      positions: "learned" (a table over `pos_grid`, with an extra row for the class token if `pos_cls`) or "rope".
      pos_offset, pos_antialias: how the family resamples the table to another grid (see `resample_grid`).
      local_cls_norm: DINOv3's second norm for local crops: kept for export, unused in the forward pass.
      pooler: transformers' ViTModel pools the class token through tanh(dense).
    """

    patch_size: int = 16
    width: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_dim: int = 3072
    swiglu: bool = False
    qkv_bias: bool = True
    mask_k_bias: bool = False
    layer_scale: bool = False
    num_registers: int = 0
    positions: str = "learned"
    pos_grid: tuple[int, int] = (14, 14)
    pos_cls: bool = True
    pos_offset: float = 0.0
    pos_antialias: bool = False
    rope_base: float = 100.0
    mask_token: bool = False
    local_cls_norm: bool = False
    pooler: bool = False
    norm_eps: float = 1e-6
    in_channels: int = 3
    input_kernel: ClassVar[str] = "backbone.patch_embed.proj.kernel"

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.width // self.num_heads

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers from the input to the output: the embedding, each block, the final norm."""
        stem = ("cls_token", "pos_embed", "register_tokens", "mask_token", "patch_embed", "rope")
        top = ("norm", "local_cls_norm", "pooler")
        return (
            Layer("embed", "stem", tuple(f"backbone.{name}" for name in stem)),
            *(Layer(f"blocks.{i}", "block", (f"backbone.blocks.{i}",)) for i in range(self.depth)),
            Layer("norm", "norm", tuple(f"backbone.{name}" for name in top)),
        )

    def places(self) -> list[dict[str, int]]:
        """Values of a weight table's `{i}`: each block."""
        return [{"i": i} for i in range(self.depth)]

    def with_channels(self, channels: int) -> "ViTConfig":
        """Return the configuration for images with this number of channels."""
        return dataclasses.replace(self, in_channels=channels)

    def build(self, **how) -> "ViT":
        """Build the network with random parameters; `how` are arguments of `ViT`."""
        return ViT(self, **how)


class Attention(nnx.Module):
    """Multi-head self-attention with one fused qkv projection, columns ordered q, k, v and then by head."""

    def __init__(self, cfg: ViTConfig, implementation: str, rngs: nnx.Rngs):
        self.qkv = Linear(cfg.width, 3 * cfg.width, use_bias=cfg.qkv_bias, rngs=rngs)
        self.proj = Linear(cfg.width, cfg.width, rngs=rngs)
        self.num_heads = cfg.num_heads
        self.mask_k_bias = cfg.mask_k_bias
        self.implementation = implementation

    def __call__(
        self, x_BxNxD: jax.Array, rope: tuple[jax.Array, jax.Array] | None, allowed: jax.Array | None = None
    ) -> jax.Array:
        b, n, width = x_BxNxD.shape
        q, k, v = self._heads(x_BxNxD, rope)
        out = attention(q, k, v, self.implementation, allowed=allowed)
        return self.proj(jnp.swapaxes(out, 1, 2).reshape(b, n, width))

    def first_row(self, x_BxNxD: jax.Array, rope: tuple[jax.Array, jax.Array] | None) -> jax.Array:
        """Return the attention of the first token in each head: the softmax (B, H, N), float32."""
        q, k, _ = self._heads(x_BxNxD, rope)
        q = q[:, :, :1] * (1 / math.sqrt(q.shape[-1]))
        scores = jnp.einsum("bhqd,bhkd->bhqk", q, k, preferred_element_type=jnp.float32)
        return jax.nn.softmax(scores[:, :, 0], axis=-1)

    def _heads(self, x: jax.Array, rope: tuple[jax.Array, jax.Array] | None) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Return q, k, v (B, H, N, d), with q and k rotated by their positions."""
        q, k, v = project_heads(self.qkv, x, self._bias(x.shape[-1]), self.num_heads)
        if rope is not None:
            q, k = rotate(q, *rope), rotate(k, *rope)
        return q, k, v

    def _bias(self, width: int) -> jax.Array | None:
        """Return the bias of q, k, v (3 width,), with the key's part zeroed as the family does."""
        bias = self.qkv.offset
        if bias is None or not self.mask_k_bias:
            return bias
        return bias * jnp.repeat(jnp.array([1, 0, 1], bias.dtype), width)


class Mlp(nnx.Module):
    """Feed-forward layer: fc2(gelu(fc1(x)))."""

    def __init__(self, cfg: ViTConfig, rngs: nnx.Rngs):
        self.fc1 = Linear(cfg.width, cfg.mlp_dim, rngs=rngs)
        self.fc2 = Linear(cfg.mlp_dim, cfg.width, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.fc2(gelu(self.fc1(x)))


class SwiGLU(nnx.Module):
    """SwiGLU layer: w3(silu(w1 x) * w2 x), w1 and w2 fused in `w12` (Shazeer 2020, arXiv:2002.05202)."""

    def __init__(self, cfg: ViTConfig, rngs: nnx.Rngs):
        self.w12 = Linear(cfg.width, 2 * cfg.mlp_dim, rngs=rngs)
        self.w3 = Linear(cfg.mlp_dim, cfg.width, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        gate, value = self.w12.parts(x, self.w12.offset, 2)
        return self.w3(jax.nn.silu(gate) * value)


class Block(nnx.Module):
    """Pre-norm transformer block with optional layer scale and stochastic depth."""

    def __init__(self, cfg: ViTConfig, drop_rate: float, implementation: str, rngs: nnx.Rngs):
        self.norm1 = LayerNorm(cfg.width, cfg.norm_eps)
        self.attn = Attention(cfg, implementation, rngs)
        self.ls1 = LayerScale(cfg.width, 1.0) if cfg.layer_scale else None
        self.norm2 = LayerNorm(cfg.width, cfg.norm_eps)
        self.mlp = (SwiGLU if cfg.swiglu else Mlp)(cfg, rngs)
        self.ls2 = LayerScale(cfg.width, 1.0) if cfg.layer_scale else None
        self.drop_rate = drop_rate

    def __call__(self, x: jax.Array, rope, key: jax.Array | None, allowed: jax.Array | None = None) -> jax.Array:
        keys = (None, None) if key is None else jax.random.split(key)
        branch = self.attn(self.norm1(x), rope, allowed)
        x = x + drop_path(self.ls1(branch) if self.ls1 else branch, self.drop_rate, keys[0])
        branch = self.mlp(self.norm2(x))
        return x + drop_path(self.ls2(branch) if self.ls2 else branch, self.drop_rate, keys[1])


class Rope(nnx.Module):
    """DINOv3's rotary periods (head_dim / 4,), a buffer of the checkpoint."""

    def __init__(self, cfg: ViTConfig):
        self.periods = Buffer(jnp.asarray(rope_periods(cfg.head_dim, cfg.rope_base)))


class ViT(nnx.Module):
    """A vision transformer; see `ViTConfig` for its shape and `Output` for its output.

    Sources: facebookresearch/dino vision_transformer.py, facebookresearch/dinov2 and dinov3
    models/vision_transformer.py, huggingface/pytorch-image-models timm/models/vision_transformer.py.
    """

    def __init__(
        self,
        cfg: ViTConfig,
        *,
        rngs: nnx.Rngs,
        drop_path: float = 0.0,
        dtype: jnp.dtype = jnp.float32,
        attention: str = "xla",
        remat: Remat = False,
    ):
        self.patch_embed = PatchEmbed(cfg.patch_size, cfg.in_channels, cfg.width, rngs)
        self.cls_token = nnx.Param(truncated_normal(rngs, (1, 1, cfg.width)))
        if cfg.num_registers:
            self.register_tokens = nnx.Param(truncated_normal(rngs, (1, cfg.num_registers, cfg.width)))
        if cfg.mask_token:
            self.mask_token = nnx.Param(jnp.zeros((1, cfg.width)))
        if cfg.positions == "learned":
            rows = cfg.pos_grid[0] * cfg.pos_grid[1] + cfg.pos_cls
            self.pos_embed = nnx.Param(truncated_normal(rngs, (1, rows, cfg.width)))
        else:
            self.rope = Rope(cfg)
        rates = [drop_path * i / max(cfg.depth - 1, 1) for i in range(cfg.depth)]
        self.blocks = nnx.List([Block(cfg, rate, attention, rngs) for rate in rates])
        self.norm = LayerNorm(cfg.width, cfg.norm_eps)
        if cfg.local_cls_norm:
            self.local_cls_norm = LayerNorm(cfg.width, cfg.norm_eps)
        if cfg.pooler:
            self.pooler = Linear(cfg.width, cfg.width, rngs=rngs)
        self.cfg, self.dtype, self.remat = cfg, dtype, remat

    def embed(self, images: jax.Array, mask: jax.Array | None = None) -> tuple[jax.Array, tuple[int, int]]:
        """Return tokens (B, 1 + R + h w, D) in the order class, registers, patches, and the grid (h, w).

        Args:
          images: (B, H, W, C) float, normalised.
          mask: (B, h, w) bool; True patches are replaced by the mask token.
        """
        cfg = self.cfg
        patches = self.patch_embed(images.astype(self.dtype))
        b, h, w, width = patches.shape
        if mask is not None:
            patches = jnp.where(mask[..., None], self.mask_token[...].astype(self.dtype)[:, None, None], patches)
        cls = self.cls_token[...].astype(self.dtype)
        if cfg.positions == "learned":
            table = self.pos_embed[...]
            if cfg.pos_cls:
                cls = cls + table[:, :1].astype(self.dtype)
            grid = table[0, int(cfg.pos_cls) :].reshape(*cfg.pos_grid, width)
            grid = positions.resample_grid(grid, (h, w), offset=cfg.pos_offset, antialias=cfg.pos_antialias)
            patches = patches + grid[None].astype(self.dtype)
        tokens = [jnp.broadcast_to(cls, (b, 1, width)), patches.reshape(b, h * w, width)]
        if cfg.num_registers:
            registers = self.register_tokens[...].astype(self.dtype)
            tokens.insert(1, jnp.broadcast_to(registers, (b, cfg.num_registers, width)))
        return jnp.concatenate(tokens, axis=1), (h, w)

    def hidden_states(self, images: jax.Array, mask=None, key=None) -> tuple[list[jax.Array], tuple[int, int]]:
        """Return tokens after the embedding and after each block, before the final norm: depth + 1 arrays."""
        x, grid = self.embed(images, mask)
        rope = self.rotary(grid)
        states = [x]
        for i in range(len(self.blocks)):
            states.append(self.step(i, states[-1], rope, key))
        return states, grid

    def step(self, i: int, x: jax.Array, rope, key: jax.Array | None, allowed: jax.Array | None = None) -> jax.Array:
        """Return the tokens (B, N, D) after block `i`, given those before it.

        Args:
          rope: of `rotary`. key: random key of the whole network. allowed: see `attention`.
        """
        block = self.blocks[i]
        block_key = None if key is None else jax.random.fold_in(key, i)
        step = repeated(block.__call__, self.remat)
        more = () if allowed is None else (allowed,)
        return sharding.constrain(step(x, rope, block_key, *more), sharding.BATCH_AXES)

    def rotary(self, grid: tuple[int, int], extra: int = 0) -> tuple[jax.Array, jax.Array] | None:
        """Return the tables of rotary positions, None for learned ones; `extra` tokens come before the class token."""
        if self.cfg.positions != "rope":
            return None
        return rope_tables(*grid, self.rope.periods[...], prefix=extra + 1 + self.cfg.num_registers)

    def cls_attention(self, images: jax.Array) -> tuple[jax.Array, tuple[int, int]]:
        """Return the attention of the last block's class token: (B, H, 1 + R + h w) float32, and the grid (h, w).

        Each head's row sums to 1 over the class token itself, the registers and the patches.

        Source: facebookresearch/dino vision_transformer.py get_last_selfattention, first row.
        """
        states, grid = self.hidden_states(images)
        last = self.blocks[-1]
        return last.attn.first_row(last.norm1(states[-2]), self.rotary(grid)), grid

    def last_block(self, x: jax.Array, grid: tuple[int, int]) -> jax.Array:
        """Return the tokens after the last block, of those before it (`hidden_states()[0][-2]`)."""
        return self.blocks[-1](x, self.rotary(grid), None)

    def finish(self, x: jax.Array, grid: tuple[int, int], norm: bool = True) -> Output:
        """Apply the final norm to the tokens, if wanted, and return them as an `Output`."""
        x = self.norm(x) if norm else x
        first = 1 + self.cfg.num_registers
        cls, registers, patches = x[:, 0], x[:, 1:first], x[:, first:].reshape(x.shape[0], *grid, -1)
        pooled = jnp.tanh(self.pooler(cls)) if self.cfg.pooler else cls
        return Output(cls=cls, patches=patches, registers=registers, pooled=pooled)

    def __call__(self, images: jax.Array, *, mask: jax.Array | None = None, key: jax.Array | None = None) -> Output:
        """Map normalised float images (B, H, W, C) to Output. With a key, stochastic depth is active."""
        states, grid = self.hidden_states(images, mask, key)
        return self.finish(states[-1], grid)

    def intermediate_layers(
        self,
        images: jax.Array,
        n: int | Sequence[int] = 1,
        *,
        mask: jax.Array | None = None,
        key: jax.Array | None = None,
        norm: bool = True,
    ) -> list[Output]:
        """Return the outputs of the last `n` blocks, or of the blocks with the given indices.

        Args:
          norm: whether the final norm is applied to each.
        """
        states, grid = self.hidden_states(images, mask, key)
        places = chosen(n, self.cfg.depth, "blocks")
        return [self.finish(states[i + 1], grid, norm) for i in places]
