"""KoLeo against PyTorch written from the paper's formula, its gradient too, and where that formula has none."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from jaxdino.core import sharding
from jaxdino.objectives.koleo import koleo_loss, length, unit

ALL_DEVICES = True

with_grad = jax.jit(jax.value_and_grad(koleo_loss))


def draw(n: int, d: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


def torch_koleo(features: torch.Tensor) -> torch.Tensor:
    """-1 / n sum_i log min_j |x_i - x_j|, of rows of length 1."""
    x = features / features.norm(dim=1, keepdim=True)
    distances = torch.stack([torch.stack([(a - b).norm() for b in x]) for a in x.detach()])
    distances.fill_diagonal_(torch.inf)
    nearest = distances.argmin(dim=1)
    return -torch.log((x - x[nearest]).norm(dim=1)).mean()


@pytest.mark.parametrize(("n", "d"), [(2, 3), (9, 4), (16, 64)])
def test_the_loss_and_its_gradient_are_the_papers(n, d):
    x = torch.tensor(draw(n, d), dtype=torch.float64, requires_grad=True)
    want = torch_koleo(x)
    want.backward()
    found, grad = with_grad(draw(n, d), jnp.ones(n))
    np.testing.assert_allclose(found, want.item(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(grad, x.grad.numpy(), rtol=1e-4, atol=1e-5)


def test_rows_of_weight_zero_neither_count_nor_are_neighbours():
    features, weight = draw(8, 4), np.array([1, 1, 0, 1, 1, 0, 1, 1], np.float32)
    features[2] = 1.01 * features[1]
    features[5] = np.nan
    kept = weight > 0
    want, dense = with_grad(features[kept], weight[kept])
    found, grad = with_grad(features, weight)
    np.testing.assert_allclose(found, want, rtol=1e-6)
    np.testing.assert_allclose(grad[kept], dense, rtol=1e-5, atol=1e-7)
    assert not np.any(grad[~kept])


def test_identical_rows_have_a_finite_loss_and_no_pull():
    found, grad = with_grad(np.tile(draw(1, 4), (3, 1)), jnp.ones(3))
    np.testing.assert_allclose(found, -np.log(1e-6 + 1e-8), rtol=1e-5)
    assert not np.any(grad)
    mixed = draw(6, 4)
    mixed[3] = mixed[0]
    found, grad = with_grad(mixed, jnp.ones(6))
    assert np.isfinite(found) and np.isfinite(grad).all() and np.any(grad)


def test_opposite_and_zero_rows():
    found = koleo_loss(np.array([[3.0, 0.0], [-1.0, 0.0]], np.float32), jnp.ones(2))
    np.testing.assert_allclose(found, -np.log(2), rtol=1e-6)
    found, grad = with_grad(np.zeros((3, 4), np.float32), jnp.ones(3))
    assert np.isfinite(found) and np.isfinite(grad).all()


@pytest.mark.parametrize("weight", [[0, 0, 0], [0, 1, 0]])
def test_without_another_row_there_is_no_loss(weight):
    found, grad = with_grad(draw(3, 4), jnp.asarray(weight, jnp.float32))
    assert found == 0 and not np.any(grad)
    assert koleo_loss(draw(1, 4), jnp.ones(1)) == 0


def test_bfloat16_rows_are_told_apart_in_float32():
    rows = jnp.asarray(draw(16, 64), jnp.bfloat16)
    found, grad = with_grad(rows, jnp.ones(16))
    assert found.dtype == jnp.float32 and grad.dtype == jnp.bfloat16
    np.testing.assert_allclose(found, koleo_loss(rows.astype(jnp.float32), jnp.ones(16)), rtol=1e-6)
    near = np.array([[1, 0], [1, 1e-4], [-1, 0]], np.float32)
    np.testing.assert_allclose(koleo_loss(near, jnp.ones(3)), -(2 * np.log(1e-4) + np.log(2)) / 3, rtol=1e-4)


def test_unit_rows_and_lengths():
    found = unit(jnp.asarray([[3, 4], [0, 0]], jnp.bfloat16))
    np.testing.assert_allclose(found, [[0.6, 0.8], [0, 0]], rtol=1e-6)
    np.testing.assert_allclose(length(jnp.array([[3.0, 4.0], [0.0, 0.0]]), 0.5), [[5.0], [0.5]])


def test_neighbours_are_sought_on_all_devices():
    mesh = sharding.make_mesh(2, 2)
    batch = {"features": draw(16, 4), "weight": np.array([1] * 13 + [0] * 3, np.float32)}
    batch["features"][8] = 1.001 * batch["features"][0]  # on another device

    def loss(batch):
        return with_grad(batch["features"], batch["weight"])

    on_four = jax.jit(loss, in_shardings=(sharding.batch_sharding(mesh),))(sharding.put_batch(batch, mesh))
    for found, want in zip(on_four, jax.jit(loss)(batch), strict=True):
        np.testing.assert_allclose(found, want, rtol=2e-4, atol=1e-6)
    apart = np.mean([koleo_loss(batch["features"][i : i + 4], jnp.ones(4)) for i in range(0, 12, 4)])
    assert abs(on_four[0] - apart) > 0.1
