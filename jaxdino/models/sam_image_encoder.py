"""SAM's image encoder: a ViT with attention in windows, a few global blocks, and relative positions.

Sources: facebookresearch/segment-anything segment_anything/modeling/image_encoder.py; Li et al. 2022, Exploring
Plain Vision Transformer Backbones for Object Detection (arXiv:2203.16527); Li et al. 2022, MViTv2
(arXiv:2112.01526), for the decomposed relative positions.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxdino.models import positions
from jaxdino.models.attention import attention
from jaxdino.models.initial import truncated_normal
from jaxdino.models.layers import LayerNorm, Linear, drop_path, gelu, project_heads
from jaxdino.models.patches import PatchEmbed
from jaxdino.models.remat import Remat, repeated
from jaxdino.models.sam_layers import Conv, MLPBlock, run


def relative_positions(table_LxD: jax.Array, n: int) -> jax.Array:
    """Return the vector for each (query, key) pair of one axis, (n, n, d), from a table over the 2 n - 1 distances.

    A table of another length is first resampled linearly, as by torch's `interpolate(mode="linear")`.
    """
    table = table_LxD.astype(jnp.float32)
    if table.shape[0] != 2 * n - 1:
        table = jnp.matmul(positions.linear_matrix(table.shape[0], 2 * n - 1), table, precision="highest")
    steps = np.arange(n)
    return table[steps[:, None] - steps[None, :] + n - 1]


def windows_of(x_BxHxWxD: jax.Array, side: int) -> jax.Array:
    """Split (B, h, w, D) into (B * windows, side, side, D), padded with zeros at the bottom and the right."""
    b, h, w, width = x_BxHxWxD.shape
    x = jnp.pad(x_BxHxWxD, ((0, 0), (0, -h % side), (0, -w % side), (0, 0)))
    rows, columns = x.shape[1] // side, x.shape[2] // side
    x = x.reshape(b, rows, side, columns, side, width).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(b * rows * columns, side, side, width)


def from_windows(windows: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Invert `windows_of`: (B, h, w, D) without the padding, `size` = (h, w)."""
    h, w = size
    side, width = windows.shape[1], windows.shape[-1]
    rows, columns = -(-h // side), -(-w // side)
    x = windows.reshape(-1, rows, columns, side, side, width).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(-1, rows * side, columns * side, width)[:, :h, :w]


class Attention(nnx.Module):
    """Self-attention over a (h, w) grid with decomposed relative positions.

    score(q, k) = q.k / sqrt(d) + q.rel_pos_h[y_q - y_k] + q.rel_pos_w[x_q - x_k].
    """

    def __init__(self, width: int, num_heads: int, side: int, rngs: nnx.Rngs):
        self.qkv = Linear(width, 3 * width, rngs=rngs)
        self.proj = Linear(width, width, rngs=rngs)
        rows = (2 * side - 1, width // num_heads)
        self.rel_pos_h = nnx.Param(truncated_normal(rngs, rows))
        self.rel_pos_w = nnx.Param(truncated_normal(rngs, rows))
        self.num_heads = num_heads

    def __call__(self, x_BxHxWxD: jax.Array) -> jax.Array:
        b, h, w, width = x_BxHxWxD.shape
        q, k, v = project_heads(self.qkv, x_BxHxWxD.reshape(b, h * w, width), self.qkv.offset, self.num_heads)
        out = attention(q, k, v, "xla", relative=self._relative(q, (h, w)))
        return self.proj(jnp.swapaxes(out, 1, 2).reshape(b, h, w, width))

    def _relative(self, q: jax.Array, grid: tuple[int, int]) -> tuple[jax.Array, jax.Array]:
        """Return each query's terms for the h rows (B, H, N, h) and the w columns (B, H, N, w) of the keys."""
        q_grid = q.reshape(*q.shape[:2], *grid, q.shape[-1])
        down, across = (
            relative_positions(table[...], n).astype(q.dtype)
            for table, n in zip((self.rel_pos_h, self.rel_pos_w), grid, strict=True)
        )
        rows = jnp.einsum("bnhwd,hkd->bnhwk", q_grid, down)
        columns = jnp.einsum("bnhwd,wkd->bnhwk", q_grid, across)
        return rows.reshape(*q.shape[:3], -1), columns.reshape(*q.shape[:3], -1)


class Block(nnx.Module):
    """Pre-norm transformer block; attention in windows of `window` patches a side, or global for 0."""

    def __init__(self, cfg, window: int, drop_rate: float, rngs: nnx.Rngs):
        width = cfg.encoder_width
        self.norm1 = LayerNorm(width, cfg.encoder_eps)
        self.attn = Attention(width, cfg.num_heads, window or cfg.grid, rngs)
        self.norm2 = LayerNorm(width, cfg.encoder_eps)
        self.mlp = MLPBlock(width, cfg.mlp_dim, gelu, rngs)
        self.window, self.drop_rate = window, drop_rate

    def __call__(self, x_BxHxWxD: jax.Array, key: jax.Array | None) -> jax.Array:
        keys = (None, None) if key is None else jax.random.split(key)
        x = x_BxHxWxD + self._dropped(self._attended(self.norm1(x_BxHxWxD)), keys[0])
        return x + self._dropped(self.mlp(self.norm2(x)), keys[1])

    def _attended(self, x: jax.Array) -> jax.Array:
        if not self.window:
            return self.attn(x)
        _, h, w, _ = x.shape
        return from_windows(self.attn(windows_of(x, self.window)), (h, w))

    def _dropped(self, branch: jax.Array, key: jax.Array | None) -> jax.Array:
        rows = branch.reshape(branch.shape[0], -1, branch.shape[-1])
        return drop_path(rows, self.drop_rate, key).reshape(branch.shape)


class ImageEncoder(nnx.Module):
    """Map images to an embedding on the patch grid; see `SamConfig`."""

    def __init__(self, cfg, rngs: nnx.Rngs, drop_path: float, dtype: jnp.dtype, remat: Remat):
        width = cfg.encoder_width
        self.patch_embed = PatchEmbed(cfg.patch_size, cfg.in_channels, width, rngs)
        self.pos_embed = nnx.Param(truncated_normal(rngs, (1, cfg.grid, cfg.grid, width)))
        blocks = []
        for i in range(cfg.depth):
            window = 0 if i in cfg.global_attn_indexes else cfg.window_size
            rate = drop_path * i / max(cfg.depth - 1, 1)
            blocks.append(Block(cfg, window, rate, rngs))
        self.blocks = nnx.List(blocks)
        self.neck = nnx.List(
            [
                Conv(width, cfg.width, 1, rngs, use_bias=False),
                LayerNorm(cfg.width, 1e-6),
                Conv(cfg.width, cfg.width, 3, rngs, padding=1, use_bias=False),
                LayerNorm(cfg.width, 1e-6),
            ]
        )
        self.dtype, self.remat = dtype, remat

    def embed(self, images: jax.Array) -> jax.Array:
        """Map images (B, H, W, C) to patches with positions (B, h, w, D); the table is resampled to (h, w)."""
        x = self.patch_embed(images.astype(self.dtype))
        _, h, w, _ = x.shape
        table = positions.resample_grid(self.pos_embed[...][0], (h, w), offset=0.0, antialias=False)
        return x + table[None].astype(x.dtype)

    def hidden_states(self, images: jax.Array, key: jax.Array | None = None) -> list[jax.Array]:
        """Return (B, h, w, D) after the embedding and after each block: depth + 1 arrays."""
        states = [self.embed(images)]
        for i, block in enumerate(self.blocks):
            block_key = None if key is None else jax.random.fold_in(key, i)
            step = repeated(block.__call__, self.remat)
            states.append(step(states[-1], block_key))
        return states

    def __call__(self, images: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """Map normalised float images (B, H, W, C) to (B, h, w, width)."""
        return run(self.neck, self.hidden_states(images, key)[-1])
