"""k-NN with few labels: banks of so many of each class, the accuracies' mean and deviation."""

import numpy as np
import pytest

from jaxdino.core.errors import UserError
from jaxdino.evals import few_shot
from jaxdino.evals.knn import knn_accuracy

RNG = np.random.default_rng(0)
CENTRES = RNG.normal(size=(3, 8))
Y, LABELS = np.repeat(np.arange(3), (5, 9, 30)).astype(np.int32), RNG.integers(0, 3, 40).astype(np.int32)
BANK, QUERIES = ((CENTRES[y] + RNG.normal(size=(len(y), 8))).astype(np.float32) for y in (Y, LABELS))


def measured(**how):
    return few_shot.few_shot_accuracy(BANK, Y, QUERIES, LABELS, num_classes=3, **how)


def test_banks_have_so_many_of_each_class(monkeypatch):
    banks = []

    def spy(features, labels, *rest, **how):
        banks.append((len(np.unique(features, axis=0)), np.bincount(labels).tolist(), how["k"]))
        return knn_accuracy(features, labels, *rest, **how)

    monkeypatch.setattr(few_shot, "knn_accuracy", spy)
    found = measured(shots=(1, 5), draws=6)
    assert banks == [(3, [1, 1, 1], 3)] * 6 + [(15, [5, 5, 5], 15)] * 6
    assert 1 / 3 < found[1]["mean"] < found[5]["mean"] <= 1 and found[1]["std"] > 0


def test_seeds_draw_alike_and_k_counts():
    assert measured(shots=(2,), seed=1) == measured(shots=(2,), seed=1) != measured(shots=(2,), seed=2)
    assert measured(shots=(5,), k=1) != measured(shots=(5,), k=15)


@pytest.mark.parametrize("shots", [0, 6])
def test_more_than_a_class_has_are_refused(shots):
    with pytest.raises(UserError, match=f"shots={shots}: the smallest class of train has 5 images"):
        measured(shots=(shots,))
