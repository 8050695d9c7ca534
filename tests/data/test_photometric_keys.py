"""The draws of an image belong to (seed, step, sample): neither its batch nor the devices or hosts change them."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from photographs import photographs

from jaxdino.data import photometric
from jaxdino.data.config import DataConfig
from jaxdino.data.pipeline import make_train_iter
from jaxdino.data.presets import PRESETS
from jaxdino.data.recipe import View
from jaxdino.data.record import Split

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
KEY = jax.random.key(0)
EVERYTHING = View(
    gamma=0.3,
    sharpness=0.5,
    autocontrast_prob=0.5,
    equalize_prob=0.5,
    solarize_prob=0.5,
    posterize_prob=0.5,
    invert_prob=0.5,
    motion_blur_prob=0.5,
    noise=0.05,
    jpeg_prob=0.5,
    erase_prob=0.5,
)


@functools.cache
def compiled(view):
    return jax.jit(lambda key, x, places: photometric.augment_view(key, x, view, MEAN, STD, places=places))


def near(found, expected, levels=0.02):
    """Equal but for rounding; where it decides between two levels of a step, a few pixels differ more."""
    away = np.abs(np.asarray(found) - np.asarray(expected)) * 255 * min(STD)
    return (away > levels).mean() < 0.002


def test_an_image_gets_the_same_in_any_batch():
    images, places = photographs(8, 24, 32), jnp.arange(8)
    whole = compiled(EVERYTHING)(KEY, images, places)
    order = np.array([5, 0, 7, 2, 1, 6, 3, 4])
    assert near(compiled(EVERYTHING)(KEY, images[order], places[order]), whole[order])
    assert near(compiled(EVERYTHING)(KEY, images[3:5], places[3:5]), whole[3:5])
    moved = compiled(EVERYTHING)(KEY, images, (places + 1) % 8)
    assert not near(moved, whole)  # it does depend on the place


def test_four_devices_give_what_one_gives():
    images = photographs(8, 24, 32)
    mesh = Mesh(np.array(jax.devices()[:4]), ("data",))
    spread = [jax.device_put(x, NamedSharding(mesh, PartitionSpec("data"))) for x in (images, jnp.arange(8))]
    found, alone = compiled(EVERYTHING)(KEY, *spread), compiled(EVERYTHING)(KEY, images, jnp.arange(8))
    assert found.sharding.is_equivalent_to(spread[0].sharding, 4)
    assert near(found, alone)


def test_no_device_sends_pixels_to_another():
    mesh = Mesh(np.array(jax.devices()[:4]), ("data",))
    shapes = [((8, 24, 32, 3), jnp.uint8), ((8,), jnp.int32)]
    spread = [jax.ShapeDtypeStruct(*one, sharding=NamedSharding(mesh, PartitionSpec("data"))) for one in shapes]
    text = compiled(EVERYTHING).lower(KEY, *spread).compile().as_text()
    assert not any(word in text for word in ("all-gather", "all-reduce", "all-to-all", "collective-permute"))


def test_one_operation_does_not_change_the_draws_of_another():
    images, places = photographs(8, 24, 32), jnp.arange(8)
    plain = dataclasses.replace(PRESETS["none"], noise=0.05)
    noisy = compiled(plain)(KEY, images, places)
    more = compiled(dataclasses.replace(plain, solarize_prob=0.5))(KEY, images, places)
    same = [near(a, b) for a, b in zip(noisy, more, strict=True)]
    assert 0 < sum(same) < 8


def test_hosts_read_the_places_of_the_global_batch():
    split = Split("train", list(photographs(12, 16, 16)), {"label": np.zeros(12, np.int32)}, ("a",))
    how = dict(seed=3, batch_size=6, image_size=16, preset="none")
    alone = next(make_train_iter(split, DataConfig(), **how))
    assert alone["place"].tolist() == list(range(6)) and alone["place"].dtype == np.int32
    shares = [next(make_train_iter(split, DataConfig(), **how, process_index=i, process_count=2)) for i in (0, 1)]
    assert [share["place"].tolist() for share in shares] == [[0, 1, 2], [3, 4, 5]]
    view = dataclasses.replace(PRESETS["none"], noise=0.1)
    whole = np.asarray(compiled(view)(KEY, alone["image"], alone["place"]))
    for share in shares:
        found = compiled(view)(KEY, share["image"], share["place"])
        assert near(found, whole[share["place"]])


def test_crops_have_draws_of_their_own():
    image = np.broadcast_to(photographs(1, 16, 16), (2, 3, 16, 16, 3))
    view = dataclasses.replace(PRESETS["none"], noise=0.1)
    found = np.asarray(photometric.augment_views(KEY, image, (view, view, view), MEAN, STD)).reshape(6, -1)
    assert len({crop.tobytes() for crop in found}) == 6
    quiet = dataclasses.replace(view, noise=0.0)
    other = np.asarray(photometric.augment_views(KEY, image, (quiet, view, quiet), MEAN, STD)).reshape(6, -1)
    np.testing.assert_allclose(other[[1, 4]], found[[1, 4]], atol=1e-6)


def test_light_computes_what_no_augmentation_computes():
    images, places = np.zeros((4, 24, 32, 3), np.uint8), jnp.arange(4)

    def cost(function, *given):
        return jax.jit(function).lower(*given).compile().cost_analysis()["flops"]

    def light(key, x, places):
        return photometric.augment_view(key, x, PRESETS["light"], MEAN, STD, places=places)

    plain = cost(lambda x: photometric.normalize(x, MEAN, STD), images)
    assert cost(light, KEY, images, places) == plain
    for change in ("noise", "equalize_prob", "jpeg_prob", "motion_blur_prob", "sharpness", "gamma"):
        view = dataclasses.replace(PRESETS["light"], **{change: 0.5})
        assert cost(lambda *a, view=view: photometric.augment_view(*a[:2], view, MEAN, STD), KEY, images) > plain


@pytest.mark.parametrize("bands", [1, 3, 5])
def test_everything_on_any_number_of_bands(bands):
    images = photographs(4, 17, 24, bands=bands)
    mean, std = [0.5] * bands, [1.0] * bands
    found = np.asarray(jax.jit(lambda x: photometric.augment_view(KEY, x, EVERYTHING, mean, std))(images))
    assert found.shape == images.shape and np.isfinite(found).all()
    assert found.min() >= -0.5 - 1e-5 and found.max() <= 0.5 + 1e-5 and not np.allclose(found + 0.5, images / 255)
