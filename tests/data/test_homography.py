"""The geometric steps against torchvision's, with the same parameters."""

import dataclasses

import numpy as np
import pytest
from PIL import Image
from torchvision_stub import import_torchvision

from jaxdino.core.resize import Resize
from jaxdino.data.crops import centres
from jaxdino.data.distortion import elastic
from jaxdino.data.geometry import Geometry
from jaxdino.data.homography import about_centre, enlargement, moved, perspective, rotation, shear, shift, zoom

SIZE = (60, 80)
INNER = (slice(12, -12), slice(12, -12))
TILTED = [(6, 3), (78, 2), (74, 57), (1, 52)]


@pytest.fixture(scope="module")
def tv():
    return import_torchvision().transforms


def smooth():
    """An image without fine detail, which antialias and the filter hardly change."""
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]] / 80
    waves = [np.sin(7 * rows + 2 * columns), np.cos(8 * columns), np.sin(6 * rows * columns + 1)]
    return Image.fromarray((np.stack(waves, -1) * 120 + 128).astype(np.uint8))


def noise():
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8))


def ours(image, **how):
    """Move a whole image, without resizing it."""
    return Geometry(image.size, SIZE, Resize(), (0, 0, *image.size), **how).image(image)


def gap(found, expected):
    """The largest difference in levels, away from the edges: ours repeats edge pixels, torchvision fills with black."""
    return np.abs(found.astype(int) - np.asarray(expected).astype(int))[INNER].max()


AFFINE = {
    "rotation": (dict(angle=-10.0), rotation(10)),
    "shear along x": (dict(shear=[9.0, 0.0]), shear(9)),
    "shear along y": (dict(shear=[0.0, -9.0]), shear(0, -9)),
    "shear": (dict(shear=[7.0, 5.0]), shear(7, 5)),
    "shift": (dict(translate=[5, -4]), shift(5, -4)),
    "all": (dict(angle=-6.0, translate=[3, -2], shear=[4.0, 3.0]), shift(3, -2) @ rotation(6) @ shear(4, 3)),
}


@pytest.mark.parametrize("name", AFFINE)
def test_affine_steps_are_torchvisions(tv, name):
    """Both read every pixel once, by the same bilinear filter of Pillow; one level is rounding."""
    given, matrix = AFFINE[name]
    settings = dict(angle=0.0, translate=[0, 0], scale=1.0, shear=[0.0, 0.0]) | given
    for image in (noise(), smooth()):
        expected = tv.functional.affine(image, **settings, interpolation=tv.InterpolationMode.BILINEAR)
        found = ours(image, transform=about_centre(matrix, SIZE))
        assert gap(found, expected) <= 1
        assert gap(found, image) > 20


@pytest.mark.parametrize("factor", [0.8, 1.3])
def test_zoom_is_torchvisions(tv, factor):
    """Ours is antialiased: equal where there is no fine detail."""
    bilinear = tv.InterpolationMode.BILINEAR
    expected = tv.functional.affine(smooth(), 0.0, [0, 0], factor, [0.0, 0.0], interpolation=bilinear)
    found = ours(smooth(), transform=about_centre(zoom(factor), SIZE))
    assert gap(found, expected) <= 3 and gap(found, smooth()) > 20


def test_the_steps_of_a_view_are_those_of_random_affine(tv):
    """Zoom, shear, rotation and shift in the order of torchvision's one matrix."""
    inverse = tv.functional._get_inverse_affine_matrix([0.0, 0.0], -12.0, [3.0, -4.0], 1.2, [5.0, -7.0])
    ours = shift(3, -4) @ rotation(12) @ shear(5, -7) @ zoom(1.2)
    np.testing.assert_allclose(np.linalg.inv(ours)[:2].ravel(), inverse, atol=1e-12)


def test_perspective_is_torchvisions(tv):
    height, width = SIZE
    corners = [[0, 0], [width, 0], [width, height], [0, height]]
    expected = tv.functional._get_perspective_coeffs(corners, TILTED)
    back = np.linalg.inv(perspective(SIZE, TILTED))
    np.testing.assert_allclose((back / back[2, 2]).ravel()[:8], expected, atol=1e-5)
    moved_by_theirs = tv.functional.perspective(smooth(), corners, TILTED, tv.InterpolationMode.BILINEAR)
    found = ours(smooth(), transform=perspective(SIZE, TILTED))
    assert gap(found, moved_by_theirs) <= 3 and gap(found, smooth()) > 20


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_quarter_turns_are_torchvisions(tv, turns):
    image = noise().crop((0, 0, 60, 60))
    found = Geometry((60, 60), (60, 60), Resize(), (0, 0, 60, 60), turns=turns).image(image)
    assert np.array_equal(found, np.asarray(tv.functional.rotate(image, 90 * turns)))
    whole = Geometry((80, 60), (80, 60) if turns % 2 else SIZE, Resize(), (0, 0, 80, 60), turns=turns).image(noise())
    assert np.array_equal(whole, np.rot90(np.asarray(noise()), turns))


def test_elastic_displacements_are_read_as_torchvisions(tv):
    import torch

    warp = elastic(SIZE, 0.03, np.random.default_rng(0))
    shares = torch.tensor(warp * 2 / SIZE[::-1], dtype=torch.float32)[None]
    expected = tv.functional.elastic_transform(smooth(), shares, tv.InterpolationMode.BILINEAR)
    found = ours(smooth(), warp=warp)
    assert gap(found, expected) <= 1 and gap(found, smooth()) > 20


def test_corners_go_where_they_are_sent():
    corners = np.array([(0, 0), (80, 0), (80, 60), (0, 60)], float)
    np.testing.assert_allclose(moved(perspective(SIZE, TILTED), corners), TILTED, atol=1e-9)


@pytest.mark.parametrize("matrix", [zoom(1.7), rotation(30) @ shear(20, 10), perspective(SIZE, TILTED)])
def test_enlargement_is_the_growth_of_a_small_square_at_the_centre(matrix):
    whole = about_centre(matrix, SIZE) if matrix[2, 0] == 0 else matrix
    square = np.array([40, 30]) + 0.01 * np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)])
    x, y = moved(whole, square).T
    area = abs(np.sum(x * np.roll(y, 1) - y * np.roll(x, 1))) / 2
    assert enlargement(whole, SIZE) == pytest.approx(np.sqrt(area) / 0.02, rel=1e-4)


def test_a_smaller_copy_is_antialiased():
    """Stripes of one pixel become even grey at half the size, and do not flicker."""
    stripes = Image.fromarray(np.tile(np.uint8([0, 255]), (60, 40)))
    found = Geometry((80, 60), SIZE, Resize(), (0, 0, 80, 60), transform=about_centre(zoom(0.5), SIZE)).image(stripes)
    assert np.ptp(found[20:40, 25:55].astype(int)) < 40


def test_enlarged_content_is_read_at_the_resolution_of_the_file():
    """Of a large image, what is enlarged is not taken from a reduced copy: a pattern of single pixels is kept."""
    fine = Image.fromarray((np.indices((120, 160)).sum(0) % 2 * 255).astype(np.uint8))
    whole = Geometry(fine.size, SIZE, Resize(), (0, 0, *fine.size))
    larger = dataclasses.replace(whole, transform=about_centre(zoom(4.0), SIZE))
    assert whole.image(fine)[INNER].std() < 10 and larger.image(fine)[INNER].std() > 40


def test_what_lies_beyond_the_image():
    """Edge pixels are repeated; where evaluation pads, the padding has its colour."""
    image, far = Image.new("RGB", (80, 60), (10, 200, 30)), about_centre(shift(500, 0) @ zoom(0.3), SIZE)
    assert np.unique(ours(image, transform=far).reshape(-1, 3), axis=0).tolist() == [[10, 200, 30]]
    padded = Geometry((80, 60), (60, 60), Resize(1.0, crop_mode="border", fill=(7, 8, 9)), degrees=45.0)
    found = padded.image(image)
    assert found[0, 0].tolist() == [7, 8, 9] and found[30, 30].tolist() == [10, 200, 30]
    assert set(np.unique(padded.plane(np.ones((60, 80), np.uint8), 255))) == {1, 255}


def test_the_places_of_pixels_are_their_centres():
    assert moved(shift(1, 2), centres((1, 1))).tolist() == [[[1.5, 2.5]]]
