"""CLIP's two towers: transformers that differ in embedding, attention mask and pooling."""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from jaxdino.core.errors import UserError
from jaxdino.models import positions
from jaxdino.models.attention import attention
from jaxdino.models.initial import normal
from jaxdino.models.layers import LayerNorm, Linear, drop_path, project_heads
from jaxdino.models.output import Output
from jaxdino.models.patches import PatchEmbed
from jaxdino.models.remat import Remat, repeated


@dataclasses.dataclass(frozen=True)
class VisionConfig:
    """The shape of the image tower: a ViT with a norm before its blocks, and a class token.

    Attributes:
      pos_grid: grid of the position table, which has an extra first row for the class token.
      pos_antialias: how the original code resamples the table to another grid (see `resample_grid`).
    """

    patch_size: int = 32
    width: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_dim: int = 3072
    pos_grid: tuple[int, int] = (7, 7)
    pos_antialias: bool = False
    norm_eps: float = 1e-5


@dataclasses.dataclass(frozen=True)
class TextConfig:
    """The shape of the text tower: causal attention, and the feature at the end-of-text token.

    Attributes:
      context_length: rows of the position table: the longest text in tokens, with start and end tokens.
      eot: id of the end-of-text token; the feature is taken at its first position. None takes the largest id instead.
    """

    width: int = 512
    depth: int = 12
    num_heads: int = 8
    mlp_dim: int = 2048
    vocab_size: int = 49408
    context_length: int = 77
    eot: int | None = None
    norm_eps: float = 1e-5


class Attention(nnx.Module):
    """Multi-head self-attention with one fused qkv projection; `causal`: a token attends to itself and earlier ones."""

    def __init__(self, width: int, num_heads: int, causal: bool, implementation: str, rngs: nnx.Rngs):
        self.qkv = Linear(width, 3 * width, rngs=rngs)
        self.proj = Linear(width, width, rngs=rngs)
        self.num_heads, self.causal, self.implementation = num_heads, causal, implementation

    def __call__(self, x_BxNxD: jax.Array) -> jax.Array:
        q, k, v = project_heads(self.qkv, x_BxNxD, self.qkv.offset, self.num_heads)
        out = attention(q, k, v, self.implementation, causal=self.causal)
        return self.proj(jnp.swapaxes(out, 1, 2).reshape(x_BxNxD.shape))


class Mlp(nnx.Module):
    """Feed-forward layer: fc2(act(fc1(x)))."""

    def __init__(self, width: int, hidden: int, act: Callable[[jax.Array], jax.Array], rngs: nnx.Rngs):
        self.fc1 = Linear(width, hidden, rngs=rngs)
        self.fc2 = Linear(hidden, width, rngs=rngs)
        self.act = act

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.fc2(self.act(self.fc1(x)))


class Block(nnx.Module):
    """Pre-norm transformer block with stochastic depth."""

    def __init__(self, cfg: VisionConfig | TextConfig, act: Callable, drop_rate: float, how: str, rngs: nnx.Rngs):
        self.norm1 = LayerNorm(cfg.width, cfg.norm_eps)
        self.attn = Attention(cfg.width, cfg.num_heads, isinstance(cfg, TextConfig), how, rngs)
        self.norm2 = LayerNorm(cfg.width, cfg.norm_eps)
        self.mlp = Mlp(cfg.width, cfg.mlp_dim, act, rngs)
        self.drop_rate = drop_rate

    def __call__(self, x: jax.Array, key: jax.Array | None) -> jax.Array:
        keys = (None, None) if key is None else jax.random.split(key)
        x = x + drop_path(self.attn(self.norm1(x)), self.drop_rate, keys[0])
        return x + drop_path(self.mlp(self.norm2(x)), self.drop_rate, keys[1])


def _normal(rngs: nnx.Rngs, *shape: int, std: float = 0.02) -> nnx.Param:
    return nnx.Param(normal(rngs, shape, std))


def _blocks(cfg: VisionConfig | TextConfig, act, drop_path: float, how: str, rngs: nnx.Rngs) -> nnx.List:
    rates = [drop_path * i / max(cfg.depth - 1, 1) for i in range(cfg.depth)]
    return nnx.List([Block(cfg, act, rate, how, rngs) for rate in rates])


def run_blocks(blocks: Sequence[Block], x: jax.Array, key: jax.Array | None, remat: Remat) -> list[jax.Array]:
    """Return `x` and the output of each block: depth + 1 arrays."""
    states = [x]
    for i, block in enumerate(blocks):
        step = repeated(block.__call__, remat)
        states.append(step(states[-1], None if key is None else jax.random.fold_in(key, i)))
    return states


class ImageTower(nnx.Module):
    """OpenAI's VisionTransformer. Source: openai/CLIP clip/model.py."""

    def __init__(
        self,
        cfg: VisionConfig,
        embed_dim: int | None,
        *,
        in_channels: int,
        act: Callable,
        drop_path: float,
        how: str,
        rngs: nnx.Rngs,
    ):
        self.patch_embed = PatchEmbed(cfg.patch_size, in_channels, cfg.width, rngs, use_bias=False)
        self.cls_token = _normal(rngs, cfg.width)
        self.pos_embed = _normal(rngs, cfg.pos_grid[0] * cfg.pos_grid[1] + 1, cfg.width)
        self.ln_pre = LayerNorm(cfg.width, cfg.norm_eps)
        self.blocks = _blocks(cfg, act, drop_path, how, rngs)
        self.ln_post = LayerNorm(cfg.width, cfg.norm_eps)
        self.proj = Linear(cfg.width, embed_dim, use_bias=False, rngs=rngs) if embed_dim else None
        self.cfg = cfg

    def embed(self, images: jax.Array, dtype) -> tuple[jax.Array, tuple[int, int]]:
        """Return tokens (B, 1 + h w, D) after `ln_pre`, and the grid (h, w)."""
        patches = self.patch_embed(images.astype(dtype))
        b, h, w, width = patches.shape
        table = self.pos_embed[...]
        cls = (self.cls_token[...] + table[0]).astype(dtype).reshape(1, 1, width)
        grid = table[1:].reshape(*self.cfg.pos_grid, width)
        grid = positions.resample_grid(grid, (h, w), offset=0.0, antialias=self.cfg.pos_antialias)
        patches = (patches + grid[None].astype(dtype)).reshape(b, h * w, width)
        return self.ln_pre(jnp.concatenate([jnp.broadcast_to(cls, (b, 1, width)), patches], axis=1)), (h, w)

    def finish(self, x: jax.Array, grid: tuple[int, int]) -> Output:
        """Apply the final norm to all tokens, and project the class token."""
        x = self.ln_post(x)
        cls, patches = x[:, 0], x[:, 1:].reshape(x.shape[0], *grid, -1)
        return Output(cls=cls, patches=patches, registers=x[:, :0], pooled=self.proj(cls) if self.proj else cls)


def _start(blocks: Sequence[Block], proj: Linear | None, cfg: TextConfig, rngs: nnx.Rngs) -> None:
    """Initialise kernels as in CLIP's training: large enough that texts differ at the end-of-text token from the start.

    Source: openai/CLIP clip/model.py (initialize_parameters).
    """
    width, deep = cfg.width**-0.5, (2 * cfg.depth) ** -0.5
    for block in blocks:
        stds = ((block.attn.qkv, width), (block.attn.proj, width * deep))
        for layer, std in (*stds, (block.mlp.fc1, (2 * cfg.width) ** -0.5), (block.mlp.fc2, width * deep)):
            layer.kernel = _normal(rngs, *layer.kernel.shape, std=std)
    if proj is not None:
        proj.kernel = _normal(rngs, *proj.kernel.shape, std=width)


class TextTower(nnx.Module):
    """CLIP's text transformer. Sources: openai/CLIP clip/model.py; transformers models/clip/modeling_clip.py."""

    def __init__(self, cfg: TextConfig, embed_dim: int | None, *, act: Callable, how: str, rngs: nnx.Rngs):
        self.token_embedding = _normal(rngs, cfg.vocab_size, cfg.width)
        self.pos_embed = _normal(rngs, cfg.context_length, cfg.width, std=0.01)
        self.blocks = _blocks(cfg, act, 0.0, how, rngs)
        self.ln_final = LayerNorm(cfg.width, cfg.norm_eps)
        self.proj = Linear(cfg.width, embed_dim, use_bias=False, rngs=rngs) if embed_dim else None
        _start(self.blocks, self.proj, cfg, rngs)
        self.cfg = cfg

    def embed(self, ids_BxL: jax.Array, dtype) -> jax.Array:
        """Embed ids (B, L) to tokens (B, L, D); L is at most the context length; all ids must be in the vocabulary."""
        length = ids_BxL.shape[1]
        if length > self.cfg.context_length:
            raise UserError(f"texts of {length} tokens are longer than the model's {self.cfg.context_length}")
        return (self.token_embedding[...][ids_BxL] + self.pos_embed[...][None, :length]).astype(dtype)

    def finish(self, x: jax.Array, ids: jax.Array) -> jax.Array:
        """Return the feature (B, E) at the end-of-text token, normed and projected (B, D without a projection)."""
        marked = ids if self.cfg.eot is None else ids == self.cfg.eot
        at = jnp.argmax(marked, axis=1)  # the first of equal values, as in torch
        feature = self.ln_final(jnp.take_along_axis(x, at[:, None, None], axis=1)[:, 0])
        return self.proj(feature) if self.proj else feature
