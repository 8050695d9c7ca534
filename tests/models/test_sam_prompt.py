"""Corners of boxes as points, as SAM's ONNX export takes them; how SAM's layers start."""

import functools
import math

import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxdino.core.params import split
from jaxdino.models.registry import get
from jaxdino.models.sam_layers import Conv, Doubling, dense
from jaxdino.models.sam_prompt import BOTTOM_RIGHT, PADDING, TOP_LEFT, PromptEncoder

POINTS = np.array([[[[10.0, 20.0]], [[30.0, 5.0]]]], np.float32)
LABELS = np.array([[[1], [0]]])
BOXES = np.array([[[4.0, 8.0, 40.0, 44.0], [1.0, 2.0, 60.0, 30.0]]], np.float32)
CORNERS = np.array([[[TOP_LEFT, BOTTOM_RIGHT]] * 2])


@functools.cache
def encoder():
    return PromptEncoder(get("sam_tiny").config, nnx.Rngs(0), jnp.float32)


def test_corners_are_a_box():
    want, _ = encoder()(boxes=BOXES, grid=(16, 16))
    found, _ = encoder()(BOXES.reshape(1, 2, 2, 2), CORNERS, grid=(16, 16), pad=False)
    np.testing.assert_array_equal(found, want)
    padded, _ = encoder()(BOXES.reshape(1, 2, 2, 2), CORNERS, grid=(16, 16))
    np.testing.assert_array_equal(padded[:, :, :2], want)
    nothing = encoder().not_a_point_embed.embedding[...][0]
    assert padded.shape == (1, 2, 3, 64) and np.array_equal(padded[0, 1, 2], nothing)


def test_corners_after_points_are_points_and_a_box():
    want, _ = encoder()(POINTS, LABELS, BOXES, grid=(16, 16))
    points = np.concatenate([POINTS, BOXES.reshape(1, 2, 2, 2)], axis=2)
    found, _ = encoder()(points, np.concatenate([LABELS, CORNERS], axis=2), grid=(16, 16), pad=False)
    np.testing.assert_array_equal(found, want)


def test_one_row_with_a_box_and_one_without():
    labels = CORNERS.copy()
    labels[0, 1] = PADDING
    found, _ = encoder()(BOXES.reshape(1, 2, 2, 2), labels, grid=(16, 16), pad=False)
    want, _ = encoder()(boxes=BOXES, grid=(16, 16))
    np.testing.assert_array_equal(found[0, 0], want[0, 0])
    nothing = encoder().not_a_point_embed.embedding[...]
    np.testing.assert_array_equal(found[0, 1], np.repeat(nothing, 2, axis=0))


def test_layers_start_as_torchs():
    """The bounds of torch's uniform starts, of kernels and biases; a transposed convolution counts its outputs."""
    for layer, fan_in in (
        (dense(50, 40, nnx.Rngs(0)), 50),
        (Conv(20, 30, 3, nnx.Rngs(0)), 180),
        (Doubling(60, 40, nnx.Rngs(0)), 160),
    ):
        for array in split(layer)[1].values():
            largest = float(jnp.abs(array).max()) * math.sqrt(fan_in)
            assert 0.9 < largest <= 1
