"""Compute a large batch of images a few at a time, where that is faster.

On a CPU, a network is faster on a few images than on a large batch, whose activations leave the processor's caches
(docs/performance.md); on accelerators it is slower. A vision transformer runs whole on a few images (`forward`); the
early layers of a convolutional network, whose feature maps are large, run on a few images each (`in_parts`).
"""

import contextvars
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxdino.core import sharding
from jaxdino.models.loops import mapped, scanned
from jaxdino.models.output import Output
from jaxdino.models.vit import ViTConfig

TOKENS, LARGE = 512, 2700
"""Tokens of a part, at least, and of a batch that is divided: about 3 and 14 images of 224 pixels in patches of 16."""
NARROW = 192
"""Networks of a smaller width take any batch whole: their activations are small."""
_inference = contextvars.ContextVar("inference", default=False)


def vit_tokens(config: Any, height: int, width: int) -> int:
    """Return the tokens of an image; 0 for a network that is narrow, or no vision transformer."""
    if not isinstance(config, ViTConfig) or config.width < NARROW:
        return 0
    return (height // config.patch_size) * (width // config.patch_size) + 1 + config.num_registers


def images_each(images: int, tokens: int) -> int:
    """Return how many images are computed at a time: a divisor of `images`, or all of them.

    Args:
      images: on each device. tokens: of an image; 0 if the batch must stay whole.
    """
    if jax.default_backend() != "cpu" or images * tokens < LARGE:
        return images
    return next((size for size in range(1, images) if images % size == 0 and size * tokens >= TOKENS), images)


def forward(net: Any, images: jax.Array) -> Output:
    """Return `net(images)` for a network with a backbone, images (B, H, W, C); inside of a compiled function.

    It is for inference: gradients of what is computed in parts would cost more than those of the whole.
    """
    token = _inference.set(True)
    try:
        return _forward(net, images)
    finally:
        _inference.reset(token)


def _forward(net: Any, images: jax.Array) -> Output:
    config = getattr(net.backbone, "cfg", None)
    each = images_each(images.shape[0], vit_tokens(config, *images.shape[1:3])) if sharding.devices() == 1 else 0
    if each in (0, images.shape[0]):
        return net(images)
    found = mapped(net, images.reshape(-1, each, *images.shape[1:]))
    if any(x.ndim < 2 or x.shape[1] != each for x in jax.tree.leaves(found)):  # not for each image
        return net(images)
    return jax.tree.map(lambda x: x.reshape(images.shape[0], *x.shape[2:]), found)


def inference() -> bool:
    """Return whether the network is being traced for `forward`."""
    return _inference.get()


def in_parts(layer: Callable[[jax.Array], jax.Array], x_BxHxWxD: jax.Array, pixels: int) -> jax.Array:
    """Return `layer(x)`, computed on a CPU for as many images at a time as have `pixels` together, at least one.

    Args:
      layer: from a feature map (B, H, W, D) to one with the same B, each image by itself.
    """
    parts = _in_parts(x_BxHxWxD, pixels)
    if len(parts) == 1:
        return layer(x_BxHxWxD)
    found = mapped(layer, parts)
    return found.reshape(x_BxHxWxD.shape[0], *found.shape[2:])


def sum_of_parts(
    layer: Callable[[jax.Array, jax.Array], jax.Array], x_BxHxWxD: jax.Array, y_BxHxWxE: jax.Array, pixels: int
) -> jax.Array:
    """Return `layer(x, y)`, which is a sum over the images, computed for as many at a time as in `in_parts`."""
    parts = _in_parts(x_BxHxWxD, pixels)
    if len(parts) == 1:
        return layer(x_BxHxWxD, y_BxHxWxE)
    others = y_BxHxWxE.reshape(*parts.shape[:2], *y_BxHxWxE.shape[1:])
    zeros = jax.tree.map(lambda one: jnp.zeros(one.shape, one.dtype), jax.eval_shape(layer, parts[0], others[0]))
    return scanned(lambda total, pair: (total + layer(*pair), None), zeros, (parts, others))[0]


def _in_parts(x_BxHxWxD: jax.Array, pixels: int) -> jax.Array:
    """Return the images of each part (parts, images, H, W, D); of anything but a single CPU device one part."""
    images, height, wide, _ = x_BxHxWxD.shape
    known = all(isinstance(size, int) for size in (images, height, wide))  # an exported program has any batch size
    if not known or jax.default_backend() != "cpu" or sharding.devices() > 1:
        return x_BxHxWxD[None]
    fit = (n for n in range(images, 1, -1) if images % n == 0 and n * height * wide <= pixels)
    each = next(fit, 1)
    return x_BxHxWxD.reshape(-1, each, *x_BxHxWxD.shape[1:])
