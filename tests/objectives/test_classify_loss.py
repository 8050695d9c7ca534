"""Cross entropy of one label with class weights, focal loss and logit adjustment, and its gradient, against torch's."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from jaxdino.core.errors import UserError
from jaxdino.objectives import class_weights
from jaxdino.objectives.classify import Classify

B, C = 7, 4
WEIGHTS = (0.3, 1.0, 6.0, 2.5)


def drawn():
    rng = np.random.default_rng(0)
    return rng.normal(0, 2, (B, C)).astype(np.float32), rng.integers(0, C, B)


def loss(logits, labels, weight=None, **how):
    """The loss of a model that returns these logits, as the training step computes it."""
    objective = Classify(**how)
    weight = np.ones(B, np.float32) if weight is None else weight
    batch = objective.weighed({"image": jnp.zeros((B, 2, 2, 3)), "label": labels, "weight": jnp.asarray(weight)})
    return objective.loss(lambda image, key: SimpleNamespace(logits=logits), batch, None)


def same(logits, labels, theirs, weight=None, **how):
    """Compare value and gradient; `theirs` is torch's loss of the logits."""
    (value, _), gradient = jax.value_and_grad(loss, has_aux=True)(logits, labels, weight, **how)
    x = torch.tensor(logits, requires_grad=True)
    found = theirs(x)
    found.backward()
    np.testing.assert_allclose(value, found.item(), rtol=2e-6)
    np.testing.assert_allclose(gradient, x.grad.numpy(), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("one_hot", [False, True])
def test_class_weights_are_torchs(smoothing, one_hot):
    logits, labels = drawn()
    given = np.eye(C, dtype=np.float32)[labels] if one_hot else labels
    same(
        logits,
        given,
        lambda x: F.cross_entropy(x, torch.tensor(labels), torch.tensor(WEIGHTS), label_smoothing=smoothing),
        smoothing=smoothing,
        class_weights=WEIGHTS,
    )


def test_class_weights_leave_out_unreadable_images():
    logits, labels = drawn()
    weight = np.array([1, 0, 1, 1, 0, 1, 1], np.float32)
    rows = np.flatnonzero(weight)
    same(
        logits,
        labels,
        lambda x: F.cross_entropy(x[rows], torch.tensor(labels[rows]), torch.tensor(WEIGHTS)),
        weight,
        class_weights=WEIGHTS,
    )


def test_slices_of_a_batch_add_up_to_it():
    """As in the training step: a slice counts by its share of the weights."""
    logits, labels = drawn()
    objective = Classify(class_weights=WEIGHTS, focal_gamma=2.0)
    batch = objective.weighed({"image": jnp.zeros((B, 2, 2, 3)), "label": labels, "weight": jnp.ones(B)})

    def of(rows):
        part = {name: value[rows] for name, value in batch.items()}
        value = objective.loss(lambda image, key: SimpleNamespace(logits=logits[rows]), part, None)[0]
        return value * part["weight"].sum() / batch["weight"].sum()

    np.testing.assert_allclose(of(slice(0, 3)) + of(slice(3, B)), of(slice(0, B)), rtol=1e-6)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0, 5.0])
def test_focal_loss(gamma, weights):
    """Compare with the definition: the cross entropy of each image times (1 - p) ** gamma."""
    logits, labels = drawn()
    alpha = torch.tensor(weights or [1.0] * C)[labels]

    def theirs(x):
        each = F.cross_entropy(x, torch.tensor(labels), reduction="none")
        return (alpha * (1 - torch.exp(-each)) ** gamma * each).sum() / alpha.sum()

    same(logits, labels, theirs, focal_gamma=gamma, class_weights=weights)


def test_focal_loss_of_a_certain_model_has_a_finite_gradient():
    logits = np.full((B, C), -200, np.float32)
    logits[:, 1] = 200
    gradient = jax.grad(lambda x: loss(x, np.ones(B, int), focal_gamma=0.5)[0])(logits)
    assert np.isfinite(gradient).all()


def test_logit_adjustment():
    """Compare with the balanced softmax, exp(z) weighed by the numbers of images, and its accuracy without them."""
    logits, labels = drawn()
    counts = np.array([50, 3, 7, 1])
    offset = tuple(np.log(counts / counts.sum()).tolist())

    def theirs(x):
        weighed = torch.tensor(counts) * torch.exp(x)
        return -torch.log(weighed[range(B), labels] / weighed.sum(1)).mean()

    same(logits, labels, theirs, logit_offset=offset)
    hits = loss(logits, labels, logit_offset=offset)[1]["accuracy"]
    np.testing.assert_allclose(hits, (logits.argmax(1) == labels).mean())


def test_balanced_and_effective_weights():
    shares = np.array([0.5, 0.3, 0.2, 0.0])
    assert class_weights.balanced(shares).tolist() == pytest.approx([2 / 3, 10 / 9, 5 / 3, 1])
    counts = np.array([1000, 10, 1, 0])
    found = class_weights.effective(counts, 0.99)
    number = [sum(0.99**k for k in range(count)) for count in counts[:3]]
    expected = np.array([1 / one for one in number])
    assert found.tolist() == pytest.approx([*(expected / expected.mean()), 1])
    assert class_weights.effective(counts, 0.0).tolist() == [1, 1, 1, 1]


def test_given_weights():
    names = ("cat", "dog", "owl")
    with pytest.raises(UserError, match=r"has 2 values for 3 classes: .* order: cat, dog, owl"):
        class_weights.resolved("objective.class_weights", (1.0, 2.0), names, {})
    with pytest.raises(UserError, match="class_weights='even' is not known; nearest: balanced; or give a number"):
        class_weights.checked("objective.class_weights", "even", ("balanced",))
    found = class_weights.resolved("objective.class_weights", (1, 2, 3), names, {})
    assert class_weights.described(found, names) == "cat 1, dog 2, owl 3"
