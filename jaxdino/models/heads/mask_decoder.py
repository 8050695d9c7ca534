"""Mask queries on the feature maps of a hierarchical network: a pixel decoder and a small transformer decoder.

Each query has a place in the image. It starts from the features there, attends to the pixels inside of its mask, and
gives a class, a mask embedding and a disc about a centre near its place: the mask is the product of the embedding with
the pixel features, plus the disc, so that objects far apart are told apart from the first step.

Sources: Cheng et al. 2022, Mask2Former (arXiv:2112.01527), masked attention and losses of each layer; Wang et al. 2020,
SOLOv2 (arXiv:2003.10152), a mask kernel at each place; Tian et al. 2020, CondInst (arXiv:2003.05664), coordinates
relative to the object; Lin et al. 2017 (arXiv:1612.03144), the feature pyramid.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from jaxdino.core.errors import UserError
from jaxdino.models.attention import attention
from jaxdino.models.heads.fcos import Conv, GroupNorm
from jaxdino.models.initial import truncated_normal
from jaxdino.models.layers import LayerNorm, Linear
from jaxdino.models.output import Output
from jaxdino.models.positions import linear_matrix

STAGES = 4  # feature maps that are read, the last ones of the network
HEADS = 4  # of attention
WAVES = 8  # frequencies of positions along each axis
GOLDEN = 1.324717957244746  # the plastic number: its powers spread points evenly (Roberts 2018, the R2 sequence)


def places(count: int) -> np.ndarray:
    """Return points (count, 2) that are spread evenly over the unit square, x and y, float32."""
    steps = np.array([1 / GOLDEN, 1 / GOLDEN**2])
    return ((0.5 + np.arange(1, count + 1)[:, None] * steps) % 1).astype(np.float32)


def waves(at: np.ndarray) -> np.ndarray:
    """Return sines and cosines (n, 4 `WAVES`) of positions (n, 2) in 0..1, float32."""
    angles = at[:, :, None] * (math.pi * 2.0 ** np.arange(0, WAVES / 2, 0.5))
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=-1).reshape(len(at), -1).astype(np.float32)


def grid_places(size: tuple[int, int]) -> np.ndarray:
    """Return the centres (h w, 2) of a map's cells in 0..1, x and y, rows first."""
    y, x = np.meshgrid(*((np.arange(side) + 0.5) / side for side in size), indexing="ij")
    return np.stack([x, y], axis=-1).reshape(-1, 2).astype(np.float32)


class PixelDecoder(nnx.Module):
    """Feature maps of a network -> as many of one width: lateral layers, sums from coarse to fine, smoothing."""

    def __init__(self, widths: Sequence[int], width: int, rngs: nnx.Rngs):
        self.lateral = nnx.List([Linear(one, width, std=math.sqrt(1 / one), rngs=rngs) for one in widths])
        self.smooth = nnx.List([Conv(width, width, rngs, std=math.sqrt(2 / (9 * width))) for _ in widths])
        self.norms = nnx.List([GroupNorm(width) for _ in widths])

    def __call__(self, maps: Sequence[jax.Array]) -> list[jax.Array]:
        """Map the features, finest first, to maps of the same sizes."""
        found: list[jax.Array] = []
        for place in reversed(range(len(maps))):
            x = self.lateral[place](maps[place])
            x = x if not found else x + enlarged(found[0], x.shape[1:3])
            found.insert(0, jax.nn.relu(self.norms[place](self.smooth[place](x))))
        return found


def enlarged(x: jax.Array, size: Sequence[int]) -> jax.Array:
    """Resize a map (B, h, w, D) bilinearly."""
    rows, columns = (jnp.asarray(linear_matrix(a, b)) for a, b in zip(x.shape[1:3], size, strict=True))
    return jnp.einsum("yh,xw,bhwd->byxd", rows, columns, x)


class Attend(nnx.Module):
    """Attention of queries to keys, with an output projection; positions are added to both, not to the values."""

    def __init__(self, width: int, rngs: nnx.Rngs):
        std = math.sqrt(1 / width)
        self.q, self.k, self.v, self.proj = (Linear(width, width, std=std, rngs=rngs) for _ in range(4))

    def __call__(self, x: jax.Array, x_at: jax.Array, y: jax.Array, y_at: jax.Array, allowed: Any = None) -> jax.Array:
        return self.to(self.k(y + y_at), self.v(y), x, x_at, allowed)

    def to(self, keys: jax.Array, values: jax.Array, x: jax.Array, x_at: jax.Array, allowed: Any = None) -> jax.Array:
        """Attend to projected keys and values (B, M, D)."""
        q, k, v = (_heads(part) for part in (self.q(x + x_at), keys, values))
        out = attention(q, k, v, "xla", allowed=allowed)
        return self.proj(jnp.swapaxes(out, 1, 2).reshape(x.shape))


def _heads(x_BxNxD: jax.Array) -> jax.Array:
    batch, count, width = x_BxNxD.shape
    return jnp.swapaxes(x_BxNxD.reshape(batch, count, HEADS, width // HEADS), 1, 2)


class DecoderLayer(nnx.Module):
    """Attention to the pixels inside of the mask, among the queries, and a feed-forward layer; norms come first."""

    def __init__(self, width: int, rngs: nnx.Rngs):
        self.cross, self.own = Attend(width, rngs), Attend(width, rngs)
        self.fc1 = Linear(width, 4 * width, std=math.sqrt(1 / width), rngs=rngs)
        self.fc2 = Linear(4 * width, width, std=math.sqrt(1 / (4 * width)), rngs=rngs)
        self.norm1, self.norm2, self.norm3 = (LayerNorm(width, 1e-5) for _ in range(3))

    def __call__(self, x: jax.Array, at: jax.Array, pixels: jax.Array, pixels_at: jax.Array, allowed: jax.Array):
        x = x + self.cross(self.norm1(x), at, pixels, pixels_at, allowed)
        normed = self.norm2(x)
        x = x + self.own(normed, at, normed, at)
        return x + self.fc2(jax.nn.relu(self.fc1(self.norm3(x))))


class StagesMaskHead(nnx.Module):
    """The pixel decoder, and `layers` decoder layers on its maps, from coarse to fine and again; in float32."""

    def __init__(self, cfg: Any, width: int, rngs: nnx.Rngs):
        d, std = cfg.width, math.sqrt(1 / cfg.width)
        self.pixels = PixelDecoder([width // 2**level for level in reversed(range(STAGES))], d, rngs)
        self.query = nnx.Param(truncated_normal(rngs, (cfg.queries, d), 0.02))
        self.position = Linear(4 * WAVES, d, std=0.1, rngs=rngs)
        self.start = Linear(d, d, std=std, rngs=rngs)
        self.layers = nnx.List([DecoderLayer(d, rngs) for _ in range(cfg.layers)])
        self.norm = LayerNorm(d, 1e-5)
        self.fc1, self.fc2 = Linear(d, d, std=std, rngs=rngs), Linear(d, d, std=std, rngs=rngs)
        self.disc = Linear(d, 4, std=0.01, rngs=rngs)
        self.class_predictor = Linear(d, cfg.num_classes + 1, std=std, rngs=rngs)
        self.cfg = cfg

    def maps(self, outs: Sequence[Output]) -> list[jax.Array]:
        """Return the maps of the pixel decoder, finest first, float32. Raises UserError for too few feature maps."""
        found = [one.astype(jnp.float32) for one in outs[-1].stages[-STAGES:]]
        if len(found) < STAGES:
            raise UserError(f"the mask head reads {STAGES} feature maps, and the network has {len(found)}")
        return self.pixels(found)

    def __call__(self, outs: Sequence[Output], key: jax.Array | None = None) -> dict[str, jax.Array]:
        """Map a backbone's outputs to the predictions after the last layer, float32; with a key also the earlier ones.

        Returns:
          {"logits": (B, Q, classes + 1), the last for none, "masks": (B, Q, h, w), logits, "aux_logits": (B, layers, Q,
          ...), "aux_masks"}.
        """
        maps = self.maps(outs)
        fine, coarse = maps[0], maps[1:]
        spots = places(self.cfg.queries)
        x = self.query[...][None] + self.start(_sampled(fine, spots))
        at = self.position(jnp.asarray(waves(spots)))[None]
        found = [self.predict(x, fine, spots)]
        for number, layer in enumerate(self.layers):
            level = coarse[len(coarse) - 1 - number % len(coarse)]
            batch, height, width, channels = level.shape
            size = (height, width)
            inside = _shrunk(found[-1]["masks"], size).reshape(batch, self.cfg.queries, -1) > 0
            inside = lax.stop_gradient(inside | ~inside.any(axis=-1, keepdims=True))[:, None]
            pixels_at = self.position(jnp.asarray(waves(grid_places(size))))[None]
            x = layer(x, at, level.reshape(batch, height * width, channels), pixels_at, inside)
            found.append(self.predict(x, fine, spots))
        if key is None:
            return found[-1]
        earlier = {f"aux_{n}": jnp.stack([one[n] for one in found[:-1]], axis=1) for n in ("logits", "masks")}
        return found[-1] | earlier

    def predict(self, x_BxQxD: jax.Array, fine_BxhxwxD: jax.Array, spots: np.ndarray) -> dict[str, jax.Array]:
        """Return the class logits (B, Q, classes + 1) and the masks (B, Q, h, w)."""
        x = self.norm(x_BxQxD)
        _, height, width, channels = fine_BxhxwxD.shape
        embedded = self.fc2(jax.nn.relu(self.fc1(x))) / math.sqrt(channels)
        shift, size, steep = jnp.split(self.disc(x), [2, 3], axis=-1)
        unit = 1 / math.sqrt(self.cfg.queries)  # the distance of neighbouring places
        centre = jnp.asarray(spots)[None] / unit + 2 * jnp.tanh(shift)
        radius, slope = jnp.exp(2 * jnp.clip(size, -4, 4)), jnp.exp(jnp.clip(steep, -4, 3))
        at = jnp.asarray(grid_places((height, width)) / unit).reshape(1, height, width, 2)
        # slope (radius^2 - |at - centre|^2) as a product, so that no array of all queries and pixels is made for it
        parts = [2 * centre, radius - jnp.square(centre).sum(axis=-1, keepdims=True), jnp.full_like(size, -1.0)]
        disc = slope * jnp.concatenate(parts, axis=-1)
        places_of = jnp.concatenate(
            [at, jnp.ones_like(at[..., :1]), jnp.square(at).sum(axis=-1, keepdims=True)], axis=-1
        )
        fine = jnp.concatenate([fine_BxhxwxD, jnp.broadcast_to(places_of, (x.shape[0], height, width, 4))], axis=-1)
        masks = jnp.einsum("bqd,bhwd->bqhw", jnp.concatenate([embedded, disc], axis=-1), fine)
        return {"logits": self.class_predictor(x), "masks": masks}


def _sampled(fine: jax.Array, spots: np.ndarray) -> jax.Array:
    """Return the features (B, n, D) of a map (B, h, w, D) at places (n, 2) in 0..1, of the nearest cell."""
    batch, height, width, channels = fine.shape
    rows, columns = (spots[:, 1] * height).astype(int), (spots[:, 0] * width).astype(int)
    return fine.reshape(batch, height * width, channels)[:, rows * width + columns]


def _shrunk(masks: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Resize masks (B, Q, h, w) to a smaller size, bilinearly."""
    rows, columns = (jnp.asarray(linear_matrix(a, b)) for a, b in zip(masks.shape[2:], size, strict=True))
    return jnp.einsum("yh,xw,bqhw->bqyx", rows, columns, masks)
