"""Masked patches: which are taken, what each weighs, and the loss, against PyTorch from iBOT's formula."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from scipy.special import softmax

from jaxdino.core import sharding
from jaxdino.objectives.ibot import ibot_loss, masked_indices, take

ALL_DEVICES = True
B, G, H, W, D = 8, 2, 3, 4, 5


with_grad = jax.jit(jax.value_and_grad(ibot_loss))


def draw_mask(seed: int = 0) -> np.ndarray:
    """Of different sizes per view; some views, and the third image as a whole, have nothing masked."""
    rng = np.random.default_rng(seed)
    mask = rng.random((B, G, H, W)) < rng.random((B, G, 1, 1))
    mask[1, 0] = mask[2] = False
    return mask


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def torch_ibot(student: torch.Tensor, teacher: torch.Tensor, mask: torch.Tensor, temperature: float) -> torch.Tensor:
    """The mean over all views of the mean over a view's masked patches; (views, N, K), (views, N)."""
    total = 0.0
    for s, t, m in zip(student, teacher, mask, strict=True):
        if m.any():
            total = total - (t[m] * torch.log_softmax(s[m] / temperature, dim=-1)).sum(-1).mean()
    return total / len(mask)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_the_masked_patches_of_each_run_of_images_in_order(groups):
    mask, patches = draw_mask(), draw(B, G, H, W, D)
    runs = mask.reshape(groups, -1)
    capacity = runs.sum(1).max() + 3
    index, weight = jax.jit(masked_indices, static_argnums=(1, 2))(mask, capacity, groups)
    taken = np.asarray(take(patches, index))
    assert index.shape == weight.shape == (groups, capacity) and index.dtype == jnp.int32
    for group, run in enumerate(runs):
        places = np.flatnonzero(run)
        np.testing.assert_array_equal(index[group, : len(places)], places)
        np.testing.assert_array_equal(
            taken[group, : len(places)], patches[mask].reshape(-1, D)[runs[:group].sum() :][: len(places)]
        )
        assert not np.any(weight[group, len(places) :]) and not np.any(index[group, len(places) :])
    counts = np.broadcast_to(mask.sum((2, 3), keepdims=True), mask.shape)
    np.testing.assert_allclose(weight[weight > 0], 1 / counts[mask], rtol=1e-6)
    np.testing.assert_allclose(weight.sum(), (mask.sum((2, 3)) > 0).sum(), rtol=1e-6)


def test_what_exceeds_the_capacity_is_left_out():
    mask = np.ones((2, 1, 2, 2), bool)
    index, weight = masked_indices(mask, 3, 2)
    np.testing.assert_array_equal(index, [[0, 1, 2], [0, 1, 2]])
    np.testing.assert_allclose(weight, np.full((2, 3), 0.25))


def test_nothing_masked_is_no_loss():
    index, weight = masked_indices(np.zeros((B, G, H, W), bool), 4)
    assert not np.any(weight) and not np.any(index)
    student, teacher = take(draw(B, G, H, W, D), index), softmax(draw(1, 4, D), -1)
    found, grad = with_grad(student, teacher, weight, B * G)
    assert found == 0 and not np.any(grad)
    assert ibot_loss(student, teacher, weight, 0.0) == 0


@pytest.mark.parametrize("groups", [1, 4])
def test_the_loss_and_its_gradient_are_the_papers(groups):
    mask, student = draw_mask(), draw(B, G, H, W, D)
    teacher = softmax(draw(B, G, H, W, D, seed=1), axis=-1)
    x = torch.tensor(student.reshape(B * G, H * W, D), requires_grad=True)
    want = torch_ibot(x, torch.tensor(teacher.reshape(x.shape)), torch.tensor(mask.reshape(B * G, -1)), temperature=0.1)
    want.backward()

    def loss(student):
        index, weight = masked_indices(mask, B * G * H * W // groups, groups)
        return ibot_loss(take(student, index), take(teacher, index), weight, B * G)

    found, grad = jax.jit(jax.value_and_grad(loss))(student)
    np.testing.assert_allclose(found, want.item(), rtol=1e-5)
    np.testing.assert_allclose(grad.reshape(x.shape), x.grad.numpy(), rtol=1e-4, atol=1e-6)
    assert not np.any(grad[2])


def test_an_unreadable_image_counts_in_nothing():
    mask, student = draw_mask(), draw(B, G, H, W, D)
    teacher = softmax(draw(B, G, H, W, D, seed=1), axis=-1)
    weight = np.array([1, 1, 1, 0, 1, 1, 1, 1], np.float32)

    def loss(mask, student, teacher, weight):
        index, shares = masked_indices(mask & (weight > 0)[:, None, None, None], B * G * H * W)
        return ibot_loss(take(student, index), take(teacher, index), shares, weight.sum() * G)

    kept = weight > 0
    want = loss(mask[kept], student[kept], teacher[kept], weight[kept])
    np.testing.assert_allclose(loss(mask, student, teacher, weight), want, rtol=1e-6)


def test_scores_in_bfloat16_are_added_up_in_float32_and_huge_ones_are_safe():
    student, teacher = jnp.asarray(draw(3, 4, 4096), jnp.bfloat16), softmax(draw(3, 4, 4096, seed=1), -1)
    found, grad = with_grad(student, teacher, jnp.ones((3, 4)), 3)
    assert found.dtype == jnp.float32 and grad.dtype == jnp.bfloat16
    np.testing.assert_allclose(found, ibot_loss(student.astype(jnp.float32), teacher, jnp.ones((3, 4)), 3), rtol=1e-6)
    huge, steep = with_grad(1e5 * draw(3, 4, 64), softmax(draw(3, 4, 64), -1), jnp.ones((3, 4)), 3)
    assert np.isfinite(huge) and np.isfinite(steep).all()


def test_no_gradient_flows_to_the_teacher():
    assert not np.any(jax.grad(ibot_loss, argnums=1)(draw(4, D), softmax(draw(4, D), -1), jnp.ones(4), 2))


def test_no_patch_crosses_devices():
    mesh = sharding.make_mesh()
    batch = {"mask": draw_mask(), "patches": draw(B, G, H, W, D)}
    batch["teacher"] = softmax(draw(B, G, H, W, D, seed=1), axis=-1)

    def taken(batch):
        index, weight = masked_indices(batch["mask"], 2 * G * H * W, 4)
        return take(batch["patches"], index), take(batch["teacher"], index), weight

    def loss(batch):
        student, teacher, weight = taken(batch)
        return ibot_loss(student, teacher, weight, B * G)

    where = sharding.batch_sharding(mesh)
    over = jax.jit(taken, in_shardings=(where,), out_shardings=where).lower(batch).compile()
    text = over.as_text()
    assert not any(word in text for word in ("all-gather", "all-to-all", "all-reduce", "collective-permute"))
    placed = sharding.put_batch(batch, mesh)
    for found, want in zip(over(placed), jax.jit(taken)(batch), strict=True):
        np.testing.assert_array_equal(found, want)
    found = jax.jit(jax.value_and_grad(lambda p, b: loss(b | {"patches": p})))(placed["patches"], placed)
    want = jax.value_and_grad(lambda p, b: loss(b | {"patches": p}))(batch["patches"], batch)
    for a, b in zip(found, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
