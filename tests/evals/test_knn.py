"""Nearest neighbours against a plain statement of Wu et al.'s votes, whatever the chunks and devices."""

import numpy as np
import pytest

from jaxdino.core.errors import UserError
from jaxdino.core.sharding import make_mesh
from jaxdino.evals.knn import knn_accuracy, knn_predictions, neighbours

RNG = np.random.default_rng(0)
CENTRES = RNG.normal(size=(5, 16))
Y, LABELS = RNG.integers(0, 5, 203).astype(np.int32), RNG.integers(0, 5, 57).astype(np.int32)
BANK = (CENTRES[Y] + 1.5 * RNG.normal(size=(203, 16))).astype(np.float32)
QUERIES = (CENTRES[LABELS] + 1.5 * RNG.normal(size=(57, 16))).astype(np.float32) * 30


def votes_by_hand(k, temperature):
    """(N, classes): each of the k nearest adds exp(cosine / T) to its class."""
    bank = BANK / np.linalg.norm(BANK, axis=1, keepdims=True)
    tally = np.zeros((len(QUERIES), 5))
    for row, query in enumerate(QUERIES):
        cosines = bank @ (query / np.linalg.norm(query))
        for near in np.argsort(-cosines, kind="stable")[:k]:
            tally[row, Y[near]] += np.exp(cosines[near] / temperature)
    return tally


@pytest.mark.parametrize("temperature", [0.07, 1.0])
@pytest.mark.parametrize("k", [1, 10, 203])
def test_votes_are_wus(k, temperature):
    ours = knn_predictions(BANK, Y, QUERIES, k=k, temperature=temperature, num_classes=5)
    np.testing.assert_array_equal(ours[k], votes_by_hand(k, temperature).argmax(1))


@pytest.mark.parametrize("how", [{"chunk": 8, "bank_chunk": 30}, {"chunk": 57, "bank_chunk": 203}, {"mesh": make_mesh}])
def test_chunks_and_devices_change_nothing(how):
    how = {name: value() if callable(value) else value for name, value in how.items()}
    cosines, rows = neighbours(BANK, QUERIES, 20)
    other, places = neighbours(BANK, QUERIES, 20, **how)
    np.testing.assert_array_equal(places, rows)
    np.testing.assert_allclose(other, cosines, atol=1e-6)
    assert knn_accuracy(BANK, Y, QUERIES, LABELS, num_classes=5, **how) == knn_accuracy(
        BANK, Y, QUERIES, LABELS, num_classes=5
    )


def test_accuracy_is_the_share_that_is_right():
    found = knn_accuracy(BANK, Y, QUERIES, LABELS, k=(10, 20), num_classes=5)
    assert list(found) == [10, 20] and found[10] == np.mean(votes_by_hand(10, 0.07).argmax(1) == LABELS)
    assert 0.3 < found[20] < 1.0
    assert knn_accuracy(BANK, Y, BANK, Y, k=1, num_classes=5) == {1: 1.0}


def test_equal_rows_come_in_the_banks_order_and_a_small_temperature_does_not_overflow():
    same = np.ones((40, 4), np.float32)
    _, rows = neighbours(same, same[:2], 7, bank_chunk=9)
    np.testing.assert_array_equal(rows, [range(7)] * 2)
    sharp = knn_predictions(BANK, Y, QUERIES, k=5, temperature=1e-3, num_classes=5)
    np.testing.assert_array_equal(sharp[5], Y[neighbours(BANK, QUERIES, 1)[1][:, 0]])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"k": 204}, "among the 203 images"),
        ({"k": (5, 0)}, "k=0"),
        ({"k": ()}, "k is empty"),
        ({"temperature": 0.0}, "above 0"),
        ({"features": QUERIES[:, :3]}, "16 wide, those of the queries 3"),
        ({"features": QUERIES[:0], "labels": LABELS[:0]}, "queries have shape"),
        ({"train_features": np.where(np.arange(203)[:, None] == 3, np.nan, BANK)}, "1 of the 203 .* not finite"),
        ({"labels": LABELS[:5]}, "one each"),
        ({"num_classes": 4}, "0 to 4"),
    ],
)
def test_bad_input_is_one_clear_error(change, words):
    given = {"train_features": BANK, "train_labels": Y, "features": QUERIES, "labels": LABELS, "num_classes": 5}
    with pytest.raises(UserError, match=words):
        knn_accuracy(**(given | change))
