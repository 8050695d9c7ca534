"""Gram anchoring and feature distance against PyTorch written from the formula, their gradients too."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from jaxdino.core.errors import UserError
from jaxdino.objectives.gram import feature_distance, gram_loss

B, H, W, D = 3, 2, 4, 6


with_grad = jax.jit(jax.value_and_grad(gram_loss), static_argnums=(3, 4))


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def torch_gram(student: torch.Tensor, reference: torch.Tensor, per_image: bool, clip: str) -> torch.Tensor:
    """|X X^T - Y Y^T|^2 over its entries, X and Y of rows of length 1; DINOv3's equation 2."""

    def gram(x: torch.Tensor, clipped: bool) -> torch.Tensor:
        x = torch.nn.functional.normalize(x.flatten(1, 2), dim=-1)
        x = x if per_image else x.reshape(1, -1, x.shape[-1])
        found = x @ x.transpose(1, 2)
        return torch.relu(found) if clipped else found

    return (gram(student, clip == "both") - gram(reference, clip != "none")).square().mean()


@pytest.mark.parametrize("per_image", [True, False])
@pytest.mark.parametrize("clip", ["none", "both", "reference"])
def test_the_loss_and_its_gradient_are_the_papers(per_image, clip):
    student, reference = draw(B, H, W, D), draw(B, H, W, 2 * D, seed=1)
    x = torch.tensor(student, requires_grad=True)
    want = torch_gram(x, torch.tensor(reference), per_image, clip)
    want.backward()
    found, grad = with_grad(student, reference, jnp.ones(B), per_image, clip)
    np.testing.assert_allclose(found, want.item(), rtol=1e-5)
    np.testing.assert_allclose(grad, x.grad.numpy(), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("per_image", [True, False])
def test_images_of_weight_zero_count_in_no_pair(per_image):
    student, reference, weight = draw(B, H, W, D), draw(B, H, W, D, seed=1), np.array([1, 0, 1], np.float32)
    want = gram_loss(student[weight > 0], reference[weight > 0], jnp.ones(2), per_image)
    student[1] = np.nan
    found, grad = with_grad(student, reference, weight, per_image)
    np.testing.assert_allclose(found, want, rtol=1e-6)
    assert np.isfinite(grad).all() and not np.any(grad[1])
    assert gram_loss(student, reference, 0 * weight, per_image) == 0


def test_features_are_free_to_turn_and_to_grow():
    reference = draw(B, H, W, D)
    turn, _ = np.linalg.qr(draw(D, D, seed=1))
    assert gram_loss(3 * reference @ turn, reference, jnp.ones(B)) < 1e-12
    assert gram_loss(reference[:, ::-1], reference, jnp.ones(B)) > 1e-2


def test_no_gradient_flows_to_the_reference_and_zero_rows_are_safe():
    student, reference = draw(B, H, W, D), draw(B, H, W, D, seed=1)
    assert not np.any(jax.grad(gram_loss, argnums=1)(student, reference, jnp.ones(B)))
    assert not np.any(jax.grad(feature_distance, argnums=1)(student[:, 0, 0], reference[:, 0, 0], jnp.ones(B)))
    student[0, 0, 0] = 0
    assert np.isfinite(with_grad(student, reference, jnp.ones(B))[1]).all()


@pytest.mark.parametrize("per_image", [True, False])
def test_bfloat16_patches_are_compared_in_float32(per_image):
    student, reference = (jnp.asarray(draw(B, H, W, D, seed=seed), jnp.bfloat16) for seed in (0, 1))
    found, grad = with_grad(student, reference, jnp.ones(B), per_image)
    assert found.dtype == jnp.float32 and grad.dtype == jnp.bfloat16
    want = gram_loss(student.astype(jnp.float32), reference.astype(jnp.float32), jnp.ones(B), per_image)
    np.testing.assert_allclose(found, want, rtol=1e-6)
    assert np.isfinite(gram_loss(1e15 * draw(B, H, W, D), reference, jnp.ones(B)))


def test_what_is_refused():
    with pytest.raises(UserError, match=r"clip_negatives='refrence' is unknown; nearest: reference"):
        gram_loss(draw(B, H, W, D), draw(B, H, W, D), jnp.ones(B), clip_negatives="refrence")
    with pytest.raises(UserError, match=r"\(3, 2, 4\).*\(3, 4, 8\)"):
        gram_loss(draw(B, H, W, D), draw(B, 2 * H, 2 * W, D), jnp.ones(B))


def test_feature_distance_and_its_gradient():
    student, reference, weight = draw(5, D), draw(5, D, seed=1), np.array([1, 1, 0, 1, 1], np.float32)
    x = torch.tensor(student, requires_grad=True)
    cosine = torch.nn.functional.cosine_similarity(x, torch.tensor(reference), dim=-1)
    want = ((1 - cosine) * torch.tensor(weight)).sum() / 4
    want.backward()
    student[2] = np.nan
    found, grad = jax.value_and_grad(feature_distance)(student, reference, weight)
    np.testing.assert_allclose(found, want.item(), rtol=1e-5)
    np.testing.assert_allclose(grad, x.grad.numpy(), rtol=1e-4, atol=1e-7)
    assert abs(feature_distance(reference, 2 * reference, jnp.ones(5))) < 1e-6
    np.testing.assert_allclose(feature_distance(-reference, reference, jnp.ones(5)), 2.0, rtol=1e-6)
    assert feature_distance(jnp.asarray(reference, jnp.bfloat16), reference, weight).dtype == jnp.float32
