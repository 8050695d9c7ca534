"""The losses of depth against statements of their papers, pixel by pixel."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdino.evals.depth import DepthEvaluator
from jaxdino.objectives.depth import EPS, Depth


def drawn(count=4, size=(11, 13)):
    rng = np.random.default_rng(0)
    truth = rng.uniform(0.5, 9.0, (count, *size)).astype(np.float32)
    truth[rng.random(truth.shape) < 0.3] = 0
    truth[0, 0, 0] = 50.0  # above the largest depth
    return truth, rng.uniform(0.2, 12.0, truth.shape).astype(np.float32)


def silog(found, truth, share):
    """Eigen et al., equation 4, in its first form: pairs of pixels agree in their difference."""
    d = [np.log(f) - np.log(t) for f, t in zip(found.ravel(), truth.ravel(), strict=True) if 0.1 <= t <= 10]
    n = len(d)
    return np.sqrt(sum(x * x for x in d) / n - share * sum(d) ** 2 / n**2 + EPS)


def gradients(found, truth):
    """MegaDepth, equation 3, over four scales."""
    total = 0.0
    for stride in (1, 2, 4, 8):
        f, t = found[::stride, ::stride], truth[::stride, ::stride]
        known, slopes = (t >= 0.1) & (t <= 10), 0.0
        for y in range(f.shape[0]):
            for x in range(f.shape[1]):
                for v, u in ((y + 1, x), (y, x + 1)):
                    if v < f.shape[0] and u < f.shape[1] and known[y, x] and known[v, u]:
                        slopes += abs(np.log(f[v, u] / t[v, u]) - np.log(f[y, x] / t[y, x]))
        total += slopes / known.sum()
    return total


def loss(found, truth, weight, **how):
    model = lambda image, key: SimpleNamespace(predictions={"depth": jnp.asarray(found)})  # noqa: E731
    batch = {"image": jnp.zeros(()), "depth": jnp.asarray(truth), "weight": jnp.asarray(weight, jnp.float32)}
    return Depth(0.1, 10.0, **how).loss(model, batch | how.pop("more", {}), None)


@pytest.mark.parametrize("share", [0.0, 0.85])
def test_each_loss_is_that_of_its_paper(share):
    truth, found = drawn()
    truth[3] = 0  # nothing is known
    weight = np.array([1, 0, 2, 1])
    total, parts = loss(found, truth, weight, silog_lambda=share, gradient_weight=0.5)
    own = [silog(found[n], truth[n], share) for n in (0, 2)]
    slopes = [gradients(found[n], truth[n]) for n in (0, 2)]
    assert float(parts["silog_loss"]) == pytest.approx((own[0] + 2 * own[1]) / 3, rel=1e-5)
    assert float(parts["gradient_loss"]) == pytest.approx((slopes[0] + 2 * slopes[1]) / 3, rel=1e-5)
    assert float(total) == pytest.approx(float(parts["silog_loss"]) + 0.5 * float(parts["gradient_loss"]), rel=1e-6)


def test_without_a_known_depth_the_loss_is_0_and_its_gradient_finite():
    truth, found = drawn()
    slope = jax.grad(lambda found: loss(found, 0 * truth, np.ones(4))[0])(found)
    assert not np.asarray(slope).any()
    exact = jax.grad(lambda found: loss(found, truth, np.ones(4))[0])(np.where(truth > 0, truth, 1.0))
    assert np.isfinite(np.asarray(exact)).all()


def test_slices_give_the_loss_of_the_batch():
    truth, found = drawn()
    truth[2] = 0
    weight, objective = np.array([1.0, 0.5, 1.0, 1.0], np.float32), Depth(0.1, 10.0)
    parts = {"depth": truth.reshape(2, 2, 11, 13), "weight": weight.reshape(2, 2)}
    parts, _, _ = objective.targets({}, {}, parts)
    total = 0.0
    for n in range(2):
        model = lambda image, key, n=n: SimpleNamespace(predictions={"depth": found[2 * n : 2 * n + 2]})  # noqa: E731
        part = {name: jnp.asarray(value[n]) for name, value in parts.items()} | {"image": jnp.zeros(())}
        total += float(objective.loss(model, part, None)[0]) * weight[2 * n : 2 * n + 2].sum() / weight.sum()
    assert total == pytest.approx(float(loss(found, truth, weight)[0]), rel=1e-5)


def test_metrics_by_hand():
    evaluator = DepthEvaluator(0.1, 10.0)
    truth = np.array([[2.0, 4.0, 0.0, 50.0]])
    evaluator.update({"prediction": [np.array([[1.0, 5.1, 3.0, 3.0]])], "depth": [truth]})
    evaluator.update({"prediction": [truth], "depth": [0 * truth]})  # counts nowhere
    found, logs = evaluator.compute(), np.log([0.5, 5.1 / 4])
    wanted = {"abs_rel": (0.5 + 1.1 / 4) / 2, "rmse": np.sqrt((1 + 1.21) / 2), "delta1": 0.0, "delta2": 0.5}
    wanted |= {"delta3": 0.5, "log10": np.abs(logs).mean() / np.log(10), "silog": 100 * logs.std()}
    wanted |= {"sq_rel": (0.5 + 1.21 / 4) / 2, "rmse_log": np.sqrt((logs**2).mean())}
    assert found == pytest.approx(wanted)
