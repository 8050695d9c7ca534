"""Each photometric operation against Pillow, torchvision or albumentations, with the same parameters."""

import functools
import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from photographs import levels, photographs, planes
from PIL import Image, ImageOps
from torchvision_stub import import_torchvision

from jaxdino.data.photometric import blurs, colours, jpeg, tones

SIZES = [(40, 48), (33, 57), (17, 16)]
BANDS = [1, 3, 5]


def filled(values):
    return jnp.array(values, jnp.float32).reshape(-1, 1, 1, 1)


def functional():
    return import_torchvision().transforms.functional


def per_band(function, images):
    """A function of grey Pillow images, on each band."""
    bands = [[np.asarray(function(Image.fromarray(band))) for band in image.transpose(2, 0, 1)] for image in images]
    return np.array(bands).transpose(0, 2, 3, 1)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("bands", BANDS)
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (tones.equalize, ImageOps.equalize),
        (lambda x: tones.posterize(x, filled([3] * 3)), lambda x: ImageOps.posterize(x, 3)),
        (lambda x: tones.posterize(x, filled([8] * 3)), lambda x: x),
        (lambda x: tones.solarize(x, 77 / 255), lambda x: ImageOps.solarize(x, 77)),
        (lambda x: 1 - x, ImageOps.invert),
    ],
    ids=["equalize", "posterize 3", "posterize 8", "solarize", "invert"],
)
def test_tones_are_pillows(ours, theirs, size, bands):
    images = photographs(3, *size, bands=bands)
    np.testing.assert_allclose(levels(ours(planes(images))), per_band(theirs, images), atol=1e-3)


@pytest.mark.parametrize("bands", BANDS)
def test_autocontrast_is_pillows_but_for_its_rounding_down(bands):
    images = photographs(3, 33, 57, bands=bands) // 3 + 40
    away = levels(tones.autocontrast(planes(images))) - per_band(ImageOps.autocontrast, images)
    assert away.min() > -0.01 and away.max() < 1.01
    assert np.abs(levels(tones.autocontrast(planes(images))) - images).mean() > 20


def test_tones_of_flat_and_two_level_images():
    flat = np.full((1, 8, 9, 3), 77, np.uint8)
    two = flat.copy()
    two[:, 3:] = 200
    for images in (flat, two):
        found = levels(tones.equalize(planes(images)))
        np.testing.assert_allclose(found, per_band(ImageOps.equalize, images), atol=1e-3)
        found = levels(tones.autocontrast(planes(images)))
        np.testing.assert_allclose(found, per_band(ImageOps.autocontrast, images), atol=1e-3)


@pytest.mark.parametrize("factor", [0.0, 0.3, 1.0, 1.7])
@pytest.mark.parametrize("size", [*SIZES, (2, 9)])
def test_sharpness_is_torchvisions(factor, size):
    import torch

    images = photographs(2, *size)
    found = colours.adjust_sharpness(planes(images), filled([factor] * 2))
    theirs = functional().adjust_sharpness(torch.tensor(np.asarray(planes(images))), factor)
    np.testing.assert_allclose(found, theirs.numpy(), atol=1e-6)


@pytest.mark.parametrize("exponent", [0.5, 1.0, 1.8])
def test_gamma_is_torchvisions(exponent):
    import torch

    images = photographs(2, 33, 57)
    found = colours.adjust_gamma(planes(images), filled([exponent] * 2))
    theirs = functional().adjust_gamma(torch.tensor(np.asarray(planes(images))), exponent)
    np.testing.assert_allclose(found, theirs.numpy(), atol=1e-6)


def test_each_image_has_its_own_strength():
    images = planes(photographs(3))
    for change, values in (
        (colours.adjust_gamma, [0.5, 1.0, 1.5]),
        (colours.adjust_sharpness, [0.0, 1.0, 2.0]),
        (tones.posterize, [2, 8, 4]),
    ):
        together = change(images, filled(values))
        for row, value in enumerate(values):
            np.testing.assert_allclose(together[row], change(images[row : row + 1], filled([value]))[0], atol=1e-6)
        np.testing.assert_allclose(together[1], images[1], atol=1e-6)


compressed = jax.jit(jpeg.jpeg)


def pillows(image, quality):
    file = io.BytesIO()
    Image.fromarray(image.squeeze()).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file)).reshape(image.shape)


@pytest.mark.parametrize("size", [*SIZES, (64, 64), (121, 75)])
@pytest.mark.parametrize("quality", [5, 30, 50, 75, 95, 100])
def test_jpeg_is_that_of_a_file_written_by_pillow(size, quality):
    images = photographs(3, *size)
    found = levels(compressed(planes(images), jnp.full(3, quality)))
    theirs = np.stack([pillows(image, quality) for image in images]).astype(float)
    away = np.abs(found - theirs)
    assert np.median(away) < 0.01 and away.mean() < 1.0  # a coefficient between two steps moves a block of 8 x 8
    assert away.mean() < 0.05 * np.abs(theirs - images).mean()  # the artefacts are far larger


@pytest.mark.parametrize("bands", [1, 4])
def test_jpeg_of_other_bands_is_that_of_grey_images(bands):
    images = photographs(2, 33, 57, bands=bands)
    found = levels(compressed(planes(images), jnp.array([20, 80])))
    for image, quality, ours in zip(images, (20, 80), found, strict=True):
        theirs = np.stack([pillows(image[..., i], quality) for i in range(bands)], -1)
        assert np.abs(ours - theirs).mean() < 0.2


def kernel(radius, degrees, reach):
    """The kernel of a motion blur, (K, K), as albumentations writes it."""
    offsets, shares = blurs.motion_taps(jnp.array([radius], jnp.float32), jnp.array([degrees], jnp.float32), reach)
    found = np.zeros((2 * reach + 1,) * 2, np.float32)
    for (row, column), share in zip(np.asarray(offsets[0]) + reach, np.asarray(shares[0]), strict=True):
        found[row, column] += share
    return found


@pytest.mark.parametrize(
    ("degrees", "line"),
    [(0, [[0] * 3, [1] * 3, [0] * 3]), (90, [[0, 1, 0]] * 3), (45, np.eye(3)), (135, np.eye(3)[::-1])],
)
def test_lines_of_motion_blur(degrees, line):
    expected = np.array(line) / 3
    np.testing.assert_allclose(kernel(1, degrees, 1), expected, atol=1e-6)
    np.testing.assert_allclose(kernel(1, degrees, 3)[2:-2, 2:-2], expected, atol=1e-6)  # the longest of a batch


@functools.cache
def motion(reach):
    return jax.jit(functools.partial(blurs.motion_blur, reach=reach))


def test_motion_blur_is_the_filter_of_its_kernel():
    from scipy.ndimage import correlate

    images = planes(photographs(3, 33, 57, bands=4))
    radius, degrees = (3.0, 1.0, 5.0), (0.0, 25.0, 110.0)
    found = np.asarray(motion(5)(images, jnp.array(radius), jnp.array(degrees)))
    for row in range(3):
        weights = kernel(radius[row], degrees[row], 5)[None]
        np.testing.assert_allclose(found[row], correlate(images[row], weights, mode="nearest"), atol=1e-5)


def test_motion_blur_is_albumentations(monkeypatch):
    monkeypatch.setenv("NO_ALBUMENTATIONS_UPDATE", "1")  # it asks the package index for a newer version
    pytest.importorskip("albumentations")
    from albumentations.augmentations.blur.functional import create_motion_kernel

    for size in (3, 5, 7, 15):
        for degrees in (0, 17, 38, 45, 71, 90, 104, 135, 160):
            theirs = create_motion_kernel(size, degrees, 0, False, None)
            np.testing.assert_allclose(kernel(size // 2, degrees, size // 2), theirs / theirs.sum(), atol=1e-6)
