"""Linear probes: SGD as torch has it, chosen without the test images, seeded."""

import numpy as np
import pytest
import torch

from jaxdino.core.errors import UserError
from jaxdino.evals import probe
from jaxdino.evals.probe import linear_probe

RNG = np.random.default_rng(0)
X = RNG.normal(size=(300, 6)).astype(np.float32) * [1, 100, 1, 1e-3, 1, 1] + 5
Y = ((X - X.mean(0)) @ (RNG.normal(size=(6, 3)) / X.std(axis=0)[:, None])).argmax(axis=1).astype(np.int32)
FEW = {"learning_rates": (1e-5, 0.05), "weight_decays": (0.0,), "steps": 200}


def test_heads_side_by_side_are_torchs_sgd_one_by_one():
    grid = np.array([(0.2, 0.0), (0.05, 0.03)], np.float32)
    x = ((X - X.mean(0)) / X.std(0)).astype(np.float32)
    kernels, biases = probe._trained(x, Y, grid, num_classes=3, steps=70, batch_size=64, seed=3)
    for i, (rate, decay) in enumerate(grid.tolist()):
        rng = np.random.default_rng([3, 2])
        kernel = torch.tensor(rng.normal(0, 0.01, (6, 1, 3)).astype(np.float32)[:, 0], requires_grad=True)
        bias = torch.zeros(3, requires_grad=True)
        groups = [{"params": [kernel], "weight_decay": decay}, {"params": [bias]}]
        sgd = torch.optim.SGD(groups, lr=rate * 64 / 256, momentum=0.9)
        cosine = torch.optim.lr_scheduler.CosineAnnealingLR(sgd, 70)
        order = probe._order(300, 64, rng)
        for _ in range(70):
            rows = next(order)
            logits = torch.tensor(x[rows]) @ kernel + bias
            sgd.zero_grad()
            torch.nn.functional.cross_entropy(logits, torch.tensor(Y[rows]).long()).backward()
            sgd.step()
            cosine.step()
        np.testing.assert_allclose(kernels[:, i], kernel.detach(), atol=1e-5)
        np.testing.assert_allclose(biases[i], bias.detach(), atol=1e-5)


def test_what_is_linear_is_found_whatever_the_scale_of_a_feature():
    found = linear_probe(X[:200], Y[:200], X[200:], Y[200:], num_classes=3, **FEW)
    assert found["accuracy"] > 0.9 and found["learning_rate"] == 0.05
    assert found == linear_probe(X[:200], Y[:200], X[200:], Y[200:], num_classes=3, **FEW)


def test_the_test_images_choose_nothing():
    found = linear_probe(X[:200], Y[:200], X[200:], Y[200:], num_classes=3, **FEW)
    wrong = linear_probe(X[:200], Y[:200], X[200:], (Y[200:] + 1) % 3, num_classes=3, **FEW)
    assert wrong["accuracy"] < 0.2
    assert all(wrong[name] == found[name] for name in ("learning_rate", "weight_decay", "held_out_accuracy"))


def test_groups_of_heads_change_nothing(monkeypatch):
    def run():
        return linear_probe(X[:200], Y[:200], X[200:], Y[200:], num_classes=3, steps=20)

    whole = run()
    monkeypatch.setattr(probe, "COLUMNS", 12)  # four heads a group
    assert run() == whole


def test_a_part_of_each_class_is_held_out():
    labels = np.array([0] * 50 + [1] * 10 + [2])
    fit, choose = probe._parted(labels, 0.2, seed=0)
    assert np.bincount(labels[choose], minlength=3).tolist() == [10, 2, 0]
    assert sorted([*fit, *choose]) == list(range(61))


def test_a_feature_that_never_moves_does_no_harm():
    constant = np.concatenate([X, np.full((300, 1), 7, np.float32)], axis=1)
    ours = linear_probe(constant[:200], Y[:200], constant[200:] + np.eye(7)[6], Y[200:], num_classes=3, **FEW)
    assert ours["accuracy"] > 0.9


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"learning_rates": ()}, "learning rates"),
        ({"steps": 0}, "at least 1"),
        ({"held_out": 1.0}, "held_out=1.0"),
        ({"train_features": X[:3], "train_labels": np.arange(3)}, "none to choose"),
        ({"features": X[200:, :2]}, "6 wide, those of the queries 2"),
        ({"features": X[200:] * np.nan}, "not finite"),
        ({"num_classes": 2}, "0 to 2"),
    ],
)
def test_bad_input_is_one_clear_error(change, words):
    given = {"train_features": X[:200], "train_labels": Y[:200], "features": X[200:], "labels": Y[200:]}
    with pytest.raises(UserError, match=words):
        linear_probe(**(given | {"num_classes": 3} | FEW | change))
