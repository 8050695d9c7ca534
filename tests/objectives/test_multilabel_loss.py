"""Binary cross entropy of several labels and its gradient, against torch's and timm's."""

import itertools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from timm.loss import BinaryCrossEntropy
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

from jaxdino.objectives.class_weights import positives
from jaxdino.objectives.multilabel import Multilabel

B, C = 6, 5


def drawn():
    rng = np.random.default_rng(0)
    return rng.normal(0, 3, (B, C)).astype(np.float32), (rng.random((B, C)) < 0.4).astype(np.float32)


def loss(logits, labels, weight, smoothing=0.0, **how):
    """The loss of a model that returns these logits."""
    model = lambda image, key: SimpleNamespace(logits=logits)  # noqa: E731
    batch = {"image": jnp.zeros((B, 2, 2, 3)), "labels": labels, "weight": weight}
    return Multilabel(smoothing, **how).loss(model, batch, None)


def same(ours, logits, theirs):
    """Compare value and gradient; `theirs` is torch's loss of the logits."""
    (value, _), gradient = ours
    x = torch.tensor(logits, requires_grad=True)
    found = theirs(x)
    found.backward()
    np.testing.assert_allclose(value, found.item(), rtol=1e-6)
    np.testing.assert_allclose(gradient, x.grad.numpy(), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("rows", [[0, 1, 2, 3, 4, 5], [0, 3]])
@pytest.mark.parametrize("soft", [False, True])
def test_value_and_gradient_are_torchs(rows, soft):
    """Rows of weight 0 are images that could not be read; mixed images have soft labels."""
    logits, labels = drawn()
    labels = 0.3 * labels + 0.7 * labels[::-1] if soft else labels
    weight = np.isin(np.arange(B), rows).astype(np.float32)
    found = jax.value_and_grad(loss, has_aux=True)(logits, labels, weight)
    same(found, logits, lambda x: F.binary_cross_entropy_with_logits(x[rows], torch.tensor(labels[rows])))


GRID = list(itertools.product((0.0, 0.2), (None, 0.1, 0.45), (False, True), (1.0, 2.5, (0.2, 1.0, 7.0, 2.0, 0.5))))


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize(("smoothing", "threshold", "sums", "pos_weight"), GRID)
def test_all_options_are_timms(smoothing, threshold, sums, pos_weight, soft):
    """timm 1.0.31 smooths labels of several classes towards 0.5, then compares them with the threshold."""
    logits, labels = drawn()
    labels = 0.3 * labels + 0.7 * labels[::-1] if soft else labels
    how = dict(pos_weight=pos_weight, target_threshold=threshold, sum_classes=sums)
    found = jax.value_and_grad(loss, has_aux=True)(logits, labels, np.ones(B), smoothing, **how)
    theirs = BinaryCrossEntropy(smoothing=smoothing, smooth_dense=True, **how)
    same(found, logits, lambda x: theirs(x, torch.tensor(labels)))


@pytest.mark.parametrize("pos_weight", [3.0, (0.2, 1.0, 7.0, 2.0, 0.5)])
def test_weights_of_classes_are_torchs(pos_weight):
    logits, labels = drawn()
    found = jax.value_and_grad(loss, has_aux=True)(logits, labels, np.ones(B), pos_weight=pos_weight)
    same(
        found,
        logits,
        lambda x: torch.nn.BCEWithLogitsLoss(pos_weight=torch.tensor(pos_weight))(x, torch.tensor(labels)),
    )
    assert abs(found[0][0] - loss(logits, labels, np.ones(B))[0]) > 1e-3


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_focal_loss_is_torchvisions(gamma):
    logits, labels = drawn()
    found = jax.value_and_grad(loss, has_aux=True)(logits, labels, np.ones(B), focal_gamma=gamma)
    same(
        found,
        logits,
        lambda x: sigmoid_focal_loss(x, torch.tensor(labels), alpha=-1, gamma=gamma, reduction="mean"),
    )


def test_balanced_weights():
    """All images have the class c and none has d: there is nothing to balance."""
    labels = np.array([[1, 0, 1, 0], [0, 0, 1, 0], [0, 1, 1, 0], [0, 1, 1, 0]], np.float32)
    assert positives(labels).tolist() == [3.0, 1.0, 1.0, 1.0]


def test_weights_are_of_images_and_accuracy_of_labels():
    logits, labels = drawn()
    weight = np.array([1, 0, 0.5, 0, 2, 1], np.float32)
    each = F.binary_cross_entropy_with_logits(torch.tensor(logits), torch.tensor(labels), reduction="none").mean(1)
    value, aux = loss(logits, labels, weight)
    np.testing.assert_allclose(value, (each.numpy() * weight).sum() / weight.sum(), rtol=1e-6)
    right = ((logits > 0) == (labels > 0)).mean(1)
    np.testing.assert_allclose(aux["label_accuracy"], (right * weight).sum() / weight.sum(), rtol=1e-6)
    assert loss(logits, labels, np.zeros(B, np.float32))[0] == 0
