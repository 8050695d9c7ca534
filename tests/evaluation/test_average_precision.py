"""Average precision and panoptic quality of resamples: those of the images that are drawn, with repetitions."""

from types import SimpleNamespace

import numpy as np
import pytest

from jaxdino.data.instances import Instances
from jaxdino.evals.detection import DetectionEvaluator
from jaxdino.evals.instances import Found, InstanceEvaluator
from jaxdino.evaluation.tasks.average_precision import AveragePrecision
from jaxdino.evaluation.tasks.instances import InstancesKind

NAMES = ("a", "b", "never")


def image(rng):
    """Objects of two classes, one of them a crowd, and detections near most of them, with some in nothing."""
    count = rng.integers(1, 6)
    corner, side = rng.uniform(0, 60, (count, 2)), rng.uniform(8, 30, (count, 2))
    truth = np.column_stack([corner, corner + side, rng.integers(0, 2, count), rng.random(count) < 0.15])
    found = np.concatenate(
        [truth[:, :4] + rng.normal(0, 2, (count, 4)), rng.uniform(0, 40, (3, 4)) + np.array([0, 0, 40, 40])]
    )
    labels = np.concatenate([truth[:, 4], rng.integers(0, 2, 3)]).astype(int)
    return {"boxes": [found], "scores": [rng.random(len(found))], "labels": [labels], "truth": [truth]}


def evaluated(images):
    made = DetectionEvaluator(NAMES)
    for one in images:
        made.update(one)
    return made


def test_resamples_are_what_pycocotools_gives_for_the_images_drawn():
    rng = np.random.default_rng(0)
    images = [image(rng) for _ in range(12)]
    counts = np.stack([np.ones(12), rng.integers(0, 4, 12), rng.integers(0, 2, 12)]).astype(float)
    found = AveragePrecision(evaluated(images), 12, len(NAMES))(counts)
    for row, drawn in enumerate(counts.astype(int)):
        want = evaluated([images[place] for place in np.repeat(np.arange(12), drawn)]).compute()
        for name in ("map", "map50", "map75"):
            assert found[name][row] == pytest.approx(want[name], abs=1e-9), name
        for place, name in enumerate(NAMES[:2]):
            assert found["class/ap"][row, place] == pytest.approx(want[f"ap/{name}"], abs=1e-9)
        assert np.isnan(found["class/ap"][row, 2])


def test_without_any_detection_the_precision_is_zero():
    one = image(np.random.default_rng(1))
    none = one | {"boxes": [np.zeros((0, 4))], "scores": [np.zeros(0)], "labels": [np.zeros(0, int)]}
    none["truth"][0][:, 5] = 0
    found = AveragePrecision(evaluated([none, none]), 2, len(NAMES))(np.ones((1, 2)))
    assert found["map"][0] == 0 and np.isnan(found["class/ap50"][0, 2])


def scene(rng):
    """Three squares as truth, and the same moved by up to two pixels, some of another class."""
    ids, given = np.zeros((40, 40), np.int32), np.zeros((40, 40), np.int32)
    for number in range(1, 4):
        y, x = rng.integers(2, 8), 13 * (number - 1) + 1
        ids[y : y + 10, x : x + 10] = number
        top = y + rng.integers(-2, 3)
        given[top : top + 10, x : x + 10] = number
    labels = rng.integers(0, 2, 3)
    classes = np.where(rng.random(3) < 0.3, 1 - labels, labels).astype(np.int32)
    masks = given[None] == np.arange(1, 4)[:, None, None]
    return Instances.of(ids, labels.tolist()), Found(masks, rng.random(3), classes, given, classes)


def test_panoptic_quality_of_resamples_is_that_of_the_images_drawn():
    head = SimpleNamespace(card=SimpleNamespace(head=SimpleNamespace(things=(True, True))))
    rng = np.random.default_rng(0)
    scenes, counts = [scene(rng) for _ in range(8)], rng.integers(0, 3, 8)
    kind, whole = (
        InstancesKind(SimpleNamespace(names=NAMES[:2], model=head)),
        InstanceEvaluator(NAMES[:2], (True, True)),
    )
    scores = [kind.add(*one) for one in scenes]
    for place in np.repeat(np.arange(8), counts):
        truth, found = scenes[place]
        whole.update({"found": [found], "truth": [truth]})
    ours, want = kind.statistic()(counts[None].astype(float)), whole.compute()
    for name, theirs in {"pq": "pq", "sq": "sq", "rq": "rq", "map": "mask_map", "map50": "mask_map50"}.items():
        assert 0 < want[theirs] < 1 and ours[name][0] == pytest.approx(want[theirs]), name
    assert ours["class/pq"][0, 1] == pytest.approx(want["pq/b"]) and 0 <= min(scores) < max(scores) <= 1
