"""Linear probes: SGD as torch has it, chosen without the test images, seeded."""

import numpy as np
import pytest
import torch

from jaxdino.core.errors import UserError
from jaxdino.evals import linear_heads, probe
from jaxdino.evals.linear_heads import Cells, train_heads
from jaxdino.evals.probe import linear_probe

RNG = np.random.default_rng(0)
X = RNG.normal(size=(300, 6)).astype(np.float32) * [1, 100, 1, 1e-3, 1, 1] + 5
Y = ((X - X.mean(0)) @ (RNG.normal(size=(6, 3)) / X.std(axis=0)[:, None])).argmax(axis=1).astype(np.int32)
FEW = {"learning_rates": (1e-5, 0.05), "weight_decays": (0.0,), "steps": 200}


@pytest.mark.parametrize("several", [False, True])
def test_heads_side_by_side_are_torchs_sgd_one_by_one(several):
    rates, decays, smoothing, folds = (0.2, 0.05, 0.1), (0.0, 0.03, 0.0), (0.0, 0.1, 0.2), (0, 1, -1)
    cells = Cells.of(rates, decays, smoothing, [3, 3, 5], folds)
    x, fold_of = ((X - X.mean(0)) / X.std(0)).astype(np.float32), (np.arange(300) % 2).astype(np.int32)
    y = (np.eye(3, dtype=np.float32)[Y] + np.eye(3, dtype=np.float32)[(Y + 1) % 3]) if several else Y
    how = dict(num_classes=3, steps=70, batch_size=64, seed=3, fold_of=fold_of)
    kernels, biases = train_heads(x, y, cells, **how)
    for i in range(3):
        _, rng = linear_heads._initial_rng(3, 6, 3)
        first = linear_heads._initial_rng(int(cells.seeds[i]), 6, 3)[0]
        kernel, bias = torch.tensor(first, requires_grad=True), torch.zeros(3, requires_grad=True)
        groups = [{"params": [kernel], "weight_decay": decays[i]}, {"params": [bias]}]
        sgd = torch.optim.SGD(groups, lr=rates[i] * 64 / 256, momentum=0.9)
        cosine = torch.optim.lr_scheduler.CosineAnnealingLR(sgd, 70)
        order = linear_heads._order(300, 64, rng)
        for _ in range(70):
            rows = next(order)
            rows = rows[fold_of[rows] != folds[i]]
            logits, labels = torch.tensor(x[rows]) @ kernel + bias, torch.tensor(y[rows])
            sgd.zero_grad()
            if several:
                even = labels * (1 - smoothing[i]) + smoothing[i] / 2
                loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, even)
            else:
                loss = torch.nn.functional.cross_entropy(logits, labels.long(), label_smoothing=smoothing[i])
            loss.backward()
            sgd.step()
            cosine.step()
        np.testing.assert_allclose(kernels[:, :, i], kernel.detach(), atol=1e-5)
        np.testing.assert_allclose(biases[:, i], bias.detach(), atol=1e-5)


def test_features_that_do_not_fit_on_the_device_train_the_same_heads(monkeypatch):
    x, cells = X.astype(np.float32), Cells.of([0.01], [0.0])
    resident = train_heads(x, Y, cells, num_classes=3, steps=70, batch_size=64)
    monkeypatch.setattr(linear_heads, "RESIDENT", 0)
    sent = train_heads(x, Y, cells, num_classes=3, steps=70, batch_size=64)
    np.testing.assert_array_equal(resident.kernel, sent.kernel)


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
    monkeypatch.setattr(linear_heads, "COLUMNS", 12)  # four heads a group
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
