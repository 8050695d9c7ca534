"""Features of a split: in order, without padding and bad images, the same on a mesh."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdino.core.errors import UserError
from jaxdino.core.resize import Resize
from jaxdino.core.sharding import make_mesh
from jaxdino.data.config import DataConfig
from jaxdino.data.pipeline import make_eval_iter
from jaxdino.data.record import Split
from jaxdino.evals import features

IMAGES = np.random.default_rng(0).integers(0, 256, (10, 8, 8, 3), np.uint8)
LABELS = np.arange(10, dtype=np.int32) % 3


@jax.jit
def embed(images):
    return images.astype(jnp.bfloat16)[:, 0, 0]


def batches(records):
    split = Split("val", records, {"label": LABELS}, ("a", "b", "c"))
    return make_eval_iter(split, DataConfig(num_threads=0), batch_size=4, image_size=8, resize=Resize(1.0))


def test_padding_and_bad_images_are_left_out(tmp_path):
    read = batches([*IMAGES[:4], str(tmp_path / "gone.png"), *IMAGES[5:]])
    found, labels = features.extract(embed, read)
    keep = [i for i in range(10) if i != 4]
    np.testing.assert_array_equal(found, np.asarray(embed(IMAGES), np.float32)[keep])
    np.testing.assert_array_equal(labels, LABELS[keep])
    assert found.dtype == np.float32 and labels.dtype == np.int32 and len(read.bad) == 1


def test_a_mesh_gives_the_same():
    read = batches(list(IMAGES))
    for one, other in zip(features.extract(embed, read), features.extract(embed, read, make_mesh()), strict=True):
        np.testing.assert_array_equal(one, other)


def test_nothing_to_read_is_said(tmp_path):
    with pytest.raises(UserError, match="no image"):
        features.extract(embed, batches([str(tmp_path / "gone.png")] * 10))


def test_pixels_are_the_image_less_its_mean():
    found, _ = features.pixels(batches(list(IMAGES)), 8)
    by_hand = IMAGES.reshape(10, -1) / 255
    np.testing.assert_allclose(found, by_hand - by_hand.mean(axis=1, keepdims=True), atol=1e-6)
    small, _ = features.pixels(batches([np.full((8, 8, 3), i * 20, np.uint8) for i in range(10)]), 4)
    assert small.shape == (10, 48)
    np.testing.assert_allclose(small, 0, atol=1e-6)
