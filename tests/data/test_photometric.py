import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from photographs import levels, photographs, planes
from PIL import Image, ImageFilter
from scipy.ndimage import gaussian_filter
from torchvision_stub import import_torchvision

from jaxdino.data.photometric import augment_views, blurs, colours, tones
from jaxdino.data.recipe import GLOBAL_1, GLOBAL_2, LOCAL, View

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
KEY = jax.random.key(0)
OFF = View(
    hflip=0.0, brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0, jitter_prob=0.0, gray_prob=0.0, blur_prob=0.0
)


def recipe(**changes):
    return dataclasses.replace(OFF, **changes)


blur = jax.jit(blurs.gaussian_blur, static_argnums=2)


@functools.cache
def compiled(*recipes):
    return jax.jit(lambda key, images: augment_views(key, images, recipes, MEAN, STD))


def pictures(key, images, *recipes):
    """The views as images of 0..255, float."""
    found = np.asarray(compiled(*recipes)(key, images))
    return (found * np.array(STD) + np.array(MEAN)) * 255


def test_a_recipe_without_anything_normalises():
    images = photographs().reshape(2, 2, 40, 48, 3)
    found = compiled(OFF, OFF)(KEY, images)
    assert found.dtype == jnp.float32 and found.shape == images.shape
    np.testing.assert_allclose(found, (images / 255 - np.array(MEAN)) / np.array(STD), atol=1e-6)


def test_what_is_off_is_not_compiled():
    def program(view):
        return str(
            jax.make_jaxpr(lambda key, x: augment_views(key, x, [view], MEAN, STD))(KEY, np.zeros((1, 1, 8, 8, 3)))
        )

    assert not any(word in program(OFF) for word in ("random_bits", "pad", "exp", "select"))
    assert "pad" in program(recipe(blur_prob=0.5)) and "random_bits" in program(recipe(solarize_prob=0.5))


@pytest.mark.parametrize("sigma", [0.3, 1.0, 2.0])
def test_blur_is_the_gaussian_of_scipy_and_torchvision(sigma):
    import torch

    functional = import_torchvision().transforms.functional
    images = photographs()
    found = np.asarray(blur(planes(images), jnp.full(4, sigma), 6))
    expected = gaussian_filter(planes(images), sigma, mode="nearest", axes=(2, 3), radius=6)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    theirs = functional.gaussian_blur(torch.tensor(np.asarray(planes(images))), 13, sigma)
    inside = (..., slice(6, -6), slice(6, -6))  # torchvision mirrors at the edges
    np.testing.assert_allclose(found[inside], theirs.numpy()[inside], atol=1e-6)


@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.0])
def test_blur_is_nearly_pillows(sigma):
    """Pillow approximates the Gaussian by three box filters, and rounds."""
    images = photographs()
    found = levels(blur(planes(images), jnp.full(4, sigma), 6))
    theirs = np.stack([Image.fromarray(image).filter(ImageFilter.GaussianBlur(sigma)) for image in images])
    assert np.abs(found - theirs).mean() < 0.8 and np.abs(found - theirs).max() < 8
    assert np.abs(found - images).mean() > 2  # it does blur


def test_each_image_has_its_own_blur_and_0_is_none():
    images = planes(photographs())
    sigmas = (0.0, 0.7, 1.4, 0.0)
    found = blur(images, jnp.array(sigmas), 6)
    for row, sigma in enumerate(sigmas):
        alone = blur(images[row : row + 1], jnp.array([sigma]), 6)
        np.testing.assert_allclose(found[row], alone[0], atol=1e-7)
    assert np.array_equal(found[0], images[0]) and np.array_equal(found[3], images[3])


def test_blur_of_images_smaller_than_its_kernel():
    images = photographs(2, 3, 5)
    found = blur(planes(images), jnp.full(2, 2.0), 6)
    expected = gaussian_filter(planes(images), 2.0, mode="nearest", axes=(2, 3), radius=6)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_sigmas_are_drawn_evenly_and_as_often_as_asked(monkeypatch):
    seen = {}
    monkeypatch.setattr(blurs, "gaussian_blur", lambda x, sigma, radius: seen.update(s=sigma, r=radius))
    blurs.random_blur(jax.random.split(KEY, 4000), jnp.zeros((4000, 3, 1, 1)), recipe(blur_prob=0.3))
    drawn = np.asarray(seen["s"])
    assert seen["r"] == 6 and np.mean(drawn > 0) == pytest.approx(0.3, abs=0.03)
    deciles = np.quantile(drawn[drawn > 0], np.linspace(0, 1, 11))
    np.testing.assert_allclose(deciles, np.linspace(0.1, 2.0, 11), atol=0.1)


@pytest.mark.parametrize("threshold", [128, 10, 255])
def test_solarise_is_torchvisions(threshold):
    functional = import_torchvision().transforms.functional
    images = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, -1)
    found = tones.solarize(planes(images), threshold / 255)
    theirs = np.asarray(functional.solarize(Image.fromarray(images[0]), threshold))
    np.testing.assert_allclose(levels(found)[0], theirs, atol=1e-3)


def test_colours_are_those_of_torchvision_on_pillow_images():
    """One image through brightness, contrast, saturation and hue, which Pillow cuts to whole levels in between."""
    functional = import_torchvision().transforms.functional
    for seed, strengths in enumerate([(0.6, 1.4, 0.8, 0.1), (1.4, 0.6, 1.2, -0.1), (1.1, 1.2, 1.0, 0.2)]):
        image = photographs(1, seed=seed)
        ours, theirs = planes(image), Image.fromarray(image[0])
        for name, strength in zip(("brightness", "contrast", "saturation", "hue"), strengths, strict=True):
            ours = getattr(colours, f"adjust_{name}")(ours, jnp.full((1, 1, 1, 1), strength))
            theirs = getattr(functional, f"adjust_{name}")(theirs, strength)
        away = np.abs(levels(ours)[0] - np.asarray(theirs))
        assert away.mean() < 2 and np.quantile(away, 0.99) < 8


def test_chances_and_that_every_view_draws_for_itself():
    images = np.broadcast_to(photographs(1, 6, 6), (150, 2, 6, 6, 3))
    whole = images[0, 0].astype(float)

    def happened(view, changed):
        found = pictures(KEY, images, view, view)
        hits = np.abs(found - changed).max(axis=(2, 3, 4)) < 0.01
        misses = np.abs(found - whole).max(axis=(2, 3, 4)) < 0.01
        assert (hits ^ misses).all()
        assert (hits[:, 0] != hits[:, 1]).any()
        return hits.mean()

    grey = whole @ np.array([0.2989, 0.587, 0.114])
    assert happened(recipe(gray_prob=0.2), grey[..., None].repeat(3, -1)) == pytest.approx(0.2, abs=0.1)
    solarised = np.where(whole >= 128, 255 - whole, whole)
    assert happened(recipe(solarize_prob=0.7), solarised) == pytest.approx(0.7, abs=0.1)
    jittered = pictures(KEY, images, recipe(jitter_prob=0.8, brightness=0.4), OFF)[:, 0]
    assert np.mean(np.abs(jittered - whole).max(axis=(1, 2, 3)) > 0.01) == pytest.approx(0.8, abs=0.1)


def test_views_keep_their_places_whatever_their_recipes():
    """Views of one recipe go as one batch, also with others in between."""
    images = photographs(8, 8, 8).reshape(2, 4, 8, 8, 3)
    inverted = recipe(solarize_prob=1.0, solarize_threshold=0.0)
    hosted = dataclasses.replace(inverted, hflip=1.0, size=8, count=3, degrees=30.0)  # no other recipe for the device
    found = pictures(KEY, images, OFF, hosted, OFF, inverted)
    expected = images.astype(float)
    expected[:, 1::2] = 255 - expected[:, 1::2]
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_views_that_differ_on_the_host_alone_go_as_one_batch():
    images, view = photographs(8, 8, 8).reshape(4, 2, 8, 8, 3), recipe(blur_prob=0.5)
    turned = dataclasses.replace(view, scale=(0.1, 0.2), degrees=30.0, hflip=0.5, warp=0.1)
    assert np.array_equal(pictures(KEY, images, view, view), pictures(KEY, images, view, turned))


def test_blur_comes_before_solarising():
    images = photographs(2).reshape(2, 1, 40, 48, 3)
    found = pictures(KEY, images, recipe(blur_prob=1.0, blur_sigma=(1.5, 1.5), solarize_prob=1.0))[:, 0]
    blurred = gaussian_filter(images[:, 0].astype(float), 1.5, mode="nearest", axes=(1, 2), radius=5)
    clear = np.abs(blurred - 127.5) > 0.6  # at the threshold, half a level of slack decides
    expected = np.where(blurred >= 128, 255 - blurred, blurred)
    np.testing.assert_allclose(found[clear], expected[clear], atol=1e-2)


def test_the_key_decides_and_devices_do_not():
    images = photographs(24, 16, 16).reshape(8, 3, 16, 16, 3)
    views = (GLOBAL_1, GLOBAL_2, dataclasses.replace(LOCAL, count=1))
    found = pictures(KEY, images, *views)
    assert np.array_equal(found, pictures(KEY, images, *views))
    assert not np.allclose(found, pictures(jax.random.key(1), images, *views))
    sharding = NamedSharding(Mesh(np.array(jax.devices()[:4]), ("data",)), PartitionSpec("data"))
    spread = compiled(*views)(KEY, jax.device_put(images, sharding))
    assert spread.sharding.is_equivalent_to(sharding, 5)
    np.testing.assert_allclose((np.asarray(spread) * np.array(STD) + np.array(MEAN)) * 255, found, atol=1e-3)


def test_as_many_recipes_as_views():
    with pytest.raises(ValueError, match="2 recipes for 3 views"):
        augment_views(KEY, np.zeros((1, 3, 4, 4, 3), np.uint8), [OFF, OFF], MEAN, STD)
