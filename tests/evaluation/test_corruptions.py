"""Corruptions against plain statements of their definitions, and what holds for all of them."""

import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.colors import hsv_to_rgb, rgb_to_hsv
from PIL import Image
from scipy import ndimage

from jaxdino.evaluation.corruptions import CORRUPTIONS, PHOTONS, blurs, corrupted, digital, noise

SIDE = 24
KEY = jax.random.key(0)


def pictures(count: int = 2) -> np.ndarray:
    """Smooth shapes with an edge and a little noise, on the levels of 8 bits."""
    rng, found = np.random.default_rng(0), []
    for place in range(count):
        y, x = np.mgrid[:SIDE, :SIDE] / SIDE
        image = np.stack([x, y, 0.5 + 0.4 * np.sin(9 * x + place)], axis=-1) * 0.7 + 0.1
        image[6:15, 8:20] = [0.8, 0.3, 0.1]
        found.append(image + 0.05 * rng.random(image.shape))
    return np.round(np.clip(found, 0, 1) * 255).astype(np.float32) / 255


IMAGES = pictures()


@pytest.fixture(scope="module")
def results():
    """All corruptions at all severities."""
    places = jnp.arange(2)
    return {
        name: np.stack([np.asarray(corrupted(name, level, KEY, IMAGES, places)) for level in range(1, 6)])
        for name in CORRUPTIONS
    }


# Their published numbers do not grow in one sense: elastic has two kinds, snow and glass change size and count as well,
# fog and frost darken the image while they add to it, and the pixels of pixelate meet edges by chance.
NOT_RISING = ("elastic_transform", "snow", "glass_blur", "pixelate", "fog", "frost")


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_severity_moves_images_away(results, name):
    assert len(CORRUPTIONS) == 15 and results[name].shape == (5, 2, SIDE, SIDE, 3)
    assert results[name].min() >= 0 and results[name].max() <= 1
    far = np.abs(results[name] - IMAGES).mean(axis=(1, 2, 3, 4))
    assert (far > 0.003).all()
    if name not in NOT_RISING:
        assert (np.diff(far) > 0).all(), far


@pytest.mark.parametrize("name", ("gaussian_noise", "snow", "elastic_transform"))
def test_what_an_image_gets_depends_on_seed_and_place_alone(results, name):
    alone = np.asarray(corrupted(name, 3, KEY, IMAGES[1:], jnp.array([1])))
    np.testing.assert_allclose(alone[0], results[name][2, 1], atol=1e-5)
    assert np.abs(np.asarray(corrupted(name, 3, jax.random.key(1), IMAGES[1:], jnp.array([1]))) - alone).max() > 0.01
    assert np.abs(np.asarray(corrupted(name, 3, KEY, IMAGES[1:], jnp.array([7]))) - alone).max() > 0.01


@pytest.mark.parametrize("level", (1, 5))
def test_those_without_chance_are_numpys_and_pillows(results, level):
    image = IMAGES[0].astype(np.float64)
    more, factor, scale = (CORRUPTIONS[name].numbers[level - 1][0] for name in ("brightness", "contrast", "pixelate"))
    hsv = rgb_to_hsv(image)
    hsv[..., 2] = np.clip(hsv[..., 2] + more, 0, 1)
    np.testing.assert_allclose(results["brightness"][level - 1, 0], hsv_to_rgb(hsv), atol=1e-5)
    mean = image.mean(axis=(0, 1), keepdims=True)
    np.testing.assert_allclose(
        results["contrast"][level - 1, 0], np.clip((image - mean) * factor + mean, 0, 1), atol=1e-5
    )
    picture = Image.fromarray(np.round(image * 255).astype(np.uint8))
    small = picture.resize((int(SIDE * scale),) * 2, Image.Resampling.BOX).resize((SIDE, SIDE), Image.Resampling.BOX)
    np.testing.assert_array_equal(np.round(results["pixelate"][level - 1, 0] * 255), np.asarray(small))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=CORRUPTIONS["jpeg_compression"].numbers[level - 1][0])
    with Image.open(file) as written:
        want = np.asarray(written)
    np.testing.assert_array_equal(np.round(results["jpeg_compression"][level - 1, 0] * 255), want)


def test_defocus_is_opencvs(results):
    import cv2

    for level, (radius, sigma) in ((1, (3, 0.1)), (5, (10, 0.5))):
        reach, taps = (8, 3) if radius <= 8 else (radius, 5)
        y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
        kernel = (x**2 + y**2 <= radius**2).astype(np.float32)
        kernel = cv2.GaussianBlur(kernel / kernel.sum(), (taps, taps), sigma)
        np.testing.assert_allclose(
            results["defocus_blur"][level - 1, 0], cv2.filter2D(IMAGES[0], -1, kernel), atol=1e-5
        )


def test_zoom_is_scipys(results):
    total, factors = np.zeros((SIDE, SIDE, 3)), np.arange(1, 1.31, 0.03)
    for factor in factors:
        inner = int(np.ceil(SIDE / factor))
        top = (SIDE - inner) // 2
        zoomed = ndimage.zoom(IMAGES[0][top : top + inner, top : top + inner], (factor, factor, 1), order=1)
        trim = (len(zoomed) - SIDE) // 2
        total += zoomed[trim : trim + SIDE, trim : trim + SIDE]
    np.testing.assert_allclose(results["zoom_blur"][4, 0], (IMAGES[0] + total) / (len(factors) + 1), atol=1e-5)


def test_motion_is_a_sum_of_shifted_copies():
    angle, image = 30.0, IMAGES[0]
    taps = np.exp(-(np.arange(21) ** 2) / (2 * 3.0**2))
    found = np.zeros_like(image)
    for step, tap in enumerate(taps / taps.sum()):
        down, across = (int(np.ceil(step * f(np.deg2rad(angle)) - 0.5)) for f in (np.sin, np.cos))
        for y in range(SIDE):
            for x in range(SIDE):
                found[y, x] += tap * image[min(y + down, SIDE - 1), min(x + across, SIDE - 1)]
    np.testing.assert_allclose(blurs.moved(jnp.asarray(image), 10, 3.0, jnp.float32(angle)), found, atol=1e-5)


def test_glass_swaps_pixels_between_two_blurs(results):
    order = blurs.swapped(SIDE, SIDE, 1, 2)
    assert sorted(order.tolist()) == list(range(SIDE * SIDE)) and (order != np.arange(SIDE * SIDE)).mean() > 0.5
    blur = dict(sigma=(0.7, 0.7, 0), mode="nearest", truncate=4)
    levels = np.floor(ndimage.gaussian_filter(IMAGES[0].astype(float), **blur) * 255) / 255
    shuffled = levels.reshape(-1, 3)[order].reshape(levels.shape)
    np.testing.assert_allclose(results["glass_blur"][0, 0], ndimage.gaussian_filter(shuffled, **blur), atol=0.004)


def test_elastic_is_scipys_with_the_same_draws():
    amount, sigma, shift = CORRUPTIONS["elastic_transform"].numbers[2]
    affine, horizontal, vertical = jax.random.split(KEY, 3)
    moves = np.asarray(jax.random.uniform(affine, (3, 2), minval=-shift, maxval=shift))
    points = np.array([[20, 20], [20, 4], [4, 4]], float)
    matrix = np.linalg.solve(np.c_[points + moves, np.ones(3)], points)
    y, x = np.mgrid[:SIDE, :SIDE].astype(float)
    places = np.stack([x, y, np.ones_like(x)], axis=-1) @ matrix
    image = np.stack(
        [
            ndimage.map_coordinates(IMAGES[0][..., i], [places[..., 1], places[..., 0]], order=1, mode="mirror")
            for i in range(3)
        ],
        axis=-1,
    )
    down, across = (
        amount
        * ndimage.gaussian_filter(
            np.asarray(jax.random.uniform(key, (SIDE, SIDE), minval=-1.0, maxval=1.0)),
            sigma,
            mode="reflect",
            truncate=3,
        )
        for key in (vertical, horizontal)
    )
    expected = np.stack(
        [ndimage.map_coordinates(image[..., i], [y + down, x + across], order=1, mode="reflect") for i in range(3)],
        axis=-1,
    )
    np.testing.assert_allclose(digital.elastic(KEY, jnp.asarray(IMAGES[0]), amount, sigma, shift), expected, atol=2e-4)


def test_noise_has_the_published_strength():
    grey = jnp.full((128, 128, 3), 128 / 255)
    for level, photons in enumerate(PHOTONS):
        found = np.asarray(noise.shot(KEY, grey, jnp.asarray(noise.counts_of(photons)), photons)) * photons
        mean = 128 / 255 * photons
        assert found.mean() == pytest.approx(mean, rel=0.02) and found.var() == pytest.approx(mean, rel=0.05), level
    assert np.asarray(noise.gaussian(KEY, grey, 0.1)).std() == pytest.approx(0.1, rel=0.03)
    spoilt = np.asarray(noise.impulse(KEY, grey, 0.2))
    assert (spoilt == 0).mean() == pytest.approx(0.1, rel=0.1) and (spoilt == 1).mean() == pytest.approx(0.1, rel=0.1)
