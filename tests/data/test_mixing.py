import colorsys
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from torchvision_stub import import_torchvision

from jaxdino.data import mixing
from jaxdino.data import photometric as aug
from jaxdino.data.photometric import blurs, colours, erasing
from jaxdino.data.presets import PRESETS

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
KEY = jax.random.key(0)
KEYS = jax.random.split(KEY, 6)


def floats(batch=6, height=10, width=14):
    return np.random.default_rng(1).random((batch, height, width, 3), np.float32)


def planes(images):
    return jnp.moveaxis(jnp.asarray(images), -1, 1)


def images_of(found):
    return np.moveaxis(np.asarray(found), 1, -1)


def factors(*values):
    return jnp.array(values, jnp.float32).reshape(-1, 1, 1, 1)


def preset(**changes):
    return dataclasses.replace(PRESETS["none"], **changes)


def test_normalize():
    images = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 3), np.uint8)
    expected = (images / 255 - np.array(MEAN)) / np.array(STD)
    found = aug.normalize(jnp.asarray(images), MEAN, STD)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_colour_is_torchvisions(name):
    import torch

    functional = import_torchvision().transforms.functional
    images, strengths = floats(), (0.0, 0.4, 0.9, 1.0, 1.3, 1.9)
    found = images_of(getattr(colours, f"adjust_{name}")(planes(images), factors(*strengths)))
    for image, strength, ours in zip(images, strengths, found, strict=True):
        theirs = getattr(functional, f"adjust_{name}")(torch.from_numpy(image).permute(2, 0, 1), strength)
        np.testing.assert_allclose(ours, theirs.permute(1, 2, 0), atol=1e-5)


def test_hue_is_that_of_colorsys():
    images, turns = floats(), (-0.5, -0.2, 0.0, 0.1, 0.33, 0.5)
    images[0, 0] = 0.5  # grey has no hue
    images[1, 0] = [1, 0, 0]
    images[2, 0] = [0.2, 0.2, 0.7]
    found = images_of(colours.adjust_hue(planes(images), factors(*turns)))
    for image, turn, ours in zip(images, turns, found, strict=True):
        hsv = [colorsys.rgb_to_hsv(*pixel) for pixel in image.reshape(-1, 3).tolist()]
        expected = [colorsys.hsv_to_rgb((h + turn) % 1, s, v) for h, s, v in hsv]
        np.testing.assert_allclose(ours.reshape(-1, 3), expected, atol=1e-5)


def test_colour_jitter_stays_in_range_and_differs_by_image():
    images = jnp.broadcast_to(planes(floats(1)), (6, 3, 10, 14))
    strong = dataclasses.replace(PRESETS["strong"], gray_prob=0.0, jitter_prob=1.0)
    found = colours.jitter(KEYS, images, strong)
    assert found.min() >= -1e-6 and found.max() <= 1 + 1e-6
    assert len({image.tobytes() for image in np.asarray(found)}) == 6


def test_grey_is_torchvisions():
    import torch

    images = floats()
    found = images_of(colours.grey(KEYS, planes(images), preset(gray_prob=1.0)))
    grey = import_torchvision().transforms.functional.rgb_to_grayscale
    expected = grey(torch.from_numpy(np.asarray(images)).permute(0, 3, 1, 2), 3).permute(0, 2, 3, 1)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_noise_has_the_strength_asked_for_and_stays_in_range():
    grey = jnp.full((4, 3, 60, 60), 0.5)
    found = np.asarray(blurs.add_noise(KEYS[:4], grey, preset(noise=0.1)))
    assert abs(found.std() - 0.1) < 0.002 and abs(found.mean() - 0.5) < 0.002
    loud = np.asarray(blurs.add_noise(KEYS[:4], grey, preset(noise=2.0)))
    assert loud.min() == 0 and loud.max() == 1 and blurs.add_noise(KEYS[:4], grey, preset()) is grey


def test_erased_boxes_have_the_areas_and_ratios_asked_for():
    images = jnp.ones((300, 40, 60, 3))
    found = np.asarray(erasing.random_erase(jax.random.split(KEY, 300), images, 0.5, (0.1, 0.3), (0.5, 2.0)))
    erased = found[(found == 0).any(axis=(1, 2, 3))]
    assert 110 < len(erased) < 190
    for image in erased:
        gone = (image == 0).all(-1)
        tall, wide = gone.any(1).sum(), gone.any(0).sum()
        assert gone.sum() == tall * wide  # one full box
        assert 0.09 < gone.mean() < 0.32 and 0.45 < tall / wide < 2.2


def mixed(**changes):
    images, labels = jnp.asarray(floats()), jax.nn.one_hot(jnp.arange(6), 6)
    weights = jnp.ones(6).at[1].set(0)
    out = mixing.random_mix(jax.random.key(3), images, labels, weights, preset(**changes))
    return np.asarray(images), np.asarray(labels), *map(np.asarray, out)


def test_mixup_blends_images_as_labels():
    images, labels, new_images, new_labels = mixed(mixup=0.8)
    share = new_labels[0, 5]
    assert 0 < share < 1
    for row in (0, 2, 3, 5):
        np.testing.assert_allclose(new_labels[row], labels[row] * (1 - share) + labels[5 - row] * share, atol=1e-6)
        np.testing.assert_allclose(new_images[row], images[row] * (1 - share) + images[5 - row] * share, atol=1e-6)


def test_a_row_without_weight_is_not_mixed_in():
    images, labels, new_images, new_labels = mixed(mixup=0.8)
    for row in (1, 4):
        assert np.array_equal(new_images[row], images[row]) and np.array_equal(new_labels[row], labels[row])


def test_cutmix_labels_follow_the_true_area():
    for seed in range(8):
        images, labels = jnp.zeros((4, 12, 20, 3)).at[2:].set(1), jax.nn.one_hot(jnp.array([0, 0, 1, 1]), 2)
        found, targets = mixing.random_mix(jax.random.key(seed), images, labels, jnp.ones(4), preset(cutmix=1.0))
        assert set(np.unique(found)) <= {0.0, 1.0}
        np.testing.assert_allclose(targets[0, 1], found[0].mean(), atol=1e-6)
        np.testing.assert_allclose(targets[2, 0], 1 - found[2].mean(), atol=1e-6)


def test_cutmix_boxes_have_the_share_asked_for():
    keys = jax.random.split(KEY, 100)
    boxes = jax.vmap(lambda key: mixing.cutmix_box(key, jnp.float32(0.25), 40, 60))(keys)
    areas = np.asarray(boxes.mean(axis=(1, 2, 3, 4)))
    assert areas.max() == pytest.approx(0.25) and 0.0625 <= areas.min() < 0.2  # the edge clips some


def test_mixing_happens_as_often_as_asked():
    images, labels = jnp.asarray(floats(2, 4, 4)), jnp.eye(2)

    def changed(key):
        options = preset(mixup=1.0, cutmix=1.0, mix_prob=0.5, switch_prob=0.5)
        return (mixing.random_mix(key, images, labels, jnp.ones(2), options)[1] != labels).any()

    assert 60 < jax.vmap(changed)(jax.random.split(KEY, 200)).sum() < 140


@pytest.mark.parametrize("name", PRESETS)
def test_augment_under_jit(name):
    images = np.random.default_rng(0).integers(0, 256, (8, 16, 12, 3), np.uint8)
    labels, weights = jnp.arange(8) % 3, jnp.ones(8)
    targets = jax.nn.one_hot(labels, 3)
    step = jax.jit(lambda key, x: mixing.augment(key, x, targets, weights, PRESETS[name], MEAN, STD))
    found, targets = step(KEY, images)
    again, _ = step(KEY, images)
    assert found.dtype == targets.dtype == jnp.float32
    assert found.shape == images.shape and targets.shape == (8, 3)
    assert np.isfinite(found).all() and np.array_equal(found, again)
    np.testing.assert_allclose(targets.sum(-1), np.ones(8), atol=1e-6)
    if name in ("none", "crop", "light"):  # crops and flips are made on the host
        np.testing.assert_allclose(found, aug.normalize(jnp.asarray(images), MEAN, STD), atol=1e-6)
        np.testing.assert_allclose(targets, jax.nn.one_hot(labels, 3), atol=1e-6)
    else:
        assert not np.array_equal(found, step(jax.random.key(1), images)[0])
