"""The losses of class maps against statements of their papers: loops over pixels and classes, and torch."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from jaxdino.core.slices import sliced
from jaxdino.evals.boundary import boundary_f1
from jaxdino.objectives.semantic import Semantic
from jaxdino.objectives.semantic_losses import near_boundary

B, C, SIZE = 4, 3, (6, 7)


def drawn():
    """Logits at the size of the masks, of which some pixels, and all of the third, are ignored; one lacks a class."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (B, *SIZE, C)).astype(np.float32)
    mask = rng.integers(0, C, (B, *SIZE)).astype(np.uint8)
    mask[0, :2], mask[1][mask[1] == 2], mask[2] = 255, 0, 255
    return logits, mask


def loss(logits, mask, weight=(1, 2, 1, 0), **how):
    model = lambda image, key: SimpleNamespace(logits=logits)  # noqa: E731
    batch = {"image": jnp.zeros(()), "mask": jnp.asarray(mask), "weight": jnp.asarray(weight, jnp.float32)}
    return Semantic(**how).loss(model, batch, None)[0]


def softmax(logits):
    shares = np.exp(logits - logits.max(-1, keepdims=True))
    return shares / shares.sum(-1, keepdims=True)


def dice(p, t):
    """V-Net, equation 2, without squares, for one class: 1 - Dice."""
    return 1 - (2 * sum(a * b for a, b in zip(p, t, strict=True)) + 1) / (sum(p) + sum(t) + 1)


def lovasz(p, t):
    """Berman et al., equations 8 and 9: the errors m by rank, each times the rise of 1 - IoU of the ranks so far."""
    errors = np.abs(t - p)
    order, total, before, wrong = np.argsort(-errors, kind="stable"), 0.0, 0.0, set()
    truth = {n for n in range(len(t)) if t[n]}
    for n in order.tolist():
        wrong.add(n)
        value = len(wrong) / len(truth | wrong)  # the set of mispredicted pixels, equation 5
        total, before = total + errors[n] * (value - before), value
    return total


@pytest.mark.parametrize(("name", "one"), [("dice", dice), ("lovasz", lovasz)])
def test_losses_of_regions(name, one):
    logits, mask = drawn()
    want = 0.0
    for image, weight in ((0, 1), (1, 2)):
        kept = mask[image] != 255
        shares, truth = softmax(logits[image])[kept], mask[image][kept]
        each = [one(shares[:, c], (truth == c).astype(float)) for c in range(C) if (truth == c).any()]
        want += weight * np.mean(each)
    assert float(loss(logits, mask, cross_entropy=0.0, **{name: 1.0})) == pytest.approx(want / 4, rel=1e-5)
    assert float(loss(logits, mask, **{name: 0.5})) == pytest.approx(float(loss(logits, mask)) + want / 8, rel=1e-5)


def test_the_gradient_of_lovasz_is_the_slope_of_its_rank():
    logits, mask = drawn()
    value = lambda x: loss(x, mask, cross_entropy=0.0, lovasz=1.0)  # noqa: E731
    slope, step = np.asarray(jax.grad(value)(logits)), np.random.default_rng(1).normal(0, 1, logits.shape)
    near = [float(value((logits + h * step).astype(np.float32))) for h in (-1e-3, 1e-3)]
    assert (near[1] - near[0]) / 2e-3 == pytest.approx(float((slope * step).sum()), rel=2e-2)
    assert not slope[2:].any()


def test_focal_loss_and_class_weights_are_those_of_torch():
    logits, mask = drawn()
    x, truth = torch.tensor(logits).permute(0, 3, 1, 2)[:2], torch.tensor(mask[:2]).long()
    each = F.cross_entropy(x, truth, ignore_index=255, reduction="none")
    focal = ((1 - torch.exp(-each)) ** 2 * each)[truth != 255].mean()
    assert float(loss(logits, mask, (1, 1, 0, 0), focal_gamma=2.0)) == pytest.approx(focal.item(), rel=1e-5)
    weighed = F.cross_entropy(x, truth, torch.tensor([0.5, 2.0, 3.0]), ignore_index=255)
    found = loss(logits, mask, (1, 1, 0, 0), class_weights=(0.5, 2.0, 3.0))
    assert float(found) == pytest.approx(weighed.item(), rel=1e-5)


def test_focal_loss_of_a_certain_model_has_a_finite_gradient():
    logits = np.full((B, *SIZE, C), -100, np.float32)
    logits[..., 1] = 100
    gradient = jax.grad(lambda x: loss(x, np.ones((B, *SIZE), np.uint8), focal_gamma=0.5))(logits)
    assert np.isfinite(gradient).all()


def test_slices_give_the_loss_of_the_batch():
    logits, mask = drawn()
    how = dict(dice=1.0, lovasz=0.5, focal_gamma=1.0, class_weights=(0.5, 2.0, 3.0), boundary=0)
    objective, weight = Semantic(**how), np.array([1, 2, 1, 0], np.float32)
    parts, _, _ = objective.targets({}, {}, sliced({"mask": jnp.asarray(mask), "weight": jnp.asarray(weight)}, 2))
    whole = sliced({"logits": jnp.asarray(logits)}, 2)["logits"]
    total = 0.0
    for n in range(2):
        model = lambda image, key, n=n: SimpleNamespace(logits=whole[n])  # noqa: E731
        part = {name: value[n] for name, value in parts.items()} | {"image": jnp.zeros(())}
        total += float(objective.loss(model, part, None)[0]) * float(parts["weight"][n].sum()) / 4
    assert total == pytest.approx(float(loss(logits, mask, **how)), rel=1e-5)


def test_pixels_near_another_class_are_not_learned():
    mask = np.array([[0, 0, 0, 1, 1, 255, 2, 2]], np.uint8)
    assert np.asarray(near_boundary(jnp.asarray(mask)[None], 255, 1))[0, 0].tolist() == [0, 0, 1, 1, 0, 1, 0, 0]
    logits = np.random.default_rng(0).normal(0, 1, (1, 1, 8, 3)).astype(np.float32)
    kept = np.array([[0, 0, 255, 255, 1, 255, 2, 2]], np.uint8)
    assert float(loss(logits, mask[None], (1,), boundary=1)) == pytest.approx(float(loss(logits, kept[None], (1,))))


def test_boundary_f1():
    truth = np.zeros((20, 20), np.uint8)
    truth[5:15, 5:15] = 1
    moved = np.roll(truth, 2, axis=1)
    assert boundary_f1(truth, truth) == 1 and boundary_f1(truth, 0 * truth) == 0
    assert boundary_f1(truth, moved, distance=2.0) == 1 and 0.5 < boundary_f1(truth, moved, distance=1.0) < 1
    line, other = np.arange(10)[None] >= 5, np.arange(10)[None] >= 6  # a boundary of one pixel in each class
    assert boundary_f1(line.astype(np.uint8), other.astype(np.uint8), 0.5) == 0
    half = np.where(np.arange(10)[None] == 9, 255, line).astype(np.uint8)
    assert boundary_f1(half, line.astype(np.uint8), 0.5) == 1
    assert np.isnan(boundary_f1(np.zeros((4, 4), np.uint8), np.ones((4, 4), np.uint8)))
