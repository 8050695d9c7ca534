"""The signals against their formulas; and a judge that calls each collapse by its name and leaves slow starts alone."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import entropy

from jaxdino.core import sharding
from jaxdino.objectives.collapse import feature_rank, feature_std, signals
from jaxdino.objectives.health import Health

ALL_DEVICES = True
SIGNALS = ("teacher_entropy", "kl_to_uniform", "marginal_entropy", "information")
PROTOTYPES = pytest.mark.parametrize("k", [64, 65536])


def reading(k: int, teacher: float, information: float, **more: float) -> dict[str, float]:
    """What a teacher of this entropy, as a share of log K, and this information shows."""
    mean = teacher * math.log(k)
    marginal = mean + information
    shown = {"teacher_entropy": mean, "kl_to_uniform": math.log(k) - mean, "marginal_entropy": marginal}
    return shown | {"information": information} | more


def judged(health: Health, readings: list[dict[str, float]], every: int = 20, start: int = 0) -> tuple[int, str] | None:
    """The step of the first verdict that is not None, and the verdict."""
    for i, one in enumerate(readings):
        if text := health.judge(start + i * every, one):
            return start + i * every, text
    return None


def test_signals_are_their_formulas():
    weight = np.array([1, 1, 0, 1, 1, 1], np.float32)
    rows = softmax(np.random.default_rng(0).normal(size=(6, 32)) * 3, axis=1).astype(np.float32)
    rows[0] = np.eye(32)[3]  # 0 log 0 is 0
    found = jax.jit(signals)(rows, weight)
    kept = rows[weight > 0]
    mean, marginal = entropy(kept, axis=1).mean(), entropy(kept.mean(0))
    want = [mean, math.log(32) - mean, marginal, marginal - mean]
    np.testing.assert_allclose([found[name] for name in SIGNALS], want, rtol=1e-5)
    assert found.keys() == set(SIGNALS)
    mesh = sharding.make_mesh()
    batch = {"rows": np.tile(rows, (2, 1)), "weight": np.tile(weight, 2)}
    spread = jax.jit(lambda b: signals(b["rows"], b["weight"]))(sharding.put_batch(batch, mesh))
    np.testing.assert_allclose([spread[name] for name in SIGNALS], want, rtol=1e-5)


def test_information_is_zero_in_either_collapse_and_the_entropy_tells_which():
    constant = signals(np.tile(np.eye(64, dtype=np.float32)[:1], (8, 1)), np.ones(8))
    uniform = signals(jnp.full((8, 64), 1 / 64, jnp.bfloat16), np.ones(8))
    varied = signals(np.eye(64, dtype=np.float32)[:8], np.ones(8))
    assert abs(constant["information"]) < 1e-6 and constant["teacher_entropy"] == 0
    assert abs(uniform["information"]) < 1e-6 and abs(uniform["kl_to_uniform"]) < 1e-5
    np.testing.assert_allclose(varied["information"], math.log(8), rtol=1e-6)
    assert uniform["teacher_entropy"].dtype == jnp.float32


def test_spread_and_rank_of_features():
    rng = np.random.default_rng(0)
    even, alike = rng.normal(size=(2000, 32)), np.ones((2000, 32)) + 1e-4 * rng.normal(size=(2000, 32))
    unit = even / np.linalg.norm(even, axis=1, keepdims=True)
    np.testing.assert_allclose(feature_std(even), unit.std(0).mean() * math.sqrt(32), rtol=1e-6)
    assert feature_std(even) == pytest.approx(1, abs=0.01) and feature_std(alike) < 1e-3
    assert feature_rank(even) > 31 and feature_rank(alike) < 1.1
    share = np.array([3.0, 2.0, 1.0]) / 6  # of the singular values
    left, _ = np.linalg.qr(rng.normal(size=(10, 3)))
    right, _ = np.linalg.qr(rng.normal(size=(5, 3)))
    known = (left * [3.0, 2.0, 1.0]) @ right.T
    assert feature_rank(known.astype(np.float32)) == pytest.approx(np.exp(entropy(share)), rel=1e-4)
    assert math.isnan(feature_rank(np.full((4, 2), np.nan))) and math.isnan(feature_std(np.full((4, 2), np.nan)))
    assert feature_rank(np.zeros((4, 2))) == pytest.approx(1, abs=1e-4) and feature_std(np.zeros((4, 2))) == 0


@PROTOTYPES
def test_a_slow_healthy_start_is_left_alone(k):
    """Near-uniform at first, hardly any information for long, then learning that starts after the grace."""
    rng = np.random.default_rng(0)
    slow = [0.03 * 1.03 ** max(i - 30, 0) * rng.uniform(0.9, 1.1) for i in range(180)]
    run = [reading(k, 0.97 - 0.002 * i, min(info, 2.0)) for i, info in enumerate(slow)]
    health = Health(grace_steps=1800)
    assert judged(health, run) is None and health.healthy


def test_a_run_that_still_rises_after_the_grace_is_given_time():
    rising = [reading(64, 0.97, 0.004 * 1.2**i) for i in range(30)]
    assert judged(Health(grace_steps=0), rising) is None
    stuck = [reading(64, 0.97, 0.004) for _ in range(30)]
    assert judged(Health(grace_steps=0), stuck)


def test_random_features_that_told_more_at_first_and_swings_are_left_alone():
    """As a small MLP on digits did: 2.3 nats at random weights, 0.9 on the way, 2 in the end; single bad batches."""
    way = np.concatenate([np.linspace(2.3, 0.9, 30), np.linspace(0.9, 2.0, 60)])
    run = [reading(64, 0.6, 0.01 if i % 7 == 3 else info) for i, info in enumerate(way)]
    assert judged(Health(), run) is None


def test_sharp_answers_before_the_centre_has_settled_are_left_alone():
    first = [reading(64, 0.05, 0.01) for _ in range(12)]
    assert judged(Health(), first, every=1) is None
    later = [reading(64, 0.8, 0.02 + 0.1 * i) for i in range(40)]
    assert judged(Health(), first + later, every=4) is None


@PROTOTYPES
def test_without_centring_one_prototype_wins(k):
    """Straight from random weights, long before the grace is over."""
    run = [reading(k, max(0.5 - 0.05 * i, 0.001), 0.03 * 0.8**i) for i in range(60)]
    step, text = judged(Health(), run)
    assert step < 400
    assert "collapse (constant)" in text and "nearly the same output" in text and "centring" in text
    assert f"(at most {math.log(k):.3f})" in text


@PROTOTYPES
def test_without_momentum_the_answers_lose_the_image(k):
    """Healthy at first, then the information goes and the entropy swings: judged by what the run had reached."""
    fall = [reading(k, 0.5 + 0.3 * math.sin(i), 2.2 * 0.8 ** min(i, 12)) for i in range(40)]
    step, text = judged(Health(), fall)
    assert step < 500 and "collapse (constant)" in text and "(best so far 2.2000)" in text


@PROTOTYPES
def test_a_teacher_too_warm_answers_alike(k):
    run = [reading(k, 0.999, 0.01 * 0.9**i) for i in range(80)]
    step, text = judged(Health(), run)
    assert 1000 <= step < 1200 and "collapse (uniform)" in text and "lower teacher temperature" in text


def test_an_exactly_dead_run_is_not_taken_for_rising():
    assert judged(Health(), [reading(64, 1.0, -1e-7 * (i % 3)) for i in range(80)])


def test_patience_counts_readings_in_a_row_and_keeps_the_checkpoint_of_before():
    health = Health(grace_steps=0, patience=3)
    bad, good = reading(64, 0.999, 0.0), reading(64, 0.5, 1.5)
    assert judged(health, [good, bad, bad, good, bad, bad]) is None
    assert not health.healthy
    assert health.judge(7, bad) is not None
    health.judge(8, good)
    assert health.healthy


def test_features_that_fall_together():
    health = Health(trained_start=True)
    good = {"feature_rank": 60.0, "feature_std": 0.8}
    assert judged(health, [good, good | {"feature_rank": 12.0, "feature_std": 0.4}] * 3) is None
    step, text = judged(health, [{"feature_rank": 1.5, "feature_std": 0.02}] * 6, start=100)
    assert step == 180 and "collapse (features)" in text and "KoLeo" in text
    assert "rank is 1.5 (best so far 60.0)" in text and "spread is 0.0200 of 1 (best so far 0.8000)" in text
    alone = judged(Health(trained_start=True), [good] + [{"feature_rank": 2.0}] * 5)
    assert alone and "rank is 2.0" in alone[1] and "spread" not in alone[1]


def test_dull_features_of_random_weights_are_left_alone():
    random = {"feature_rank": 2.4, "feature_std": 0.04}
    dip = {"feature_rank": 1.2, "feature_std": 0.009}
    assert judged(Health(), [random] + [dip] * 3 + [random] * 100) is None
    late = judged(Health(), [random] * 55 + [dip] * 5)
    assert late and "below that of random weights" in late[1]


def test_knn_accuracy_that_is_lost():
    health = Health(trained_start=True, knn_images=500, chance=0.1)
    step, text = judged(health, [{"knn_accuracy": a} for a in (0.8, 0.81, 0.6, 0.5, 0.4, 0.1)])
    assert step == 100 and "collapse (knn)" in text
    assert "0.1000 (best so far 0.8100)" in text and "frozen until the new head" in text


def test_a_small_labelled_set_has_to_show_more():
    """Two classes, 40 images: half of what was above chance is within the noise."""
    fall = [{"knn_accuracy": a} for a in (0.7, 0.55, 0.55, 0.5)]
    assert judged(Health(trained_start=True, knn_images=40, chance=0.5), fall) is None
    assert judged(Health(trained_start=True, knn_images=4000, chance=0.5), fall)
    near_chance = [{"knn_accuracy": a} for a in (0.15, 0.07, 0.06, 0.07)]
    assert judged(Health(trained_start=True, knn_images=100, chance=0.1), near_chance) is None


def test_knn_of_a_young_run_may_dip_below_random_weights():
    dip = [{"knn_accuracy": a} for a in (0.85, 0.4, 0.4, 0.4, 0.7, 0.9)]
    assert judged(Health(), dip, every=200) is None
    assert judged(Health(trained_start=True), dip, every=200)


def test_what_a_reading_lacks_or_is_not_finite_is_not_judged():
    health = Health(grace_steps=0)
    for step in range(20):
        assert health.judge(step, {"loss": math.nan, "teacher_entropy": math.nan, "learning_rates": {}}) is None
    assert health.healthy
    bad = reading(64, 0.999, 0.0)
    for step in range(4):
        health.judge(step, bad)
    assert health.judge(20, {"knn_accuracy": 0.5}) is None  # keeps the count of the outputs
    assert health.judge(21, bad) is not None


def test_a_resumed_run_is_judged_as_if_never_interrupted():
    rng = np.random.default_rng(0)
    run = [reading(64, 0.9, 2.0 * rng.random() ** 6, knn_accuracy=rng.random() ** 3) for _ in range(300)]
    whole, parts = Health(), Health()
    seen = []
    for step, one in enumerate(run):
        parts = Health(state=json.loads(json.dumps(parts.state)))
        seen.append((whole.judge(20 * step, one), parts.judge(20 * step, one)))
    assert all(a == b for a, b in seen)
    assert any(a for a, _ in seen) and not all(a for a, _ in seen)
