"""SAM's prompt encoder: embed points, boxes and masks.

Source: facebookresearch/segment-anything segment_anything/modeling/prompt_encoder.py; Tancik et al. 2020, Fourier
Features (arXiv:2006.10739), for the positions.
"""

import math

import jax
import jax.numpy as jnp
from flax import nnx

from jaxdino.core.errors import UserError
from jaxdino.core.params import Buffer
from jaxdino.models.initial import normal
from jaxdino.models.layers import LayerNorm, over_last_axis
from jaxdino.models.sam_layers import Conv, Embedding, Gelu, run

BACKGROUND, FOREGROUND, TOP_LEFT, BOTTOM_RIGHT, PADDING, IGNORED = 0, 1, 2, 3, -1, -10
"""Labels of points: outside the object, inside, the corners of a box, no point (a learned vector), and
transformers' own padding, zeros. With corners as points, only some rows of a batch may have a box.

Source of the corners: facebookresearch/segment-anything segment_anything/utils/onnx.py (_embed_points).
"""


class Positions(nnx.Module):
    """Random Fourier features, `positional_encoding_gaussian_matrix` (2, width / 2): a buffer of the checkpoint."""

    def __init__(self, width: int, rngs: nnx.Rngs):
        self.positional_encoding_gaussian_matrix = Buffer(normal(rngs, (2, width // 2)))

    def __call__(self, xy: jax.Array) -> jax.Array:
        """Map (..., 2), x and y as shares of the frame, 0 to 1, to (..., width) float32, sines before cosines."""
        matrix = self.positional_encoding_gaussian_matrix[...].astype(jnp.float32)
        xy = 2 * xy.astype(jnp.float32) - 1
        x_row, y_row = (over_last_axis(row, xy) for row in matrix)
        angles = 2 * math.pi * (xy[..., :1] * x_row + xy[..., 1:] * y_row)  # not a matmul, which rounds on accelerators
        return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


class PromptEncoder(nnx.Module):
    """Map prompts to sparse embeddings (a token for each point and box corner) and a dense one (of the mask)."""

    def __init__(self, cfg, rngs: nnx.Rngs, dtype: jnp.dtype):
        width, channels = cfg.width, cfg.mask_channels
        self.pe_layer = Positions(width, rngs)
        self.point_embeddings = nnx.List([Embedding(1, width, rngs) for _ in range(4)])
        self.not_a_point_embed = Embedding(1, width, rngs)
        self.no_mask_embed = Embedding(1, width, rngs)
        self.mask_downscaling = nnx.List(
            [
                Conv(1, channels // 4, 2, rngs, stride=2),
                LayerNorm(channels // 4, 1e-6),
                Gelu(),
                Conv(channels // 4, channels, 2, rngs, stride=2),
                LayerNorm(channels, 1e-6),
                Gelu(),
                Conv(channels, width, 1, rngs),
            ]
        )
        self.patch_size, self.dtype = cfg.patch_size, dtype

    def image_positions(self, grid: tuple[int, int]) -> jax.Array:
        """Return (h, w, width), the positions of the cells' centres."""
        ys, xs = ((jnp.arange(n) + 0.5) / n for n in grid)
        centres = jnp.stack(jnp.meshgrid(xs, ys, indexing="xy"), axis=-1)
        return self.pe_layer(centres).astype(self.dtype)

    def __call__(
        self,
        points: jax.Array | None = None,
        labels: jax.Array | None = None,
        boxes: jax.Array | None = None,
        masks: jax.Array | None = None,
        *,
        grid: tuple[int, int],
        pad: bool | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        """Embed P prompts for each of B images; arguments that are None are left out.

        Args:
          points: (B, P, K, 2), x and y in pixels of the model's input frame, which is `grid` patches large.
          labels: (B, P, K) int, see `FOREGROUND` and the other labels.
          boxes: (B, P, 4): x1, y1, x2, y2 in pixels of the input frame.
          masks: (B, P or 1, 4 h, 4 w) logits.
          grid: (h, w) of the image embedding.
          pad: whether to add a padding point to the points; None adds it if there are no boxes, as SAM does.

        Returns:
          sparse (B, P, N, width), N = K + 1, 2 or K + 2; (B, P of the masks, 0, width) without points and boxes;
          dense (B, P or 1, h, w, width), or (1, 1, 1, 1, width) without masks.
        """
        tokens = []
        if points is not None:
            if labels is None:
                raise UserError("points need labels: 1 in the object, 0 outside it, -1 no point")
            tokens.append(self._points(points, labels, boxes is None if pad is None else pad, grid))
        if boxes is not None:
            tokens.append(self._boxes(boxes, grid))
        batch = masks.shape[:2] if masks is not None else (1, 1)
        width = self.no_mask_embed.embedding.shape[-1]
        sparse = jnp.concatenate(tokens, axis=2) if tokens else jnp.zeros((*batch, 0, width))
        return sparse.astype(self.dtype), self._masks(masks)

    def _placed(self, xy: jax.Array, grid: tuple[int, int]) -> jax.Array:
        """Map pixel coordinates (..., 2) to position features; half a pixel is added, to the pixel's centre."""
        sides = jnp.array([grid[1] * self.patch_size, grid[0] * self.patch_size], jnp.float32)
        xy = xy.astype(jnp.float32) + 0.5
        return self.pe_layer(xy / over_last_axis(sides, xy))

    def _points(self, points: jax.Array, labels: jax.Array, pad: bool, grid: tuple[int, int]) -> jax.Array:
        if pad:
            points = jnp.pad(points, ((0, 0), (0, 0), (0, 1), (0, 0)))
            labels = jnp.pad(labels, ((0, 0), (0, 0), (0, 1)), constant_values=PADDING)
        where = self._placed(points, grid)

        def vector(embedding: Embedding) -> jax.Array:
            return over_last_axis(embedding.embedding[...][0], where)

        label, token = labels[..., None], where
        for kind, embedding in enumerate(self.point_embeddings):  # the labels 0 to 3
            token = jnp.where(label == kind, where + vector(embedding), token)
        token = jnp.where(label == PADDING, vector(self.not_a_point_embed), token)
        return jnp.where(label == IGNORED, 0.0, token)

    def _boxes(self, boxes: jax.Array, grid: tuple[int, int]) -> jax.Array:
        corners = self._placed(boxes.reshape(*boxes.shape[:2], 2, 2), grid)
        kinds = jnp.concatenate([self.point_embeddings[n].embedding[...] for n in (2, 3)], axis=0)
        return corners + kinds[None, None]

    def _masks(self, masks: jax.Array | None) -> jax.Array:
        if masks is None:
            return self.no_mask_embed.embedding[...][None, None, None].astype(self.dtype)
        b, p, height, wide = masks.shape
        dense = run(self.mask_downscaling, masks.reshape(b * p, height, wide, 1).astype(self.dtype))
        return dense.reshape(b, p, *dense.shape[1:])
