"""Losses of masks against PyTorch written from the formulas, their gradients too."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from jaxdino.objectives.masks import (
    alignment_loss,
    bce_loss,
    cell_shares,
    dice_loss,
    iou_loss,
    pooled,
    prompted,
    prompted_weight,
    upsampled,
)

B, H, W = 4, 6, 8
WEIGHT = np.array([1, 2, 0, 0.5], np.float32)


def drawn() -> tuple[np.ndarray, np.ndarray]:
    """Logits and masks: the second with pixels that do not count, the last empty."""
    rng = np.random.default_rng(0)
    logits, mask = rng.normal(0, 2, (B, H, W)).astype(np.float32), rng.integers(0, 2, (B, H, W)).astype(np.uint8)
    mask[1, :3] = 255
    mask[3] = 0
    return logits, mask


def mean(rows: list[torch.Tensor]) -> torch.Tensor:
    weight = torch.tensor(WEIGHT)
    return (torch.stack(rows) * weight).sum() / weight.sum()


def torch_dice(logits: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    rows = []
    for x, t in zip(logits, mask, strict=True):
        p, t = torch.sigmoid(x[t != 255]), t[t != 255].float()
        rows.append(1 - (2 * (p * t).sum() + 3) / (p.sum() + t.sum() + 3))
    return mean(rows)


def torch_bce(logits: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    pairs = ((x[t != 255], t[t != 255].float()) for x, t in zip(logits, mask, strict=True))
    return mean([F.binary_cross_entropy_with_logits(x, t) for x, t in pairs])


@pytest.mark.parametrize(
    ("ours", "theirs"), [(lambda *a: dice_loss(*a, smooth=3.0), torch_dice), (bce_loss, torch_bce)]
)
def test_loss_and_gradient_are_torchs(ours, theirs):
    logits, mask = drawn()
    x = torch.tensor(logits, requires_grad=True)
    want = theirs(x, torch.tensor(mask))
    want.backward()
    found, grad = jax.jit(jax.value_and_grad(ours))(logits, mask, WEIGHT)
    np.testing.assert_allclose(found, want.item(), rtol=1e-6)
    np.testing.assert_allclose(grad, x.grad.numpy(), rtol=1e-4, atol=1e-8)
    assert not grad[2].any() and not grad[1, :3].any()


def test_extreme_logits_stay_finite():
    logits, mask = np.array([[[1e4, -1e4]]], np.float32), np.array([[[0, 1]]], np.uint8)
    found, grad = jax.value_and_grad(bce_loss)(logits, mask, np.ones(1, np.float32))
    assert found == 1e4 and np.isfinite(grad).all()


def test_nothing_that_counts_is_no_loss():
    logits, mask = drawn()
    assert bce_loss(logits, np.full_like(mask, 255), WEIGHT) == 0
    assert dice_loss(logits, np.full_like(mask, 255), WEIGHT) == 0
    assert dice_loss(logits, mask, np.zeros(B, np.float32)) == 0
    empty = np.zeros_like(mask)
    assert dice_loss(np.full_like(logits, -50), empty, WEIGHT) < 1e-6 < dice_loss(logits, empty, WEIGHT)


def test_iou_is_regressed_to_the_actual_one():
    logits, mask = drawn()
    logits[3] = -1  # nothing found where there is nothing
    predicted = np.linspace(0, 1, B).astype(np.float32)
    counts = mask != 255
    found, truth = (logits > 0) & counts, mask == 1
    actual = [(f & t).sum() / (f | t).sum() if (f | t).any() else 1.0 for f, t in zip(found, truth, strict=True)]
    want = np.average((predicted - actual) ** 2, weights=WEIGHT)
    value, (to_predicted, to_logits) = jax.value_and_grad(iou_loss, argnums=(0, 1))(predicted, logits, mask, WEIGHT)
    np.testing.assert_allclose(value, want, rtol=1e-6)
    np.testing.assert_allclose(to_predicted, 2 * (predicted - actual) * WEIGHT / WEIGHT.sum(), rtol=1e-5, atol=1e-7)
    assert not to_logits.any()


@pytest.mark.parametrize("size", [(24, 32), (13, 8), (3, 5)])
def test_upsampled_as_torch_interpolates(size):
    logits = drawn()[0]
    want = F.interpolate(torch.tensor(logits)[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]
    np.testing.assert_allclose(upsampled(logits, size), want.numpy(), atol=1e-5)


@pytest.mark.parametrize("grid", [(3, 4), (2, 2), (4, 3)])
def test_shares_of_cells_are_torchs_area(grid):
    mask = drawn()[1]
    want = np.zeros((B, *grid))
    fine = np.kron((mask == 1).astype(float), np.ones((grid[0], grid[1])))  # each cell is now H x W of these
    for i, j in np.ndindex(grid):
        want[:, i, j] = fine[:, i * H : (i + 1) * H, j * W : (j + 1) * W].mean(axis=(1, 2))
    np.testing.assert_allclose(cell_shares(mask, grid), want, atol=1e-6)


def test_tokens_are_pooled_inside_the_mask():
    tokens = np.random.default_rng(1).normal(size=(3, 2, 2, 5)).astype(np.float32)
    mask = np.zeros((3, 4, 4), np.uint8)
    mask[0, :2, :2], mask[1, :2] = 1, 1
    mask[1, :, 2:] *= 255  # what does not count is not inside
    mask[1, 0, 2] = 1
    found = pooled(tokens, mask)
    np.testing.assert_allclose(found[0], tokens[0, 0, 0], rtol=1e-6)
    np.testing.assert_allclose(found[1], (4 * tokens[1, 0, 0] + tokens[1, 0, 1]) / 5, rtol=1e-5)
    np.testing.assert_allclose(found[2], tokens[2].mean(axis=(0, 1)), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(pooled(tokens), tokens.mean(axis=(1, 2)), rtol=1e-5, atol=1e-7)


def aligned(seed: int = 2) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    prompt = np.array([0, 1, 0, 2])
    texts = rng.normal(size=(3, 5)).astype(np.float32)
    return rng.normal(size=(B, 2, 2, 5)).astype(np.float32), texts[prompt], prompt


def torch_alignment(tokens: torch.Tensor, text: torch.Tensor, prompt: np.ndarray, weight: np.ndarray) -> torch.Tensor:
    kept = [i for i in range(len(prompt)) if weight[i] > 0]
    image, text = F.normalize(tokens.mean(dim=(1, 2)), dim=1), F.normalize(text, dim=1)
    scores, total = image @ text.T / 0.1, 0
    for way in (scores, scores.T):
        for i in kept:
            logs = F.log_softmax(way[i, kept], dim=0)
            positives = [n for n, j in enumerate(kept) if prompt[j] == prompt[i]]
            total = total - weight[i] * logs[positives].mean() / weight.sum() / 2
    return total


@pytest.mark.parametrize("weight", [np.ones(B, np.float32), WEIGHT])
def test_alignment_is_contrastive_both_ways(weight):
    tokens, text, prompt = aligned()
    x, t = torch.tensor(tokens, requires_grad=True), torch.tensor(text, requires_grad=True)
    want = torch_alignment(x, t, prompt, weight)
    want.backward()
    loss = jax.value_and_grad(
        lambda tokens, text: alignment_loss(pooled(tokens), text, prompt, weight, temperature=0.1), (0, 1)
    )
    found, (to_tokens, to_text) = loss(tokens, text)
    np.testing.assert_allclose(found, want.item(), rtol=1e-5)
    np.testing.assert_allclose(to_tokens, x.grad.numpy(), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(to_text, t.grad.numpy(), rtol=1e-4, atol=1e-6)


def test_without_repeated_texts_it_is_clips_loss():
    tokens, _, _ = aligned()
    text = np.random.default_rng(5).normal(size=(B, 5)).astype(np.float32)
    image, words = F.normalize(torch.tensor(tokens).mean(dim=(1, 2))), F.normalize(torch.tensor(text))
    scores, own = image @ words.T / 0.07, torch.arange(B)
    want = (F.cross_entropy(scores, own) + F.cross_entropy(scores.T, own)) / 2
    found = alignment_loss(pooled(tokens), text, np.arange(B), np.ones(B, np.float32))
    np.testing.assert_allclose(found, want.item(), rtol=1e-5)


def test_what_is_not_in_the_image_is_not_aligned():
    tokens, text, prompt = aligned()
    ones, mask = np.ones(B, np.float32), np.ones((B, 4, 4), np.uint8)
    mask[1], has_mask = 0, np.array([1, 1, 0, 1], np.float32)
    weight = prompted_weight(mask, has_mask, ones)
    np.testing.assert_array_equal(weight, [1, 0, 1, 1])
    found = alignment_loss(prompted(tokens, mask, has_mask), text, prompt, weight)
    tokens[1] = np.nan
    want = alignment_loss(pooled(tokens), text, prompt, np.array([1, 0, 1, 1], np.float32))
    np.testing.assert_allclose(found, want, rtol=1e-6)
    assert jnp.isfinite(want)
