"""Metrics of objects with masks, against COCO's own tool, a plain statement of panoptic quality, and hand counts."""

import numpy as np
import pytest

from jaxdino.data.instances import Instances
from jaxdino.evals.instances import Found, InstanceEvaluator

NAMES = ("cell", "sky")


def blocks(*boxes, size=(16, 16)):
    ids = np.zeros(size, np.int32)
    for number, (top, left, bottom, right) in enumerate(boxes, 1):
        ids[top:bottom, left:right] = number
    return ids


def found_of(ids, classes, scores=None):
    masks = ids[None] == np.arange(1, len(classes) + 1)[:, None, None]
    scores = np.ones(len(classes)) if scores is None else np.asarray(scores)
    return Found(masks, scores, np.asarray(classes, int), ids, np.asarray(classes, int))


def panoptic(ids, classes, truth):
    """The definition, pair by pair: {class: (sum of overlaps, matched, false, missed)}."""
    void, table, hits, used = truth.ids == -1, np.zeros((2, 4)), set(), set()
    for n, label in enumerate(truth.labels, 1):
        for m, found in enumerate(classes, 1):
            a, b = truth.ids == n, (ids == m) & ~void
            overlap = (a & b).sum() / max((a | b).sum(), 1)
            if label == found and overlap > 0.5 and not truth.crowd[n - 1]:
                table[label] += [overlap, 1, 0, 0]
                hits, used = hits | {n}, used | {m}
    for n, label in enumerate(truth.labels, 1):
        table[label, 3] += n not in hits and not truth.crowd[n - 1]
    for m, found in enumerate(classes, 1):
        mine = ids == m
        crowds = np.isin(truth.ids, 1 + np.flatnonzero(truth.crowd & (truth.labels == found)))
        table[found, 2] += m not in used and mine.any() and (mine & (void | crowds)).sum() <= 0.5 * mine.sum()
    return table


def test_a_perfect_model_and_one_that_finds_nothing():
    truth = Instances.of(blocks((0, 0, 6, 6), (8, 8, 14, 14), (0, 8, 4, 16)), [0, 0, 1])
    evaluator = InstanceEvaluator(NAMES, (True, False))
    evaluator.update({"found": [found_of(truth.ids, truth.labels)], "truth": [truth]})
    names = ("mask_map", "mask_map50", "mask_map75", "pq", "sq", "rq", "miou")
    names += ("pq/cell", "pq/sky", "iou/cell", "iou/sky", "mask_ap/cell")
    assert evaluator.compute() == pytest.approx(dict.fromkeys(names, 1.0))
    nothing = InstanceEvaluator(NAMES, (True, False))
    nothing.update({"found": [found_of(np.zeros((16, 16), np.int32), [])], "truth": [truth]})
    values = nothing.compute()
    assert values["mask_map"] == values["pq"] == values["miou"] == 0
    assert np.isnan(InstanceEvaluator(NAMES, (True, False)).compute()["pq"])


def test_panoptic_quality_is_that_of_its_definition():
    rng = np.random.default_rng(0)
    evaluator, whole = InstanceEvaluator(NAMES, (True, True)), np.zeros((2, 4))
    for _ in range(30):
        corners = rng.integers(0, 11, (6, 2))
        ids = blocks(
            *[(y, x, y + h, x + w) for (y, x), (h, w) in zip(corners, rng.integers(2, 6, (6, 2)), strict=True)]
        )
        ids[rng.random(ids.shape) < 0.05] = -1
        ids[:, rng.integers(0, 14)] = -1
        truth = Instances.of(ids, rng.integers(0, 2, 6), rng.random(6) < 0.3)
        guess = np.where(rng.random(ids.shape) < 0.1, 0, np.roll(ids, rng.integers(0, 2), axis=1))
        guess[guess < 0] = 0
        classes = np.where(rng.random(6) < 0.8, rng.integers(0, 2, 6), 0)
        guess = Instances.of(guess, classes)
        evaluator.update({"found": [found_of(guess.ids, guess.labels)], "truth": [truth]})
        whole += panoptic(guess.ids, guess.labels, truth)
    assert whole[:, 1:].min() > 3  # every kind occurs
    np.testing.assert_allclose(evaluator.panoptic.table, whole)
    quality = whole[:, 0] / (whole[:, 1] + whole[:, 2:].sum(axis=1) / 2)
    assert evaluator.compute()["pq"] == pytest.approx(quality.mean())


def test_masks_that_overlap_crowds_and_ranks():
    truth = Instances.of(blocks((0, 0, 10, 10), (0, 10, 16, 16)), [0, 0], [False, True])
    ids = blocks((0, 0, 10, 6), (0, 0, 8, 10), (0, 10, 10, 16))  # overlaps 0.6, 0.8, and in the crowd
    masks = np.stack([blocks((0, 0, 10, 6)), blocks((0, 0, 8, 10)), blocks((0, 10, 10, 16))]) > 0
    evaluator = InstanceEvaluator(("cell",), (True,))
    one = Found(masks, np.array([0.9, 0.8, 0.95]), np.zeros(3, int), ids, np.zeros(3, int))
    evaluator.update({"found": [one], "truth": [truth]})
    values = evaluator.compute()
    # the first is right up to 0.6 (three thresholds), the second, one of two, up to 0.8 (four more); the third is free
    assert values["mask_map"] == pytest.approx((3 + 0.5 * 4) / 10)
    assert values["mask_map50"] == pytest.approx(1) and values["mask_map75"] == pytest.approx(0.5)
    assert evaluator.pixels.matrix.sum() == 160  # no pixel of the crowd
