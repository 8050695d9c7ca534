"""Masked image prediction: hide patches, predict their pixels, and summarise the picture in the class token.

Source: Xie et al. 2022, SimMIM (arXiv:2111.09886), a linear decoder over the encoder's own mask token; the
class token's share, which predicts a thumbnail of the whole picture, is ours: a class token that no loss
reaches would be useless to a classifier.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from jaxdino.models.layers import Linear


class MaskedModel(nnx.Module):
    """A backbone with the two linear decoders that pre-training needs and nothing keeps."""

    def __init__(self, backbone: nnx.Module, width: int, grid: tuple[int, int], patch_values: int, rngs: nnx.Rngs):
        self.backbone = backbone
        self.patch_decoder = Linear(width, patch_values, rngs=rngs)
        self.cls_decoder = Linear(width, grid[0] * grid[1], rngs=rngs)


@dataclasses.dataclass(frozen=True)
class Masked:
    """Hides a share `ratio` of the patches of each picture."""

    ratio: float = 0.6

    def loss(self, model: MaskedModel, images: jax.Array, key: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        """images (B, H, W, C) float normalised -> mean squared errors: (patch + cls, {"patch", "cls"})."""
        mask_key, model_key = jax.random.split(key)
        targets = patch_pixels(images, model.backbone.cfg.patch_size)
        mask = random_mask(mask_key, targets.shape[:3], self.ratio)
        out = model.backbone(images, mask=mask, key=model_key)
        errors = jnp.square(model.patch_decoder(out.patches) - targets).mean(axis=-1)
        patch = jnp.sum(errors * mask) / jnp.sum(mask)
        thumbnail = targets.mean(axis=-1).reshape(images.shape[0], -1)
        cls = jnp.square(model.cls_decoder(out.cls) - thumbnail).mean()
        return patch + cls, {"patch": patch, "cls": cls}


def patch_pixels(images: jax.Array, p: int) -> jax.Array:
    """(B, H, W, C) -> (B, h, w, p * p * C): the pixels of each patch."""
    b, height, width, c = images.shape
    cut = images.reshape(b, height // p, p, width // p, p, c).transpose(0, 1, 3, 2, 4, 5)
    return cut.reshape(b, height // p, width // p, p * p * c)


def random_mask(key: jax.Array, shape: tuple[int, int, int], ratio: float) -> jax.Array:
    """(B, h, w) bool: exactly round(ratio * h * w) patches of each picture are True."""
    b, h, w = shape
    ranks = jnp.argsort(jnp.argsort(jax.random.uniform(key, (b, h * w)), axis=1), axis=1)
    return (ranks < round(ratio * h * w)).reshape(shape)
