"""Counted pixels and what is made of them, against scikit-learn."""

import jax
import numpy as np
import pytest
from sklearn.metrics import f1_score, jaccard_score, precision_score, recall_score

from jaxdino.evals.segmentation import counts, summarise

NAMES = ("red", "green", "unseen")
PROMPT = np.array([0, 1, 0, 1, 0])


def drawn():
    """Five pairs: the second with pixels that do not count, in the last nothing is found and nothing is there."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(5, 6, 7)).astype(np.float32)
    mask = rng.integers(0, 2, (5, 6, 7)).astype(np.uint8)
    logits = np.where(mask == 1, logits + np.array([2, 0.5, 1, 3, 0])[:, None, None], logits).astype(np.float32)
    mask[1, :2], mask[4], logits[4] = 255, 0, -1
    return logits, mask


def pixels(places) -> tuple[np.ndarray, np.ndarray]:
    """Truth and prediction of the pixels that count, of these pairs."""
    logits, mask = drawn()
    kept = mask[places] != 255
    return (mask[places] == 1)[kept], (logits[places] > 0)[kept]


@pytest.fixture(scope="module")
def found():
    logits, mask = drawn()
    counted = {name: np.asarray(value) for name, value in jax.jit(counts)(logits, mask).items()}
    return summarise(counted, PROMPT, NAMES)


def test_logits_and_their_signs_count_alike():
    logits, mask = drawn()
    ours, signs = counts(logits, mask), counts(logits > 0, mask)
    for name in ("intersection", "predicted", "truth"):
        assert ours[name].shape == (5,) and ours[name].dtype == np.float32
        np.testing.assert_array_equal(ours[name], signs[name])


def test_of_pairs(found):
    iou = [jaccard_score(*pixels([i])) for i in range(4)] + [1.0]
    dice = [f1_score(*pixels([i])) for i in range(4)] + [1.0]
    assert found["iou"] == pytest.approx(np.mean(iou)) and found["dice"] == pytest.approx(np.mean(dice))
    shares = {f"iou_{100 * least:g}": np.mean([one >= least for one in iou]) for least in (0.5, 0.75, 0.9)}
    assert {name: found[name] for name in shares} == shares and len(set(shares.values())) > 1
    assert found["pairs"] == 5


def test_of_pixels(found):
    assert found["precision"] == pytest.approx(precision_score(*pixels(slice(None))))
    assert found["recall"] == pytest.approx(recall_score(*pixels(slice(None))))


def test_of_prompts(found):
    assert list(found["per_prompt"]) == ["red", "green"]
    for place, name in enumerate(NAMES[:2]):
        own, truth = found["per_prompt"][name], pixels(place == PROMPT)
        assert own["miou"] == pytest.approx(jaccard_score(*truth))
        assert own["precision"] == pytest.approx(precision_score(*truth))
        assert own["recall"] == pytest.approx(recall_score(*truth))
    assert found["per_prompt"]["red"]["pairs"] == 3
    assert found["per_prompt"]["green"]["dice"] == pytest.approx(np.mean([f1_score(*pixels([i])) for i in (1, 3)]))
    assert found["miou"] == pytest.approx(np.mean([own["miou"] for own in found["per_prompt"].values()]))


def of(intersection, predicted, truth):
    arrays = dict(intersection=intersection, predicted=predicted, truth=truth)
    return summarise({name: np.array([value], np.float32) for name, value in arrays.items()}, np.zeros(1, int), NAMES)


@pytest.mark.parametrize(("pair", "same"), [((0, 0, 0), 1.0), ((0, 5, 0), 0.0), ((0, 0, 5), 0.0), ((5, 5, 5), 1.0)])
def test_nothing_there_or_nothing_found(pair, same):
    found = of(*pair)
    assert {found[name] for name in ("miou", "dice", "iou", "iou_90", "precision", "recall")} == {same}


def test_a_split_without_pairs():
    none = np.zeros(0, np.float32)
    found = summarise({name: none for name in ("intersection", "predicted", "truth")}, np.zeros(0, int), NAMES)
    assert found["pairs"] == 0 and found["per_prompt"] == {} and np.isnan(found["miou"]) and np.isnan(found["recall"])
