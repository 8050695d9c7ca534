import numpy as np
import pytest
from PIL import Image

from jaxdino.core.resize import Resize
from jaxdino.data.distortion import elastic, grid
from jaxdino.data.geometry import Geometry, evaluated
from jaxdino.data.homography import about_centre, perspective, shear, shift, zoom

FULL, SIZE, BOX = (90, 60), (48, 40), (10, 5, 70, 53)
WARP = elastic(SIZE, 0.04, np.random.default_rng(2))
TILTED = np.array([(4, 2), (38, 1), (37, 46), (2, 43)], float)
MOVES = {
    "evaluation": evaluated(FULL, SIZE, Resize(0.8)),
    "padded": evaluated(FULL, (40, 80), Resize(1.0, crop_mode="border")),
    "crop": Geometry(FULL, SIZE, Resize(), BOX),
    "flipped": Geometry(FULL, SIZE, Resize(), BOX, hflip=True, vflip=True),
    "turned": Geometry(FULL, SIZE, Resize(), BOX, degrees=20.0, vflip=True),
    "warped": Geometry(FULL, SIZE, Resize(), BOX, degrees=-70.0, warp=WARP, hflip=True),
    "gridded": Geometry(FULL, SIZE, Resize(), BOX, warp=grid(SIZE, 0.3, np.random.default_rng(0))),
    "sheared": Geometry(FULL, SIZE, Resize(), BOX, transform=about_centre(shear(20, -10), SIZE)),
    "shifted": Geometry(FULL, SIZE, Resize(), BOX, transform=shift(-6, 4), hflip=True),
    "larger": Geometry(FULL, SIZE, Resize(), BOX, transform=about_centre(zoom(1.25), SIZE)),
    "smaller": Geometry(FULL, SIZE, Resize(), BOX, transform=about_centre(zoom(0.7), SIZE)),
    "tilted": Geometry(FULL, SIZE, Resize(), BOX, transform=perspective(SIZE, TILTED), vflip=True),
    "quarter": Geometry(FULL, (40, 48), Resize(), BOX, turns=1),
    "half": Geometry(FULL, SIZE, Resize(), BOX, turns=2, hflip=True),
    "three quarters": Geometry(FULL, (40, 48), Resize(0.8), turns=3),
    "evaluation, moved": Geometry(FULL, SIZE, Resize(0.8), degrees=15.0, transform=about_centre(zoom(0.9), SIZE)),
    "padded, moved": Geometry(FULL, (40, 80), Resize(1.0, crop_mode="border"), degrees=-30.0, hflip=True),
    "everything": Geometry(
        *(FULL, SIZE[::-1], Resize(), BOX, 25.0, WARP),
        hflip=True,
        transform=perspective(SIZE, TILTED) @ about_centre(shift(3, -2) @ shear(10) @ zoom(1.1), SIZE),
        turns=3,
    ),
}


def blobs(points, radius=2.5):
    """An image that is bright around points (N, 2)."""
    x, y = np.meshgrid(np.arange(FULL[0]) + 0.5, np.arange(FULL[1]) + 0.5)
    near = min_distance(x, y, points) < radius
    return near.astype(np.uint8)


def min_distance(x, y, points):
    return np.min([np.hypot(x - px, y - py) for px, py in points], axis=0)


@pytest.mark.parametrize("name", MOVES)
def test_image_plane_and_points_move_together(name):
    """A disc around each point: in the image, in the plane, and where the point is said to be."""
    move = MOVES[name]
    inside = np.argwhere(np.ones((6, 6))) * (FULL[0] / 6, FULL[1] / 6) + (7.3, 5.2)
    seen = 0
    for point in inside:
        mask = blobs([point])
        picture = Image.fromarray(np.repeat(mask[..., None] * np.uint8(255), 3, axis=2))
        image, plane = move.image(picture)[..., 0], move.plane(mask, 255)
        assert image.shape == plane.shape == move.size
        ((x, y),) = move.points(point[None])
        if not (6 < x < move.size[1] - 6 and 6 < y < move.size[0] - 6):
            continue
        seen += 1
        for found in (image / 255, plane == 1):
            rows, columns = np.nonzero(np.asarray(found) > 0.5)
            assert np.hypot(columns.mean() + 0.5 - x, rows.mean() + 0.5 - y) < 0.7
        assert ((image > 127) != (plane == 1)).mean() < 0.02
    assert seen > 4


@pytest.mark.parametrize("name", MOVES)
def test_boxes_hold_what_they_held_and_are_cut_off(name):
    move = MOVES[name]
    boxes, whole = np.array([[34, 20, 46, 30], [60, 40, 88, 59], [-50, -50, -20, -20]], float), 0
    found = move.boxes(boxes)
    assert found.shape == (3, 4) and (found >= 0).all() and (found <= np.tile(move.size[::-1], 2)).all()
    for (left, top, right, bottom), moved in zip(boxes[:2], found, strict=False):
        mask = np.zeros(FULL[::-1], np.uint8)
        mask[int(top) : int(bottom), int(left) : int(right)] = 1
        rows, columns = np.nonzero(move.plane(mask, 255) == 1)
        if not len(rows):
            continue
        off = np.array((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)) - moved
        assert (off[:2] > -1.6).all() and (off[2:] < 1.6).all()
        if (moved > 0).all() and (moved < np.tile(move.size[::-1], 2)).all():  # not cut off: the box is tight
            whole += 1
            assert np.abs(off).max() < 1.6
    assert whole
    assert (found[2, 2:] - found[2, :2]).min() <= 0  # what lies outside has no area


def test_points_are_exact_without_resampling():
    """A quarter turn of a whole square image is a permutation of its pixels."""
    move = Geometry((8, 8), (8, 8), Resize(), (0, 0, 8, 8), degrees=90.0)
    points = move.points(np.array([[0.0, 0.0], [8.0, 0.0], [3.5, 2.5]]))
    np.testing.assert_allclose(points, [[0, 8], [0, 0], [2.5, 4.5]], atol=1e-12)
    values = np.arange(64, dtype=np.uint8).reshape(8, 8)
    assert np.array_equal(move.plane(values, 255), np.rot90(values))


def test_a_plane_outside_the_image_has_the_fill():
    move = Geometry((20, 20), (20, 20), Resize(), (0, 0, 20, 20), degrees=45.0)
    plane = move.plane(np.ones((20, 20), np.uint8), 255)
    assert (plane[[0, 0, -1, -1], [0, -1, 0, -1]] == 255).all() and plane[10, 10] == 1
    padded = MOVES["padded"].plane(np.ones(FULL[::-1], np.uint8), 255)
    assert (padded[:, 0] == 255).all() and padded[20, 40] == 1


def test_points_are_found_again_under_the_strongest_grid():
    """The inverse of the displacement: a point of the result, read at its place in the image, comes back."""
    rng = np.random.default_rng(0)
    at = rng.uniform(4, 36, (50, 2))
    for _ in range(30):
        move = Geometry((40, 40), (40, 40), Resize(), (0, 0, 40, 40), warp=grid((40, 40), 0.4, rng))
        read = at + move._displacement(at)
        np.testing.assert_allclose(move.points(read), at, atol=0.05)
    assert move.points(np.empty((0, 2))).shape == (0, 2)
