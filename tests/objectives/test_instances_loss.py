"""Mask queries: matching against scipy, losses against transformers' EomtLoss, ignored pixels, slices, annealing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from jaxdino.objectives.instances import Instances, costs, sampled, truth_at, uncertain
from jaxdino.objectives.matching import matched
from tests.torchvision_stub import import_torchvision

import_torchvision()
B, Q, M, C, SIDE, GRID, POINTS = 2, 9, 6, 3, 32, 8, 40


def scene(rng, counts=(4, 2)):
    """Maps of numbers, labels and valid slots of B images: blocks in random places."""
    ids = np.zeros((B, SIDE, SIDE), np.int32)
    for image, count in enumerate(counts):
        for number in range(1, count + 1):
            y, x = rng.integers(0, SIDE - 10, 2)
            ids[image, y : y + 10, x : x + 8] = number
    valid = (np.arange(M)[None] < np.array(counts)[:, None]).astype(np.float32)
    return ids, rng.integers(0, C, (B, M)).astype(np.int32), valid


def batch_of(ids, labels, valid):
    weight = jnp.ones(len(ids))
    found = dict(image=jnp.zeros((len(ids), SIDE, SIDE, 3)), instances=jnp.asarray(ids), weight=weight)
    found |= dict(instance_labels=jnp.asarray(labels), instance_valid=jnp.asarray(valid))
    return found | {"mean_objects": jnp.full(len(ids), valid.sum() / len(ids))}


class Model:
    """Gives what it was given."""

    def __init__(self, predictions):
        self.predictions = predictions

    def __call__(self, image, key=None):
        return self


def predictions(rng):
    logits = rng.normal(size=(B, Q, C + 1)).astype(np.float32)
    return {"logits": jnp.asarray(logits), "masks": jnp.asarray(rng.normal(size=(B, Q, GRID, GRID)) * 3, jnp.float32)}


def draws(key, found, ids, labels, valid):
    """The points that the loss draws of one image: even ones, and those among which it chooses, by matched query."""
    first, second = jax.random.split(key)
    third, fourth = jax.random.split(second)
    sure = POINTS - int(0.75 * POINTS)
    even = jax.random.uniform(first, (POINTS, 2))
    truth, known = truth_at(ids, even, M)
    find = jax.jit(lambda *given: matched(costs(*given, Instances()), valid))
    query = find(found["logits"], sampled(found["masks"], even), labels, truth, known)
    order = np.argsort(np.asarray(query)[valid > 0])  # the original's order of the masks
    drawn = (jax.random.uniform(third, (M, 3 * POINTS, 2)), jax.random.uniform(fourth, (M, sure, 2)))
    return even[None], *(one[order] for one in drawn)


def original(found, ids, labels, valid, keys):
    """transformers' losses of the same predictions, at the same points: its three weighted losses."""
    from transformers import EomtConfig
    from transformers.models.eomt.modeling_eomt import EomtLoss

    config = EomtConfig(num_labels=C, train_num_points=POINTS)
    weights = {"loss_cross_entropy": 2.0, "loss_mask": 5.0, "loss_dice": 5.0}
    counts = valid.sum(axis=1).astype(int)
    rows = [{name: value[n] for name, value in found.items()} for n in range(B)]
    each = [draws(keys[n], rows[n], jnp.asarray(ids[n]), labels[n], valid[n]) for n in range(B)]
    queue = [*(one[0] for one in each), *(np.concatenate([one[n] for one in each]) for n in (1, 2))]
    rest, true_rand = iter(queue), torch.rand
    torch.rand = lambda *shape, device=None: torch.tensor(np.asarray(next(rest))).reshape(shape)
    try:
        masks = [torch.tensor(np.stack([(ids[n] == m + 1) for m in range(c)])).float() for n, c in enumerate(counts)]
        classes = [torch.tensor(labels[n, :c]).long() for n, c in enumerate(counts)]
        given = (torch.tensor(np.asarray(found[name])) for name in ("masks", "logits"))
        losses = EomtLoss(config, weights)(*given, masks, classes)
    finally:
        torch.rand = true_rand
    return {
        name.replace("loss_cross_entropy", "class").replace("loss_", "") + "_loss": float(value) * weights[name]
        for name, value in losses.items()
    }


def test_matching_is_scipys():
    rng = np.random.default_rng(0)
    for count in (1, 7, 20):
        cost, valid = rng.normal(size=(20, 33)).astype(np.float32), np.arange(20) < count
        found = np.asarray(jax.jit(matched)(cost, valid.astype(np.float32)))
        np.testing.assert_array_equal(found[:count], linear_sum_assignment(cost[:count])[1])
        assert (found[count:] >= 33).all()


def test_losses_are_those_of_transformers():
    rng = np.random.default_rng(1)
    (ids, labels, valid), found = scene(rng), predictions(rng)
    key = jax.random.key(5)
    keys = jax.random.split(jax.random.fold_in(key, 1), (B, 1))[:, 0]
    total, parts = jax.jit(lambda found: Instances(POINTS).loss(Model(found), batch_of(ids, labels, valid), key))(found)
    expected = original(found, ids, labels, valid, keys)
    assert {name: float(value) for name, value in parts.items()} == pytest.approx(expected, rel=1e-5)
    assert float(total) == pytest.approx(sum(expected.values()), rel=1e-5)
    other = original({**found, "masks": found["masks"] * 1.01}, ids, labels, valid, keys)
    assert other["dice_loss"] != pytest.approx(expected["dice_loss"], rel=1e-4)


def test_layers_add_up_and_slices_weigh_by_their_images():
    rng = np.random.default_rng(2)
    (ids, labels, valid), found, earlier = scene(rng), predictions(rng), predictions(rng)
    whole = batch_of(ids, labels, valid)
    how = Instances(0)
    run = jax.jit(lambda found, batch: jnp.stack([*how.loss(Model(found), batch, None)[1].values()]))
    both = found | {f"aux_{name}": value[:, None] for name, value in earlier.items()}
    np.testing.assert_allclose(run(both, whole), run(found, whole) + run(earlier, whole), rtol=1e-5)
    slices = [{name: value[n : n + 1] for name, value in whole.items()} for n in range(B)]
    each = [run({name: value[n : n + 1] for name, value in found.items()}, one) for n, one in enumerate(slices)]
    np.testing.assert_allclose(sum(each) / B, run(found, whole), rtol=1e-5)


@pytest.mark.parametrize("points", [0, POINTS])
def test_ignored_pixels_and_padding_do_not_count(points):
    rng = np.random.default_rng(3)
    (ids, labels, valid), found = scene(rng), predictions(rng)
    ids[:, :16] = -1
    how, key = Instances(points), jax.random.key(0)
    run = jax.jit(
        lambda found, weight: how.loss(Model(found), batch_of(ids, labels, valid) | {"weight": weight}, key)[0]
    )
    changed = found | {"masks": found["masks"].at[:, :, :3].multiply(-2.0)}  # cells whose neighbours are ignored too
    if points == 0:
        assert float(run(found, jnp.ones(B))) == pytest.approx(float(run(changed, jnp.ones(B))), rel=1e-5)
    else:
        assert np.isfinite(float(run(changed, jnp.ones(B))))
    second = found | {name: value.at[1].multiply(3.0) for name, value in found.items()}
    weight = jnp.array([1.0, 0.0])
    assert float(run(found, weight)) == pytest.approx(float(run(second, weight)), rel=1e-6)


def test_points_lie_where_masks_are_uncertain():
    masks = jnp.linspace(-6, 6, 16)[None, None] * jnp.ones((1, 16, 16))
    points = np.asarray(uncertain(masks, jax.random.key(0), 400))[0]
    near = np.abs(points[:, 0] - 0.5) < 0.15
    assert points.shape == (400, 2) and near.mean() > 0.5


def test_masking_ends_block_by_block():
    how = Instances(total_steps=60, blocks=4)
    shares = [np.asarray(how.shares(jnp.asarray(step))) for step in (0, 10, 15, 20, 50)]
    expected = [[1, 1, 1, 1], [1, 1, 1, 1], [0.5**0.9, 1, 1, 1], [0, 1, 1, 1], [0, 0, 0, 0]]
    np.testing.assert_allclose(shares, expected, atol=1e-6)
    moving, parts = {"step": jnp.asarray(15)}, {"weight": jnp.ones((2, 3)), "instance_valid": jnp.ones((2, 3, 5))}
    added = how.targets(moving, {}, parts)[0]
    assert added["shares"].shape == (2, 3, 4) and float(added["mean_objects"][0, 0]) == 5
