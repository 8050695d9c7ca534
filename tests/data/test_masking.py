import ml_collections
import numpy as np
import pytest

from jaxdino.core.errors import UserError
from jaxdino.data.masking import Masking

GRID = (14, 14)


def drawn(masking, batch, views=2, grid=GRID, seed=0):
    """bool (B, G, h, w), as a batch has them."""
    rng, counts = np.random.default_rng(seed), masking.counts(batch, grid, views)
    return np.stack([masking.draw(rng, row, grid) for row in counts])


@pytest.mark.parametrize("grid", [(14, 14), (7, 7), (2, 3), (1, 1), (4, 9)])
def test_a_mask_has_exactly_the_patches_asked_for(grid):
    rng = np.random.default_rng(0)
    for count in range(grid[0] * grid[1] + 1):
        mask = Masking().block_mask(rng, grid, count)
        assert mask.shape == grid and mask.dtype == bool and mask.sum() == count


def test_masks_are_made_of_blocks():
    """Hidden patches have more hidden neighbours than if they were strewn about."""
    rng = np.random.default_rng(0)
    masks = np.stack([Masking().block_mask(rng, GRID, 60) for _ in range(400)])
    beside = (masks[:, :, 1:] & masks[:, :, :-1]).sum() / masks[:, :, :-1].sum()
    assert beside > 0.7 > 60 / 196 + 0.3
    seen = masks.mean(axis=0)
    assert seen.min() > 0 and seen.max() < 0.7  # every patch is hidden at times, none always


def test_boxes_respect_their_aspect():
    rng, masking = np.random.default_rng(0), Masking(min_aspect=0.5, min_patches=20)
    for _ in range(200):
        mask = np.zeros(GRID, bool)
        assert masking._add_box(rng, mask, 60) == mask.sum() <= 60
        tall, wide = mask.any(1).sum(), mask.any(0).sum()
        assert mask.sum() == tall * wide >= 15
        assert 0.4 < tall / wide < 2.5  # whole patches: a little beyond 1/2 and 2


@pytest.mark.parametrize(("prob", "views"), [(0.5, 2), (0.25, 2), (0.3, 3), (1.0, 2), (0.0, 2), (0.5, 1)])
@pytest.mark.parametrize("batch", [1, 5, 64])
def test_share_of_masked_views_and_ratios(prob, views, batch):
    counts = Masking(prob=prob).counts(batch, GRID, views)
    assert counts.shape == (batch, views)
    assert abs((counts > 0).sum() - batch * views * prob) <= 1
    per_image = (counts > 0).sum(axis=1)
    assert per_image.max() - per_image.min() <= 1 and (np.diff(counts, axis=1) <= 0).all()
    hidden = np.sort(counts[counts > 0])
    assert not len(hidden) or (hidden.min() >= 0.1 * 196 - 1 and hidden.max() <= 0.5 * 196 + 1)
    if len(hidden) > 30:  # spread evenly over the ratios
        np.testing.assert_allclose(hidden, np.linspace(0.1, 0.5, len(hidden)) * 196, atol=2)


def test_which_view_is_masked_is_drawn():
    masks = drawn(Masking(), 200)
    counts = masks.sum(axis=(2, 3))
    assert np.array_equal(-np.sort(-counts, axis=1), Masking().counts(200, GRID, 2))
    assert 60 < (counts[:, 0] > 0).sum() < 140
    assert not np.array_equal(masks, drawn(Masking(), 200, seed=1))
    assert np.array_equal(masks, drawn(Masking(), 200))


def run_sums(hidden, groups, slices):
    """Hidden patches of each group of each slice, by the words of `capacity`'s docstring."""
    parts = [hidden[part::slices] for part in range(slices)]
    return [run.sum() for part in parts for run in np.split(part, groups)]


@pytest.mark.parametrize("prob", [0.5, 0.25, 1.0])
@pytest.mark.parametrize(("groups", "slices"), [(1, 1), (4, 1), (1, 4), (2, 4), (4, 2)])
def test_capacity_is_the_largest_group_and_tight(prob, groups, slices):
    masking = Masking(prob=prob)
    hidden = drawn(masking, 64).sum(axis=(1, 2, 3))
    sums = run_sums(hidden, groups, slices)
    capacity = masking.capacity(64, GRID, 2, groups, slices)
    assert capacity == max(sums)
    mean = sum(sums) / len(sums)
    assert capacity <= mean * (1.5 if prob < 0.5 else 1.15)


def test_without_masks_there_is_no_capacity():
    assert Masking(prob=0.0).capacity(8, GRID, 2, groups=4) == 0


def test_a_tiny_grid_hides_at_least_one_patch():
    counts = Masking(ratio=(0.0, 0.1)).counts(16, (2, 2), 2)
    assert set(counts[counts > 0].tolist()) == {1}


def test_read_from_a_config():
    assert Masking.of(ml_collections.ConfigDict({"ratio": [0.2, 0.4], "patch": 4})) == Masking(
        ratio=(0.2, 0.4), patch=4
    )
    assert Masking(patch=14).grid(224) == (16, 16)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Masking.of({"probb": 1}), "no field 'probb'; nearest: prob"),
        (lambda: Masking(prob=1.5), "prob=1.5"),
        (lambda: Masking(ratio=(0.5, 0.1)), "the smaller ratio first"),
        (lambda: Masking(patch=0), "patch=0"),
        (lambda: Masking(min_aspect=0.0), "min_aspect=0.0"),
        (lambda: Masking(patch=14).grid(96), "96 pixels are not a whole number of 14-pixel patches; try 98"),
        (lambda: Masking().capacity(10, GRID, 2, groups=4), "multiple of 1 slice"),
        (lambda: Masking().counts(0, GRID, 2), "at least 1"),
    ],
)
def test_errors(make, message):
    with pytest.raises(UserError, match=message):
        make()
