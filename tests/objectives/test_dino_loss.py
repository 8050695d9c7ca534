"""The teacher's targets and the loss over views, against numpy and PyTorch written from the papers' formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from scipy.special import softmax

from jaxdino.core import sharding
from jaxdino.core.errors import UserError
from jaxdino.objectives.dino import centred_softmax, cross_entropy, dino_loss, moved_centre, sinkhorn_knopp

ALL_DEVICES = True
B, V, G, K = 4, 5, 2, 16


with_grad = jax.jit(jax.value_and_grad(dino_loss))


def draw(*shape: int, seed: int = 0, scale: float = 1.0) -> np.ndarray:
    return (scale * np.random.default_rng(seed).normal(size=shape)).astype(np.float32)


def shared_out(scores: np.ndarray, temperature: float, iterations: int = 3) -> np.ndarray:
    """SwAV's section 3.1: prototypes get 1 / K each, rows 1 / n each, in turns; in float64."""
    q = np.exp(scores.astype(np.float64) / temperature)
    n, k = q.shape
    q /= q.sum()
    for _ in range(iterations):
        q /= q.sum(axis=0, keepdims=True) * k
        q /= q.sum(axis=1, keepdims=True) * n
    return q * n


def torch_dino(student: torch.Tensor, teacher: torch.Tensor, weight: torch.Tensor, temperature: float) -> torch.Tensor:
    """DINO's equation 4, pair by pair."""
    total, pairs = 0.0, 0
    for g in range(teacher.shape[1]):
        for v in range(student.shape[1]):
            if v != g:
                log_p = torch.log_softmax(student[:, v] / temperature, dim=-1)
                total = total - (weight * (teacher[:, g] * log_p).sum(-1)).sum() / weight.sum()
                pairs += 1
    return total / pairs


def test_softmax_of_what_is_left_of_the_centre():
    scores, centre = draw(6, K), draw(K, seed=1)
    want = softmax((scores - centre) / 0.04, axis=1)
    np.testing.assert_allclose(centred_softmax(scores, centre, 0.04), want, rtol=2e-5, atol=1e-7)
    half = centred_softmax(jnp.asarray(scores, jnp.bfloat16), centre, jnp.float32(0.04))
    assert half.dtype == jnp.float32
    np.testing.assert_allclose(half.sum(1), np.ones(6), rtol=1e-6)


@pytest.mark.parametrize("iterations", [1, 2, 3, 7])
@pytest.mark.parametrize("temperature", [0.04, 0.5])
def test_sinkhorn_is_the_plain_iteration(iterations, temperature):
    scores = draw(12, K, scale=0.3)
    found = sinkhorn_knopp(scores, np.ones(12), temperature, iterations)
    np.testing.assert_allclose(found, shared_out(scores, temperature, iterations), rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(found.sum(1), np.ones(12), rtol=1e-5)


def test_sinkhorn_converges_to_even_prototypes():
    found = sinkhorn_knopp(draw(64, K), np.ones(64), 1.0, 50)
    np.testing.assert_allclose(found.sum(0), np.full(K, 64 / K), rtol=1e-4)


def test_rows_of_weight_zero_take_no_part_in_sinkhorn():
    scores, weight = draw(6, K, scale=0.3), np.array([1, 0, 1, 1, 0, 1], np.float32)
    scores[4] = np.nan
    found = np.asarray(sinkhorn_knopp(scores, weight, 0.04))
    np.testing.assert_allclose(found[weight > 0], shared_out(scores[weight > 0], 0.04), rtol=1e-4, atol=1e-7)
    assert not found[weight == 0].any()
    assert not np.any(sinkhorn_knopp(scores, 0 * weight, 0.04))


def test_a_row_of_weight_two_is_two_rows():
    scores = draw(5, K, scale=0.3)
    found = sinkhorn_knopp(scores, np.array([2, 1, 1, 1, 1]), 0.04)
    np.testing.assert_allclose(found, shared_out(scores[[0, 0, 1, 2, 3, 4]], 0.04)[1:], rtol=1e-4, atol=1e-7)


def test_scores_of_any_size_are_shared_out():
    scores = draw(8, K, scale=1e4)
    scores[3] += 1e5
    scores[:, 2] -= 1e6
    found = sinkhorn_knopp(scores, np.ones(8), 0.04)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found.sum(1), np.ones(8), rtol=1e-5)
    moved = sinkhorn_knopp(draw(8, K) + 3e3, np.ones(8), 1.0)
    np.testing.assert_allclose(moved, shared_out(draw(8, K), 1.0), rtol=2e-3)


def test_identical_rows_are_shared_out_evenly():
    found = sinkhorn_knopp(np.tile(draw(1, K), (8, 1)), np.ones(8), 0.04)
    np.testing.assert_allclose(found, np.full((8, K), 1 / K), rtol=1e-5)


def test_sinkhorn_of_bfloat16_is_float32_and_needs_an_iteration():
    scores = jnp.asarray(draw(8, K), jnp.bfloat16)
    found = sinkhorn_knopp(scores, np.ones(8), 0.04)
    assert found.dtype == jnp.float32
    np.testing.assert_array_equal(found, sinkhorn_knopp(scores.astype(jnp.float32), np.ones(8), 0.04))
    with pytest.raises(UserError, match="at least 1"):
        sinkhorn_knopp(scores, np.ones(8), 0.04, 0)


def test_the_centre_is_the_mean_of_what_counts():
    scores, centre = draw(5, K), draw(K, seed=1)
    weight = np.array([1, 1, 0, 1, 0], np.float32)
    scores[2] = np.inf
    want = 0.9 * centre + 0.1 * scores[[0, 1, 3]].mean(0)
    np.testing.assert_allclose(moved_centre(centre, scores, weight), want, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(moved_centre(centre, scores, weight, 0.0), scores[[0, 1, 3]].mean(0), rtol=1e-5)
    np.testing.assert_array_equal(moved_centre(centre, scores, 0 * weight), centre)
    assert moved_centre(centre, jnp.asarray(scores, jnp.bfloat16), weight).dtype == jnp.float32


def test_small_changes_of_bfloat16_scores_are_not_lost_in_the_centre():
    scores = jnp.asarray(np.concatenate([np.full((1, K), 256.0), np.ones((511, K))]), jnp.bfloat16)
    found = moved_centre(jnp.zeros(K), scores, jnp.ones(512), 0.0)
    np.testing.assert_allclose(found, np.full(K, (256 + 511) / 512), rtol=1e-6)


@pytest.mark.parametrize("views", [2, 3, V])
@pytest.mark.parametrize("given", [1, 2, 3])
def test_the_loss_and_its_gradient_are_the_papers(views, given):
    student, weight = draw(B, views, K), np.array([1, 0, 2, 1], np.float32)
    teacher = softmax(draw(B, given, K, seed=1, scale=3), axis=-1)
    x = torch.tensor(student, requires_grad=True)
    want = torch_dino(x, torch.tensor(teacher), torch.tensor(weight), 0.1)
    want.backward()
    found, grad = with_grad(student, teacher, weight)
    np.testing.assert_allclose(found, want.item(), rtol=1e-5)
    np.testing.assert_allclose(grad, x.grad.numpy(), rtol=1e-4, atol=1e-6)
    assert not np.any(grad[1])


def test_an_unweighted_mean_of_dinov2_scaling():
    """DINOv2 adds up global and local pairs apart, each over the number of all pairs."""
    student, teacher = draw(B, V, K), softmax(draw(B, G, K, seed=1), axis=-1)
    entropies = -np.einsum("bgk,bvk->bgv", teacher, np.log(softmax(student.astype(np.float64) / 0.1, -1)))
    across = (entropies[:, 0, 1] + entropies[:, 1, 0]).mean()
    local = entropies[:, :, G:].sum(axis=(1, 2)).mean()
    want = (across + local) / (2 + 2 * (V - G))
    np.testing.assert_allclose(dino_loss(student, teacher, np.ones(B)), want, rtol=1e-5)


def test_no_gradient_flows_to_the_teacher():
    student, teacher = draw(B, V, K), softmax(draw(B, G, K, seed=1), axis=-1)
    assert not np.any(jax.grad(dino_loss, argnums=1)(student, teacher, jnp.ones(B)))


def test_scores_in_bfloat16_are_added_up_in_float32():
    student, teacher = jnp.asarray(draw(B, V, 4096), jnp.bfloat16), softmax(draw(B, G, 4096, seed=1), axis=-1)
    found, grad = with_grad(student, teacher, jnp.ones(B))
    want, wide = with_grad(student.astype(jnp.float32), teacher, jnp.ones(B))
    assert found.dtype == jnp.float32 and grad.dtype == jnp.bfloat16
    np.testing.assert_allclose(found, want, rtol=1e-6)
    np.testing.assert_allclose(grad.astype(np.float32), wide, rtol=4e-3, atol=1e-9)


def test_huge_scores_give_finite_losses_and_gradients():
    student, teacher = draw(B, V, K, scale=1e5), softmax(draw(B, G, K, scale=1e4), axis=-1)
    found, grad = with_grad(student, teacher, jnp.ones(B))
    want = torch_dino(torch.tensor(student).double(), torch.tensor(teacher).double(), torch.ones(B), 0.1)
    np.testing.assert_allclose(found, want.item(), rtol=1e-5)
    assert np.isfinite(grad).all()


def test_a_batch_that_counts_for_nothing_has_loss_zero():
    found, grad = with_grad(draw(B, V, K), softmax(draw(B, G, K), axis=-1), jnp.zeros(B))
    assert found == 0 and not np.any(grad)


def test_one_view_makes_no_pair():
    with pytest.raises(UserError, match="two global views"):
        dino_loss(draw(B, 1, K), draw(B, 1, K), jnp.ones(B))


def test_the_memory_of_the_loss_holds_no_pairs():
    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((8, 10, 4096), (8, 2, 4096), (8,))]
    compiled = jax.jit(jax.grad(dino_loss)).lower(*shapes).compile()
    scores = 8 * 10 * 4096 * 4
    assert compiled.memory_analysis().temp_size_in_bytes < 2 * scores  # pairs alone would be as large as two


def test_the_cross_entropy_to_a_target_that_is_no_distribution():
    student, teacher = draw(6, K), np.abs(draw(6, K, seed=1))
    x = torch.tensor(student, requires_grad=True)
    want = -(torch.tensor(teacher) * torch.log_softmax(x / 0.3, -1)).sum(-1)
    want.sum().backward()
    np.testing.assert_allclose(cross_entropy(student, teacher, 0.3), want.detach().numpy(), rtol=1e-5)
    grad = jax.grad(lambda s: cross_entropy(s, teacher, 0.3).sum())(student)
    np.testing.assert_allclose(grad, x.grad.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("fsdp", [1, 2, 4])
def test_targets_centres_and_losses_of_four_devices_are_those_of_one(fsdp):
    mesh = sharding.make_mesh(-1, fsdp)
    batch = {
        "student": draw(8, V, K),
        "scores": draw(8 * G, K, seed=1, scale=0.3),
        "weight": np.array([1, 1, 0, 1, 1, 1, 0, 1], np.float32),
    }
    centre = draw(K, seed=2)

    def everything(batch, centre):
        rows = jnp.repeat(batch["weight"], G)
        targets = sinkhorn_knopp(batch["scores"], rows, 0.04)
        moved = moved_centre(centre, batch["scores"], rows)
        loss, grad = with_grad(batch["student"], targets.reshape(8, G, K), batch["weight"])
        return {"targets": targets, "centre": moved, "loss": loss, "grad": grad}

    over = jax.jit(everything, in_shardings=(sharding.batch_sharding(mesh), sharding.replicated(mesh)))
    on_four, on_one = over(sharding.put_batch(batch, mesh), centre), jax.jit(everything)(batch, centre)
    assert len(on_four["targets"].sharding.device_set) == 4
    for name, want in on_one.items():
        np.testing.assert_allclose(on_four[name], want, rtol=1e-4, atol=1e-7, err_msg=name)
    assert not np.allclose(on_four["targets"][:4], shared_out(batch["scores"][:4], 0.04))  # not a device's own rows
