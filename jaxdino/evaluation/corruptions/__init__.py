"""The 15 common corruptions of ImageNet-C at 5 severities, each image with random numbers of its own.

A corruption is a function of a key and one image float32 (H, W, C) in 0..1, with the numbers of its severity; it is
mapped over a batch on the device; JPEG files are written and read on the host, by libjpeg. Results are clipped to 0..1;
they are not rounded to 8 bits, nor saved as JPEG as the published images are. Numbers in pixels are those published for
224 x 224 pixels, at any size: smaller images are hit harder.

Source: Hendrycks and Dietterich, Benchmarking Neural Network Robustness to Common Corruptions and Perturbations
(arXiv:1903.12261), with the numbers of hendrycks/robustness ImageNet-C/create_c/make_imagenet_c.py. `frost` differs:
the published one pastes photographs, here the pattern is generated.
"""

import zlib
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdino.evaluation.corruptions import blurs, digital, noise, weather

SEVERITIES = (1, 2, 3, 4, 5)
PHOTONS = (60.0, 25.0, 12.0, 5.0, 3.0)


class Corruption(NamedTuple):
    """A function (key, image, *numbers) and its numbers at each severity.

    Attributes:
      traced: whether the numbers may be traced, so that all severities are one program.
      host: whether it is a function (images, *numbers) of a batch, numpy float32 (B, H, W, 3), on the host.
    """

    of_image: Callable[..., Any]
    numbers: tuple[tuple, ...]
    traced: bool = False
    host: bool = False


def _alone(*numbers: float) -> tuple[tuple, ...]:
    return tuple((number,) for number in numbers)


CORRUPTIONS: dict[str, Corruption] = {
    "gaussian_noise": Corruption(noise.gaussian, _alone(0.08, 0.12, 0.18, 0.26, 0.38), traced=True),
    "shot_noise": Corruption(
        noise.shot, tuple((noise.counts_of(photons), photons) for photons in PHOTONS), traced=True
    ),
    "impulse_noise": Corruption(noise.impulse, _alone(0.03, 0.06, 0.09, 0.17, 0.27), traced=True),
    "defocus_blur": Corruption(blurs.defocus, ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5))),
    "glass_blur": Corruption(blurs.glass, ((0.7, 1, 2), (0.9, 2, 1), (1.0, 2, 3), (1.1, 3, 2), (1.5, 4, 2))),
    "motion_blur": Corruption(blurs.motion, ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))),
    "zoom_blur": Corruption(blurs.zoom, ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03))),
    "snow": Corruption(
        weather.snow,
        (
            (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
            (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
            (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
            (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
            (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
        ),
    ),
    "frost": Corruption(weather.frost, ((1.0, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)), traced=True),
    "fog": Corruption(weather.fog, ((1.5, 2.0), (2.0, 2.0), (2.5, 1.7), (2.5, 1.5), (3.0, 1.4)), traced=True),
    "brightness": Corruption(digital.brightness, _alone(0.1, 0.2, 0.3, 0.4, 0.5), traced=True),
    "contrast": Corruption(digital.contrast, _alone(0.4, 0.3, 0.2, 0.1, 0.05), traced=True),
    "elastic_transform": Corruption(
        digital.elastic,
        (
            (244 * 2, 244 * 0.7, 244 * 0.1),
            (244 * 2, 244 * 0.08, 244 * 0.2),
            (244 * 0.05, 244 * 0.01, 244 * 0.02),
            (244 * 0.07, 244 * 0.01, 244 * 0.02),
            (244 * 0.12, 244 * 0.01, 244 * 0.02),
        ),
    ),
    "pixelate": Corruption(digital.pixelate, _alone(0.6, 0.5, 0.4, 0.3, 0.25)),
    "jpeg_compression": Corruption(digital.jpeg_files, _alone(25, 18, 15, 10, 7), host=True),
}
"""The corruptions in the order of the paper."""


def corrupted(name: str, severity: int, key: jax.Array, images: jax.Array, places: jax.Array) -> jax.Array:
    """Corrupt a batch of images, compiled.

    Args:
      severity: 1 to 5. images: float32 (B, H, W, 3) in 0..1. places: int (B,), the number of each image, which with the
        key decides what is drawn for it: neither batches nor devices matter.

    Returns:
      float32 (B, H, W, 3) in 0..1.
    """
    chosen = CORRUPTIONS[name]
    if chosen.host:
        return jnp.asarray(chosen.of_image(np.asarray(images), *chosen.numbers[severity - 1]))
    own = jax.random.fold_in(key, zlib.crc32(name.encode()))  # the same draws at every severity
    numbers = chosen.numbers[severity - 1]
    fixed, traced = ((), numbers) if chosen.traced else (numbers, ())
    return _batch(chosen.of_image, fixed, traced, own, images, places)


@partial(jax.jit, static_argnums=(0, 1))
def _batch(
    of_image: Callable[..., jax.Array],
    fixed: tuple,
    traced: tuple,
    key: jax.Array,
    images: jax.Array,
    places: jax.Array,
) -> jax.Array:
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, places)
    return jax.vmap(lambda key, image: jnp.clip(of_image(key, image, *fixed, *traced), 0, 1))(keys, images)
