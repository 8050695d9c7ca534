"""Test-time augmentation: the views, and that their probabilities are averaged."""

from types import SimpleNamespace

import numpy as np
import pytest
from scipy.special import expit, softmax

from jaxdino.api.several_views import kinds_of, scores, views
from jaxdino.core.errors import UserError

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)
KERNEL = np.random.default_rng(1).normal(0, 0.01, (16 * 16 * 3, 4))


def model(images):
    """A linear classifier."""
    return SimpleNamespace(logits=np.asarray(images, np.float32).reshape(len(images), -1) @ KERNEL)


def test_the_views():
    found = views(IMAGES, ("flip", "zoom", "corners"))
    assert len(found) == 2 * (1 + 1 + 4) and all(one.shape == IMAGES.shape and one.dtype == np.uint8 for one in found)
    assert np.array_equal(found[6], IMAGES[:, :, ::-1])
    assert [len(views(IMAGES, kinds)) for kinds in ((), ("flip",), ("corners",))] == [1, 2, 5]
    corner = found[2].astype(int)[:, 0, 0] - IMAGES.astype(int)[:, 0, 0]  # of the first corner: the image's own
    assert np.abs(corner).max() <= 16


def test_probabilities_are_averaged():
    each = [model(one).logits for one in views(IMAGES, ("flip", "corners"))]
    np.testing.assert_allclose(
        softmax(scores(model, IMAGES, ("flip", "corners"), several=False), axis=1),
        np.mean([softmax(one, axis=1) for one in each], axis=0),
    )
    np.testing.assert_allclose(
        expit(scores(model, IMAGES, ("flip", "corners"), several=True)), np.mean([expit(one) for one in each], axis=0)
    )
    assert np.array_equal(scores(model, IMAGES, (), several=False), model(IMAGES).logits)


def test_kinds():
    assert kinds_of("flip, zoom,flip") == ("flip", "zoom") and kinds_of(None) == ()
    with pytest.raises(UserError, match="nearest"):
        kinds_of("flop")
