"""Assignment, losses and suppression of dense detection against torchvision, or a plain statement of the paper."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdino.models.boxes import decode, detections, grid, suppressed
from jaxdino.objectives import detect
from jaxdino.objectives.detect import IGNORED, NEGATIVE, Detect
from tests.torchvision_stub import import_torchvision

STRIDES, SIZE = (8, 16, 32, 64), (96, 160)


def scene(seed, slots=6):
    rng = np.random.default_rng(seed)
    low, sides = rng.uniform(0, (140, 80), (slots, 2)), rng.uniform(6, 110, (slots, 2))
    boxes = np.concatenate([low, np.minimum(low + sides, SIZE[::-1])], axis=1).astype(np.float32)
    valid = (np.arange(slots) < 4).astype(np.float32)
    ignored = (np.arange(slots) == 4).astype(np.float32)
    return dict(
        boxes=boxes, box_labels=rng.integers(0, 3, slots).astype(np.int32), box_valid=valid, box_ignored=ignored
    )


def batch(*seeds):
    return {name: np.stack([scene(seed)[name] for seed in seeds]) for name in scene(0)}


def plain_assignment(one, radius):
    """The paper's words, place by place."""
    labels, boxes = [], []
    for level, stride in enumerate(STRIDES):
        for row in range(-(-SIZE[0] // stride)):
            for column in range(-(-SIZE[1] // stride)):
                x, y = (column + 0.5) * stride, (row + 0.5) * stride
                best, area, passed = None, np.inf, False
                for n, (left, top, right, bottom) in enumerate(one["boxes"].astype(np.float64)):
                    sides = (x - left, y - top, right - x, bottom - y)
                    passed |= bool(one["box_ignored"][n]) and min(sides) > 0
                    centred = max(abs(x - (left + right) / 2), abs(y - (top + bottom) / 2)) < radius * stride
                    low, high = (0, 64, 128, 256)[level], (64, 128, 256, np.inf)[level]
                    fits = low <= max(sides) < high
                    own = (right - left) * (bottom - top)
                    if one["box_valid"][n] and min(sides) > 0 and centred and fits and own < area:
                        best, area = n, own
                labels.append(one["box_labels"][best] if best is not None else IGNORED if passed else NEGATIVE)
                boxes.append(one["boxes"][0 if best is None else best])
    return np.array(labels), np.array(boxes)


@pytest.mark.parametrize("radius", [1.5, 100.0])
def test_each_place_learns_the_object_that_the_paper_says(radius):
    given = batch(0, 1, 2, 3)
    labels, boxes = detect.assigned(given, grid(SIZE, STRIDES), radius)
    seen = set()
    for n in range(4):
        wanted, around = plain_assignment({name: value[n] for name, value in given.items()}, radius)
        assert np.array_equal(labels[n], wanted)
        assert np.array_equal(np.asarray(boxes[n])[wanted >= 0], around[wanted >= 0])
        seen |= set(wanted.tolist())
    assert seen == {IGNORED, NEGATIVE, 0, 1, 2}


def test_losses_of_torchvision():
    torch = pytest.importorskip("torch")
    import_torchvision()
    from torchvision.ops import generalized_box_iou_loss, sigmoid_focal_loss

    rng = np.random.default_rng(0)
    logits, truth = rng.normal(0, 3, (50, 4)).astype(np.float32), rng.integers(0, 2, (50, 4)).astype(np.float32)
    wanted = sigmoid_focal_loss(torch.tensor(logits), torch.tensor(truth), 0.3, 1.7)
    np.testing.assert_allclose(detect.focal(logits, truth, 0.3, 1.7), wanted.numpy(), rtol=1e-5, atol=1e-6)
    boxes = [np.concatenate([low, low + rng.uniform(1, 60, (50, 2))], 1) for low in rng.uniform(0, 60, (2, 50, 2))]
    boxes = [one.astype(np.float32) for one in boxes]
    given = torch.tensor(boxes[0], requires_grad=True)
    wanted = generalized_box_iou_loss(given, torch.tensor(boxes[1]))
    wanted.sum().backward()
    grad = jax.grad(lambda one: detect.giou_loss(one, boxes[1]).sum())(boxes[0])
    np.testing.assert_allclose(detect.giou_loss(*boxes), wanted.detach().numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(grad, given.grad.numpy(), rtol=1e-4, atol=1e-6)


def plain_suppression(boxes, scores, overlap):
    kept = []
    for n in np.argsort(-scores, kind="stable"):
        for k in kept:
            sides = np.minimum(boxes[n, 2:], boxes[k, 2:]) - np.maximum(boxes[n, :2], boxes[k, :2])
            inter = np.prod(np.maximum(sides, 0))
            union = np.prod(boxes[n, 2:] - boxes[n, :2]) + np.prod(boxes[k, 2:] - boxes[k, :2]) - inter
            if inter / union > overlap:
                break
        else:
            kept.append(n)
    return kept


def test_suppression_is_greedy_and_each_class_alone():
    rng = np.random.default_rng(1)
    low = rng.uniform(0, 40, (60, 2))
    boxes = np.concatenate([low, low + rng.uniform(10, 40, (60, 2))], axis=1).astype(np.float32)
    scores = np.sort(rng.uniform(0.1, 1, 60))[::-1].astype(np.float32)
    wanted = plain_suppression(boxes, scores, 0.5)
    assert np.flatnonzero(suppressed(boxes, scores, 0.5)).tolist() == wanted and 5 < len(wanted) < 50
    places = grid((64, 64), STRIDES)
    logits = np.full((1, len(places.stride), 2), -9.0, np.float32)
    logits[0, :3, 0], logits[0, 1, 1] = (2.0, 3.0, 1.0), 2.5
    distances = np.ones((1, len(places.stride), 4), np.float32) * [3, 2, 2, 3]
    predictions = dict(logits=logits, distances=distances, centerness=np.zeros(logits.shape[:2], np.float32))
    found = detections(jax.tree.map(jnp.asarray, predictions), (64, 64), STRIDES)
    count = int((np.asarray(found["scores"]) > 0).sum())
    pair = decode(jnp.asarray(distances[0]), places)[:3]
    alone = plain_suppression(np.clip(np.asarray(pair), 0, 64), np.array([2.0, 3, 1]), 0.6)
    assert count == len(alone) + 1 and sorted(found["labels"][0][:count].tolist()) == [0] * len(alone) + [1]
    best = np.sqrt(0.5 / (1 + np.exp(-3.0)))
    np.testing.assert_allclose(found["scores"][0, 0], best, rtol=1e-6)
    np.testing.assert_allclose(found["boxes"][0, 0], np.clip(pair[1], 0, 64))


class Fixed:
    """A model that gives these predictions."""

    def __init__(self, predictions):
        self.predictions = predictions

    def __call__(self, images, key=None):
        return self


def predictions(seed, count):
    rng = np.random.default_rng(seed)
    places = len(grid(SIZE, STRIDES).stride)
    found = dict(logits=rng.normal(-2, 2, (count, places, 3)), distances=rng.uniform(0.1, 4, (count, places, 4)))
    return jax.tree.map(jnp.float32, found | dict(centerness=rng.normal(0, 2, (count, places))))


def loss_of(objective, given, weight, found):
    image = np.zeros((len(weight), *SIZE, 3), np.float32)
    parts = {name: jnp.asarray(one)[None] for name, one in {**given, "image": image, "weight": weight}.items()}
    return _loss(objective, parts, found)


@functools.partial(jax.jit, static_argnums=0)
def _loss(objective, parts, found):
    """Return the loss of each slice."""
    count = parts["weight"].shape[1]
    parts, _, _ = objective.targets({}, {}, parts)
    slices = len(parts["weight"])
    rows = [{name: one[n * count : (n + 1) * count] for name, one in found.items()} for n in range(slices)]
    losses = [objective.loss(Fixed(rows[n]), {k: one[n] for k, one in parts.items()}, None) for n in range(slices)]
    return losses[0] if slices == 1 else losses


def test_the_loss_is_that_of_the_paper():
    """Sums over places in float64, without the code of the objective; an image of weight 0 counts nowhere."""
    given, found, objective = batch(4, 5, 6), predictions(0, 3), Detect(STRIDES)
    weight = np.array([1, 1, 0], np.float32)
    total, parts = loss_of(objective, given, weight, found)
    places, sums, positives, centres = grid(SIZE, STRIDES), np.zeros(3), 0, 0.0
    for n in range(2):
        labels, boxes = plain_assignment({name: value[n] for name, value in given.items()}, 1.5)
        one = {name: np.asarray(value[n], np.float64) for name, value in found.items()}
        odds = 1 / (1 + np.exp(-one["logits"]))
        for k, (label, box) in enumerate(zip(labels, boxes.astype(np.float64), strict=True)):
            true = np.arange(3) == label
            if label != IGNORED:
                p = np.where(true, odds[k], 1 - odds[k])
                sums[0] += (np.where(true, 0.25, 0.75) * (1 - p) ** 2 * -np.log(p)).sum()
            if label < 0:
                continue
            centre, stride = places.centre[k].astype(np.float64), float(places.stride[k])
            sides = np.concatenate([centre - box[:2], box[2:] - centre])
            central = np.prod([min(sides[i], sides[i + 2]) / max(sides[i], sides[i + 2]) for i in (0, 1)]) ** 0.5
            reach = one["distances"][k] * stride
            guess = np.concatenate([centre - reach[:2], centre + reach[2:]])
            inter = np.prod(np.maximum(np.minimum(guess[2:], box[2:]) - np.maximum(guess[:2], box[:2]), 0))
            union = np.prod(guess[2:] - guess[:2]) + np.prod(box[2:] - box[:2]) - inter
            hull = np.prod(np.maximum(guess[2:], box[2:]) - np.minimum(guess[:2], box[:2]))
            sums[1] += central * (1 - inter / union + (hull - union) / hull)
            p = 1 / (1 + np.exp(-one["centerness"][k]))
            sums[2] -= central * np.log(p) + (1 - central) * np.log(1 - p)
            positives, centres = positives + 1, centres + central
    wanted = sums / (positives, centres, positives)
    np.testing.assert_allclose([parts[name] for name in objective.measures], wanted, rtol=1e-4)
    np.testing.assert_allclose(total, wanted.sum(), rtol=1e-4)


def test_images_without_objects_and_slices():
    given, found, objective = batch(4, 5), predictions(1, 2), Detect(STRIDES)
    empty = given | {name: np.zeros_like(given[name]) for name in ("box_valid", "box_ignored")}
    total, parts = loss_of(objective, empty, np.ones(2, np.float32), found)
    assert float(total) == float(parts["class_loss"]) > 0 and float(parts["box_loss"]) == 0
    whole, _ = loss_of(objective, given, np.ones(2, np.float32), found)
    image = np.zeros((2, *SIZE, 3), np.float32)
    sliced = {name: jnp.asarray(one)[:, None] for name, one in {**given, "image": image, "weight": np.ones(2)}.items()}
    losses = [one for one, _ in _loss(objective, sliced, found)]
    np.testing.assert_allclose(np.mean(losses), whole, rtol=1e-5)
