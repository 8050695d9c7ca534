"""Cross entropy of pixels and its gradient, against torch's interpolate and cross_entropy."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from jaxdino.core.slices import sliced
from jaxdino.objectives.semantic import Semantic

B, C, GRID, SIZE = 4, 5, (3, 4), (11, 16)


def drawn():
    """Logits of patches, and masks of which some pixels, and all of the third, are ignored."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (B, *GRID, C)).astype(np.float32)
    mask = rng.integers(0, C, (B, *SIZE)).astype(np.uint8)
    mask[0, :4], mask[1, 5:, 3:], mask[2] = 255, 255, 255
    return logits, mask


def loss(logits, mask, weight, smoothing=0.0, **more):
    """The loss of a model that returns these logits."""
    model = lambda image, key: SimpleNamespace(logits=logits)  # noqa: E731
    batch = {"image": jnp.zeros((len(mask), *SIZE, 3)), "mask": mask, "weight": weight} | more
    return Semantic(smoothing).loss(model, batch, None)


def torchs(logits, mask, rows, smoothing):
    """torch's loss over some rows, its gradient with respect to the logits, and the pixel accuracy."""
    x = torch.tensor(logits, requires_grad=True)
    big = F.interpolate(x.permute(0, 3, 1, 2)[rows], size=SIZE, mode="bilinear", align_corners=False)
    truth = torch.tensor(mask[rows]).long()
    value = F.cross_entropy(big, truth, ignore_index=255, label_smoothing=smoothing)
    value.backward()
    return value.item(), x.grad.numpy(), (big.argmax(1) == truth)[truth != 255].float().mean().item()


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("rows", [[0, 1, 2, 3], [0, 3]])
def test_loss_and_gradient_are_torchs(smoothing, rows):
    """Rows of weight 0 are those of images that could not be read."""
    logits, mask = drawn()
    weight = np.isin(np.arange(B), rows).astype(np.float32)
    (value, aux), gradient = jax.value_and_grad(loss, has_aux=True)(logits, mask, weight, smoothing)
    want, slope, accuracy = torchs(logits, mask, rows, smoothing)
    assert value == pytest.approx(want, rel=1e-5) and aux["pixel_accuracy"] == pytest.approx(accuracy, rel=1e-5)
    np.testing.assert_allclose(gradient, slope, atol=1e-6)
    assert np.abs(slope).max() > 1e-3 and not gradient[2].any()


def test_a_pixel_has_the_weight_of_its_image():
    logits, mask = drawn()
    weight = np.array([2, 1, 1, 0], np.float32)
    alone = [float(loss(logits[i : i + 1], mask[i : i + 1], np.ones(1))[0]) for i in (0, 1)]
    pixels = [2 * (mask[0] != 255).sum(), (mask[1] != 255).sum()]
    assert float(loss(logits, mask, weight)[0]) == pytest.approx(np.dot(alone, pixels) / sum(pixels), rel=1e-5)


def test_slices_add_up_to_the_whole_batch():
    logits, mask = drawn()
    weight = np.array([1, 1, 1, 0.5], np.float32)
    parts = sliced({"mask": jnp.asarray(mask), "weight": jnp.asarray(weight), "logits": jnp.asarray(logits)}, 2)
    parts, _, _ = Semantic().targets({}, {}, parts)
    totals = np.zeros(2)
    for row in range(2):
        part = {name: value[row] for name, value in parts.items()}
        share = part["weight"].sum() / weight.sum()
        value, aux = loss(*[part.pop(name) for name in ("logits", "mask", "weight")], **part)
        totals += share * np.array([value, aux["pixel_accuracy"]])
    value, aux = loss(logits, mask, weight)
    assert totals == pytest.approx([float(value), float(aux["pixel_accuracy"])], rel=1e-5)


@pytest.mark.parametrize("weight", [np.zeros(B), np.array([0, 0, 1, 0])])
def test_no_pixel_that_counts(weight):
    logits, mask = drawn()
    (value, _), gradient = jax.value_and_grad(loss, has_aux=True)(logits * 1e4, mask, weight.astype(np.float32))
    assert value == 0 and not gradient.any()
