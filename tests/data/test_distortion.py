import numpy as np
import pytest

from jaxdino.data.crops import centres
from jaxdino.data.distortion import CELLS, elastic, grid, stretched


def test_displacements_are_smooth_and_as_strong_as_asked():
    rng = np.random.default_rng(0)
    fields = np.stack([elastic((60, 80), 0.05, rng) for _ in range(300)])
    corners = fields[:, [0, 0, -1, -1], [0, -1, 0, -1]]
    np.testing.assert_allclose(corners.std(axis=(0, 1)), (0.05 * 80, 0.05 * 60), rtol=0.1)
    assert np.abs(np.diff(fields, axis=1)).max() < 1.2


def test_a_grid_keeps_the_edges_and_the_order():
    rng = np.random.default_rng(0)
    for _ in range(50):
        read = grid((60, 80), 0.4, rng) + centres((60, 80))
        assert (np.diff(read[..., 0], axis=1) > 0).all() and (np.diff(read[..., 1], axis=0) > 0).all()
        assert read.min() > 0 and (read.max(axis=(0, 1)) < (80, 60)).all()
        assert np.ptp(read[..., 0], axis=0).max() < 1e-9  # columns stay straight
    assert np.abs(grid((60, 80), 0.4, rng)).max() > 1


def test_a_grid_is_albumentations(monkeypatch):
    monkeypatch.setenv("NO_ALBUMENTATIONS_UPDATE", "1")  # it asks the package index for a newer version
    pytest.importorskip("albumentations")
    from albumentations.augmentations.geometric import functional

    size, rng = (200, 300), np.random.default_rng(1)
    columns, rows = rng.uniform(0.6, 1.4, (2, CELLS))
    read = stretched(size, columns, rows) + centres(size)
    steps = [
        [*(CELLS * widths / widths.sum()), 1.0] for widths in (columns, rows)
    ]  # normalized=True; the last one is not used
    for axis, theirs in enumerate(functional.generate_grid(size, *steps, CELLS)):
        ours, theirs = (np.moveaxis(one, 1 - axis, 0)[:, 0].reshape(CELLS, -1) for one in (read[..., axis], theirs))
        cell = theirs.shape[1]
        at = (np.arange(cell) + 0.5) * (cell - 1) / cell  # theirs goes from the first pixel of a cell to its last one
        for found, expected in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(found, np.interp(at, np.arange(cell), expected), rtol=1e-5)


def test_columns_read_widths_in_the_given_proportions():
    read = stretched((10, 100), np.array([1, 1, 2, 1, 1]), np.ones(CELLS)) + centres((10, 100))
    edges = 100 / 6 * np.array([0, 1, 2, 4, 5, 6])
    np.testing.assert_allclose(
        read[0, [10, 30, 50, 70, 90], 0], np.interp([10.5, 30.5, 50.5, 70.5, 90.5], range(0, 101, 20), edges)
    )
    assert read[:, 0, 1] == pytest.approx(np.arange(10) + 0.5)
