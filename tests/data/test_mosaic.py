"""Mosaics: each box stays around its object, cut objects are ignored, and only images with weight take part."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxdino.data.mosaic import GREY, mosaic

SIDE, SLOTS = 48, 3


def batch(weight=(1, 1, 1, 1, 1, 1)):
    """Black images with a square of their own brightness, which is also the class, and its box."""
    rng, count = np.random.default_rng(0), len(weight)
    images = np.zeros((count, SIDE, SIDE, 1), np.uint8)
    boxes, labels = np.zeros((count, SLOTS, 4), np.float32), np.zeros((count, SLOTS), np.int32)
    for row in range(count):
        x, y = rng.integers(4, 28, 2)
        images[row, y : y + 16, x : x + 16] = 150 + 15 * row
        boxes[row, 0], labels[row, 0] = (x, y, x + 16, y + 16), row
    valid = np.zeros((count, SLOTS), np.float32)
    valid[:, 0] = 1
    given = dict(image=images, boxes=boxes, box_labels=labels, box_valid=valid, box_ignored=0 * valid)
    return {name: jnp.asarray(value) for name, value in given.items()} | {"weight": jnp.asarray(weight, jnp.float32)}


def test_boxes_stay_around_their_objects():
    given, made = batch(), jax.jit(lambda key: mosaic(key, batch(), 1.0, 0.5))(jax.random.key(1))
    assert made["image"].dtype == jnp.uint8 and (np.asarray(made["image"]) == GREY).any()
    seen = 0
    for image, boxes, labels, valid in zip(
        *(np.asarray(made[n]) for n in ("image", "boxes", "box_labels", "box_valid")), strict=True
    ):
        for box, label in zip(boxes[valid > 0], labels[valid > 0], strict=True):
            left, top, right, bottom = np.rint(box).astype(int)
            inside = image[top:bottom, left:right, 0].astype(int)
            if min(inside.shape) >= 5:  # the edges of smaller ones are blurred to their middle
                assert abs(inside[len(inside) // 2, inside.shape[1] // 2] - (150 + 15 * label)) <= 2
                assert inside.mean() > 0.6 * (150 + 15 * label)
                seen += 1
    assert seen >= 6
    assert np.asarray(made["box_ignored"]).sum() > 0  # some are cut by more than half
    assert not np.asarray(made["boxes"])[np.asarray(made["box_valid"] + made["box_ignored"]) == 0].any()
    same = mosaic(jax.random.key(1), given, 0.0, 0.5)
    assert all((np.asarray(same[name]) == np.asarray(given[name])).all() for name in given)


def test_images_without_weight_take_no_part():
    given = batch((1, 1, 0, 0, 0, 0))
    made = mosaic(jax.random.key(0), given, 1.0, 0.5)
    changed = (np.asarray(made["image"]) != np.asarray(given["image"])).any(axis=(1, 2, 3))
    assert not changed[2:].any()
