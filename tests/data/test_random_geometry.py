import dataclasses

import numpy as np
import pytest
from PIL import Image

from jaxdino.core.resize import Resize
from jaxdino.data.presets import PRESETS
from jaxdino.data.random_geometry import drawn

FULL, SIZE = (90, 60), (48, 40)
PLAIN = dataclasses.replace(PRESETS["crop"], hflip=0.0)
MORE = dict(degrees=10.0, warp=0.05, shear=5.0, shift=0.1, zoom=(0.9, 1.1), perspective=0.2, grid=0.2)


def draw(view, seed, count=2, size=SIZE):
    return drawn([view] * count, [size] * count, FULL, Resize(), np.random.default_rng(seed))


def test_everything_else_is_drawn_after_every_box():
    """The boxes of a seed stay the same, whatever else a view asks for."""
    more, flips = dataclasses.replace(PLAIN, hflip=0.5, vflip=0.3, quarter=0.7, **MORE), []
    for seed in range(300):
        first, second = draw(PLAIN, seed), draw(more, seed)
        assert [move.box for move in first] == [move.box for move in second]
        flips += [(move.hflip, move.vflip) for move in second]
    assert np.mean(flips, axis=0) == pytest.approx((0.5, 0.3), abs=0.06)


def test_new_steps_leave_the_draws_of_the_older_ones():
    """Rotation, displacement and flips of a seed are those of a view without the steps that were added later."""
    older = dataclasses.replace(PLAIN, hflip=0.5, degrees=10.0, warp=0.05)
    more = dataclasses.replace(older, shear=5.0, shift=0.1, zoom=(0.9, 1.1), perspective=0.2)
    for first, second in zip(draw(older, 3), draw(more, 3), strict=True):
        assert (first.box, first.degrees, first.hflip) == (second.box, second.degrees, second.hflip)
        assert np.array_equal(first.warp, second.warp) and first.transform is None and second.transform is not None


def test_a_view_without_a_random_crop_is_moved_too():
    view = dataclasses.replace(PRESETS["none"], degrees=10.0, quarter=1.0, shift=0.1)
    moves = [move for seed in range(40) for move in draw(view, seed)]
    assert {move.turns for move in moves} == {0, 1, 2, 3}
    assert all(move.box is None and move.degrees and move.transform is not None for move in moves)


@pytest.mark.parametrize(
    ("probability", "fields", "happened"),
    [
        ("affine_prob", dict(degrees=10.0, shift=0.1), lambda move: bool(move.degrees)),
        ("affine_prob", dict(shift=0.1), lambda move: move.transform is not None),
        ("perspective_prob", dict(perspective=0.3), lambda move: move.transform is not None),
        ("distort_prob", dict(grid=0.3), lambda move: move.warp is not None),
        ("distort_prob", dict(warp=0.05, grid=0.3), lambda move: move.warp is not None),
        ("quarter", {}, lambda move: bool(move.turns)),
    ],
)
def test_probabilities(probability, fields, happened):
    share = {}
    for value in (0.0, 0.4, 1.0):
        view = dataclasses.replace(PLAIN, **fields, **{probability: value})
        share[value] = np.mean([happened(move) for seed in range(300) for move in draw(view, seed)])
    most = 0.75 if probability == "quarter" else 1.0  # the turn by 0 degrees is one of four
    assert share[0.0] == 0 and share[1.0] == pytest.approx(most, abs=0.05)
    assert share[0.4] == pytest.approx(0.4 * most, abs=0.06)


@pytest.mark.parametrize("size", [(40, 40), (48, 32)])
def test_ranges(size):
    """The strongest of many draws come near to the given limits, and never pass them."""
    height, width = size
    base = dataclasses.replace(PLAIN)
    moves = lambda **fields: [m for s in range(200) for m in draw(dataclasses.replace(base, **fields), s, size=size)]  # noqa: E731
    shifts = np.array([move.transform[:2, 2] for move in moves(shift=0.25)])
    assert (np.abs(shifts).max(axis=0) <= (width / 4, height / 4)).all()
    assert (np.abs(shifts).max(axis=0) > (0.23 * width, 0.23 * height)).all()
    factors = [move.transform[0, 0] for move in moves(zoom=(0.5, 1.5))]
    assert 0.5 <= min(factors) < 0.55 and 1.45 < max(factors) <= 1.5
    angles = np.degrees(np.arctan([(-move.transform[0, 1], -move.transform[1, 0]) for move in moves(shear=20.0)]))
    assert (np.abs(angles).max(axis=0) > 19).all() and np.abs(angles).max() <= 20 + 1e-9
    inward = []
    for move in moves(perspective=0.4):
        ends = np.array([(0, 0, 1), (width, height, 1)]) @ move.transform.T
        inward.append(ends[:, :2] / ends[:, 2:] / (width, height))
    low, high = np.array(inward).transpose(1, 0, 2)
    assert low.min() >= -1e-9 and 0.18 < low.max() <= 0.2 and high.max() <= 1 + 1e-9 and 0.8 <= high.min() < 0.82


def test_presets_whose_images_have_no_upper_side_are_turned():
    for name, view in PRESETS.items():
        turned = name in ("satellite", "microscopy")
        moves = [move for seed in range(40) for move in draw(view, seed)]
        assert ({move.turns for move in moves} == {0, 1, 2, 3}) == turned
        assert any(move.vflip for move in moves) == turned
    assert not PRESETS["medical"].hflip and not PRESETS["industrial"].hflip  # left is not right


EVERYTHING = dataclasses.replace(PLAIN, scale=(0.5, 1.0), hflip=0.5, vflip=0.5, quarter=1.0, **MORE)


@pytest.mark.parametrize("name", [*PRESETS, "everything", "everything, whole image"])
def test_a_box_stays_around_its_mask_and_a_point_on_its_object(name):
    """An ellipse, drawn into an image and a mask, with its box and its centre, all moved by what a view draws."""
    others = {"everything": EVERYTHING, "everything, whole image": dataclasses.replace(EVERYTHING, scale=None)}
    view = {**PRESETS, **others}[name]
    x, y = np.meshgrid(np.arange(FULL[0]) + 0.5, np.arange(FULL[1]) + 0.5)
    shown = 0
    for seed in range(40):
        centre, radii = np.random.default_rng(seed).uniform((25, 20), (65, 40)), (16, 9)
        mask = (((x - centre[0]) / radii[0]) ** 2 + ((y - centre[1]) / radii[1]) ** 2 < 1).astype(np.uint8)
        rows, columns = np.nonzero(mask)
        box = [[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]]
        for move in draw(view, seed, count=1, size=(96, 80)):
            plane = move.plane(mask, 255) == 1
            bright = move.image(Image.fromarray(mask * np.uint8(255)))[..., 0] > 127
            (left, top, right, bottom), (point,) = move.boxes(np.array(box))[0], move.points(centre[None])
            outside = plane.copy()
            outside[int(top) : int(np.ceil(bottom)), int(left) : int(np.ceil(right))] = False
            assert outside.sum() <= 0.02 * plane.sum()
            if (point < 8).any() or (point > (72, 88)).any():
                continue
            shown += 1
            assert plane[int(point[1]), int(point[0])]
            assert (bright & plane).sum() > 0.85 * (bright | plane).sum()
    assert shown > 15
