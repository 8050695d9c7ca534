"""Out-of-distribution scores against plain numpy and scikit-learn, and the false positive rate by hand."""

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.covariance import EmpiricalCovariance
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

from jaxdino.evaluation.intervals import Resampling
from jaxdino.evaluation.ood import fpr, fpr_of, pooled
from jaxdino.evaluation.ood_scores import SCORES, Known

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 3, 120)
TRAIN = RNG.normal(size=(120, 6)) + 3 * np.eye(6)[LABELS]
KERNEL, BIAS = RNG.normal(size=(6, 3)), RNG.normal(size=3)
FEATURES = RNG.normal(size=(10, 6)) * 2
LOGITS = FEATURES @ KERNEL + BIAS
FOUND = {name: score(Known(TRAIN, LABELS, KERNEL, BIAS), LOGITS, FEATURES) for name, score in SCORES.items()}


def test_scores_of_logits():
    np.testing.assert_allclose(FOUND["msp"], softmax(LOGITS, axis=1).max(axis=1))
    np.testing.assert_allclose(FOUND["energy"], np.log(np.exp(LOGITS).sum(axis=1)))
    np.testing.assert_allclose(FOUND["max_logit"], LOGITS.max(axis=1))


def test_mahalanobis_and_neighbours_are_scikit_learns():
    means = np.stack([TRAIN[one == LABELS].mean(axis=0) for one in range(3)])
    shared = EmpiricalCovariance(assume_centered=True).fit(TRAIN - means[LABELS])
    far = np.stack([shared.mahalanobis(FEATURES - mean) for mean in means])
    np.testing.assert_allclose(FOUND["mahalanobis"], -far.min(axis=0))
    bank, rows = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (TRAIN, FEATURES))
    distances, _ = NearestNeighbors(n_neighbors=12).fit(bank).kneighbors(rows)
    np.testing.assert_allclose(FOUND["knn"], -distances[:, -1], atol=1e-7)


def test_vim_is_its_published_formula():
    origin = -np.linalg.pinv(KERNEL.T) @ BIAS
    main = PCA(3).fit(np.concatenate([TRAIN - origin, origin - TRAIN]))  # twice: a mean of 0, as the formula has none

    def rest(x):
        centred = x - origin
        return np.linalg.norm(centred - main.inverse_transform(main.transform(centred)), axis=1)

    alpha = (TRAIN @ KERNEL + BIAS).max(axis=1).mean() / rest(TRAIN).mean()
    np.testing.assert_allclose(FOUND["vim"], FOUND["energy"] - alpha * rest(FEATURES), atol=1e-6)


def test_false_positives_where_95_percent_pass():
    familiar = np.arange(100.0)
    assert fpr(familiar, np.array([4.9, 5.0, 50.0, -1.0])) == pytest.approx(0.5)


def test_the_false_positive_rate_of_resamples_is_that_of_the_drawn_images():
    familiar, odd = np.round(RNG.normal(1, 1, 40), 1), np.round(RNG.normal(0, 1, 15), 1)
    how = pooled(Resampling(20, clusters=np.arange(40) // 4), 15)
    for counts in how.counts(55):
        assert (counts[:, :40].reshape(20, 10, 4).std(axis=2) == 0).all()  # whole groups
        found = fpr_of(familiar, odd)(counts)["fpr95"]
        drawn = [(np.repeat(familiar, row[:40].astype(int)), np.repeat(odd, row[40:].astype(int))) for row in counts]
        np.testing.assert_allclose(found, [fpr(*one) for one in drawn])
