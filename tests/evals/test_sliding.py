"""Windows over images of any size, against a loop that adds up logits at the size of the image."""

import errno
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from jaxdino.core import sharding
from jaxdino.core.errors import UserError
from jaxdino.data.crops import short_side
from jaxdino.evals import sliding
from jaxdino.evals.sliding import slide
from jaxdino.evals.tiling import Axis, Tiling, window_starts

ALL_DEVICES = True
CROP, CELL, CLASSES = (12, 16), 4, 3
WEIGHTS = np.random.default_rng(0).normal(0, 0.1, (CELL * CELL * 3, CLASSES)).astype(np.float32)


def forward(images):
    """A linear layer on patches: uint8 (B, H, W, 3) -> (B, h, w, classes), and something of the whole window."""
    b, height, width, _ = images.shape
    cells = images.reshape(b, height // CELL, CELL, width // CELL, CELL, 3).transpose(0, 1, 3, 2, 4, 5)
    scores = cells.reshape(b, height // CELL, width // CELL, -1).astype("float32") @ WEIGHTS
    return scores + scores.mean(axis=(1, 2), keepdims=True)


def naive(image, out, crop=CROP, stride=None, fill=0):
    """Logits (n, H, W): every window upsampled by torch, added up, divided by how many cover a pixel, then resized."""
    size, stride = image.shape[:2], stride or Tiling().stride(crop)
    room = [max(a, b) for a, b in zip(size, crop, strict=True)]
    padded = np.full((*room, 3), fill, np.uint8)
    padded[: size[0], : size[1]] = image
    total, count = np.zeros((CLASSES, *room), np.float32), np.zeros(room, np.float32)
    y = 0
    while True:
        top, x = min(y, room[0] - crop[0]), 0
        while True:
            left = min(x, room[1] - crop[1])
            scores = forward(padded[None, top : top + crop[0], left : left + crop[1]])
            big = F.interpolate(torch.tensor(scores).permute(0, 3, 1, 2), crop, mode="bilinear", align_corners=False)
            total[:, top : top + crop[0], left : left + crop[1]] += big[0].numpy()
            count[top : top + crop[0], left : left + crop[1]] += 1
            if x + crop[1] >= room[1]:
                break
            x += stride[1]
        if y + crop[0] >= room[0]:
            break
        y += stride[0]
    assert count.min() >= 1
    mean = torch.tensor((total / count)[None, :, : size[0], : size[1]])
    return F.interpolate(mean, out, mode="bilinear", align_corners=False)[0].numpy()


def photos(*sizes, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, (*size, 3), np.uint8) for size in sizes]


SIZES = ((12, 16), (12, 40), (31, 16), (30, 45), (8, 16), (12, 9), (5, 40), (13, 17))
OUT = ((12, 16), (12, 40), (60, 33), (15, 90), (8, 16), (40, 11), (5, 41), (12, 16))


@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_windows_are_those_of_a_plain_loop(batch_size):
    given, shapes = photos(*SIZES), set()

    def seen(images):
        shapes.add(images.shape)
        return forward(images)

    found = slide(
        seen, zip(range(len(SIZES)), given, OUT, strict=True), crop=CROP, batch_size=batch_size, fill=(7, 8, 9)
    )
    for row, (key, one) in enumerate(found):
        assert key == row
        want = naive(given[row], OUT[row], fill=(7, 8, 9))
        np.testing.assert_allclose(one.logits(), want, atol=2e-5 * np.abs(want).max())
        assert (one.labels() == want.argmax(axis=0)).mean() == 1 and one.labels().dtype == np.uint8
    assert row == len(SIZES) - 1 and shapes == {(batch_size, *CROP, 3)}


@pytest.mark.parametrize("overlap", [0.99, 0.5, 0.0])
def test_other_overlaps(overlap):
    (image,) = photos((31, 37))
    tiling = Tiling(overlap)
    ((_, one),) = slide(forward, [(0, image, (20, 40))], crop=CROP, batch_size=8, tiling=tiling)
    want = naive(image, (20, 40), stride=tiling.stride(CROP))
    np.testing.assert_allclose(one.logits(), want, atol=1e-5 * np.abs(want).max())


def test_one_window_is_the_plain_forward_pass():
    (image,) = photos(CROP)
    ((_, one),) = slide(forward, [(0, image, CROP)], crop=CROP, batch_size=1)
    np.testing.assert_array_equal(one.patches.transpose(0, 2, 1), forward(image[None])[0])
    big = F.interpolate(
        torch.tensor(forward(image[None])).permute(0, 3, 1, 2), CROP, mode="bilinear", align_corners=False
    )
    np.testing.assert_allclose(one.logits(), big[0], atol=1e-4)


@pytest.mark.parametrize("length", range(1, 60))
def test_every_pixel_is_covered(length):
    for crop, stride in ((12, 8), (12, 12), (1, 1), (7, 3)):
        starts = window_starts(length, crop, stride)
        covered = np.zeros(max(length, crop), int)
        for start in starts:
            covered[start : start + crop] += 1
        assert covered.min() >= 1 and starts == sorted(set(starts)) and starts[-1] + crop == max(length, crop)
        assert all(b - a <= stride for a, b in pairwise(starts))


def test_small_tiles_give_the_same(monkeypatch):
    (image,) = photos((50, 61))
    ((_, one),) = slide(forward, [(0, image, (43, 77))], crop=CROP, batch_size=4)
    whole, mask = one.logits(), np.random.default_rng(1).integers(0, 3, (43, 77)).astype(np.uint8)
    labels, loss = one.judged(mask)
    monkeypatch.setattr(sliding, "TILE", 10)
    monkeypatch.setattr(sliding, "BUDGET", 150)
    sizes = [logits.shape for _, logits in one.tiles()]
    assert len(sizes) > 60 and max(np.prod(size) for size in sizes) == 150
    np.testing.assert_allclose(one.logits(), whole, atol=1e-4)
    np.testing.assert_array_equal(one.labels(), labels)
    assert one.judged(mask)[1] == pytest.approx(loss, rel=1e-5)


def test_loss_is_the_cross_entropy_over_the_pixels_of_the_mask():
    (image,) = photos((30, 45))
    ((_, one),) = slide(forward, [(0, image, (20, 30))], crop=CROP, batch_size=4)
    mask = np.random.default_rng(1).integers(0, 3, (20, 30)).astype(np.uint8)
    mask[3:9] = 255
    labels, loss = one.judged(mask)
    want = F.cross_entropy(
        torch.tensor(one.logits()[None]), torch.tensor(mask[None]).long(), ignore_index=255, reduction="sum"
    )
    assert loss == pytest.approx(want.item(), rel=1e-5)
    np.testing.assert_array_equal(labels, one.logits().argmax(axis=0))
    assert one.judged(np.full_like(mask, 255))[1] == 0


def test_windows_are_shared_among_devices():
    mesh = sharding.make_mesh(2, 2)
    given = photos(*SIZES)
    compiled = jax.jit(lambda images: forward(jnp.asarray(images)))
    images = [(row, image, image.shape[:2]) for row, image in enumerate(given)]
    found = list(slide(compiled, images, crop=CROP, batch_size=8, mesh=mesh))
    assert [key for key, _ in found] == list(range(len(SIZES))) and compiled._cache_size() == 1
    for image, (_, one) in zip(given, found, strict=True):
        want = naive(image, image.shape[:2])
        np.testing.assert_allclose(one.logits(), want, atol=1e-4 * np.abs(want).max())


def test_memory_is_that_of_a_tile():
    """An image of 3000 x 4000 pixels and 60 classes would be 2.9 GB of logits."""
    import tracemalloc

    crop = (480, 480)
    image = np.zeros((3000, 4000, 1), np.uint8)
    fast = lambda images: np.zeros((len(images), 30, 30, 60), np.float32)  # noqa: E731
    tracemalloc.start()
    ((_, one),) = slide(fast, [(0, image, (3000, 4000))], crop=crop, batch_size=2)
    next(iter(one.tiles()))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 150e6


def test_no_image_is_no_result():
    assert list(slide(forward, [], crop=CROP, batch_size=4)) == []


@pytest.mark.parametrize(
    ("size", "short", "want"),
    [((480, 640), 512, (512, 683)), ((640, 480), 240, (320, 240)), ((7, 9), 0, (7, 9)), ((1, 1000), 14, (14, 14000))],
)
def test_short_side(size, short, want):
    assert short_side(size, short) == want


def test_stride_is_two_thirds():
    assert Tiling().stride((512, 512)) == (341, 341) and Tiling().stride((1, 2)) == (1, 1)
    assert all(Tiling().stride((side, side))[0] == max(1, side * 2 // 3) for side in range(1, 2000))


def local(images):
    """The linear layer on patches alone: no patch sees another."""
    b, height, width, _ = images.shape
    cells = images.reshape(b, height // CELL, CELL, width // CELL, CELL, 3).transpose(0, 1, 3, 2, 4, 5)
    return cells.reshape(b, height // CELL, width // CELL, -1).astype("float32") @ WEIGHTS


@pytest.mark.parametrize("size", [(12, 16), (31, 45), (8, 50), (40, 9)])
@pytest.mark.parametrize("overlap", [0.0, 1 / 3, 0.75])
def test_a_ramp_gives_what_the_whole_image_gives_if_no_patch_sees_another(size, overlap):
    (image,) = photos(size)
    out, room = (37, 53), [-(-max(one, crop) // CELL) * CELL for one, crop in zip(size, CROP, strict=True)]
    how = dict(crop=CROP, batch_size=4, tiling=Tiling(overlap, "ramp"), snap=(CELL, CELL))
    ((_, tiled),) = slide(local, [(0, image, out)], **how)
    padded = np.zeros((*room, 3), np.uint8)
    padded[: size[0], : size[1]] = image
    big = F.interpolate(torch.tensor(local(padded[None])).permute(0, 3, 1, 2), room, mode="bilinear")
    want = F.interpolate(big[:, :, : size[0], : size[1]], out, mode="bilinear")[0].numpy()
    np.testing.assert_allclose(tiled.logits(), want, atol=1e-5 * np.abs(want).max())


@pytest.mark.parametrize("blend", ["even", "ramp"])
def test_a_constant_stays_constant(blend):
    (image,) = photos((31, 45))
    flat = lambda images: np.full((len(images), 3, 4, 2), 2.5, np.float32)  # noqa: E731
    ((_, one),) = slide(flat, [(0, image, (50, 20))], crop=CROP, batch_size=4, tiling=Tiling(0.6, blend), snap=(4, 4))
    np.testing.assert_allclose(one.logits(), 2.5, rtol=1e-6)


def test_a_ramp_lowers_the_weight_of_borders():
    axis = Axis(20, 12, 8, 3, 20, snap=4)
    np.testing.assert_allclose(axis.shares, [[1, 1, 0.5], [0.5, 1, 1]])
    wide = Axis(36, 24, 12, 6, 36, snap=4)
    np.testing.assert_allclose(wide.shares[0], [1, 1, 1, 5 / 6, 3 / 6, 1 / 6], atol=1e-6)


def test_patches_of_a_large_image_wait_in_a_file(monkeypatch):
    (image,) = photos((50, 61))
    ((_, held),) = slide(forward, [(0, image, (43, 77))], crop=CROP, batch_size=4)
    monkeypatch.setattr(sliding, "HELD", 100)
    ((_, filed),) = slide(forward, [(0, image, (43, 77))], crop=CROP, batch_size=4)
    assert isinstance(filed.patches, np.memmap) and not isinstance(held.patches, np.memmap)
    np.testing.assert_array_equal(filed.logits(), held.logits())
    monkeypatch.setattr(sliding.os, "posix_fallocate", full)
    ((_, kept),) = slide(forward, [(0, image, (43, 77))], crop=CROP, batch_size=4)
    assert not isinstance(kept.patches, np.memmap)


def full(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(("given", "words"), [((1.0,), "overlap"), ((0.5, "hann"), "blend='hann'")])
def test_wrong_tilings_are_refused(given, words):
    with pytest.raises(UserError, match=words):
        Tiling(*given)
