"""Mask losses: logits (B, H, W) against masks (B, H, W) of 0 and 1; pixels of 255 are ignored.

Each loss is computed per image over its valid pixels, then averaged over the images with weight (B,).

Sources: Kirillov et al. 2023, Segment Anything (arXiv:2304.02643), appendix A, for the sum of losses; its focal loss is
plain cross entropy here.
"""

import jax
import jax.numpy as jnp
import numpy as np

from jaxdino.models.positions import linear_matrix
from jaxdino.objectives.classify import weighted_mean
from jaxdino.objectives.koleo import unit

IGNORED = 255
"""Mask value of a pixel that losses and metrics ignore."""


def _parts(logits: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return logits, target in {0, 1} and valid pixels in {0, 1}: (B, pixels) each, float32."""
    flat = mask.reshape(len(mask), -1)
    counts = (flat != IGNORED).astype(jnp.float32)
    return logits.astype(jnp.float32).reshape(flat.shape), (flat == 1).astype(jnp.float32), counts


def dice_loss(logits: jax.Array, mask: jax.Array, weight: jax.Array, smooth: float = 1.0) -> jax.Array:
    """Compute 1 - (2 sum(p t) + smooth) / (sum(p) + sum(t) + smooth), p = sigmoid(logits), over an image's pixels.

    For an empty mask it decreases to 0 with the sum of p. A scalar, float32.

    Args:
      logits: (B, H, W). mask: (B, H, W). weight: (B,).
      smooth: in pixels; smooths the loss of images whose mask and prediction are empty.

    Source: Milletari et al. 2016, V-Net (arXiv:1606.04797), equation 2, without its squares, as in SAM.
    """
    x, truth, counts = _parts(logits, mask)
    p = jax.nn.sigmoid(x) * counts
    both = jnp.sum(p * truth, axis=1)
    return weighted_mean(1 - (2 * both + smooth) / (jnp.sum(p, axis=1) + jnp.sum(truth, axis=1) + smooth), weight)


def bce_loss(logits: jax.Array, mask: jax.Array, weight: jax.Array) -> jax.Array:
    """Compute binary cross entropy from logits: the mean over an image's valid pixels, 0 if there are none.

    A scalar, float32; shapes as in `dice_loss`.
    """
    x, truth, counts = _parts(logits, mask)
    losses = jax.nn.softplus(x) - x * truth
    return weighted_mean(jnp.sum(losses * counts, axis=1) / jnp.maximum(jnp.sum(counts, axis=1), 1), weight)


def iou_loss(predicted: jax.Array, logits: jax.Array, mask: jax.Array, weight: jax.Array) -> jax.Array:
    """Compute the squared error of the predicted IoU (B,) to the IoU of the mask (logits above 0), without gradient.

    The IoU of an empty prediction with an empty mask is 1. A scalar, float32; shapes as in `dice_loss`.
    """
    x, truth, counts = _parts(jax.lax.stop_gradient(logits), mask)
    found = (x > 0) * counts
    both = jnp.sum(found * truth, axis=1)
    either = jnp.sum(found, axis=1) + jnp.sum(truth, axis=1) - both
    actual = jnp.where(either > 0, both / jnp.maximum(either, 1), 1.0)
    return weighted_mean(jnp.square(predicted.astype(jnp.float32) - actual), weight)


def upsampled(logits: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Resize logits (B, h, w, ...) to (B, H, W, ...), float32: torch's bilinear `interpolate`, align_corners=False."""
    rows, columns = (jnp.asarray(linear_matrix(a, b)) for a, b in zip(logits.shape[1:3], size, strict=True))
    return jnp.einsum("yh,xw,bhw...->byx...", rows, columns, logits.astype(jnp.float32), precision="highest")


def pooled(tokens: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """Compute the mean token of an image: (B, h, w, T) -> (B, T) float32.

    Args:
      mask: (B, H, W): a token is weighted by the share of its cell inside the mask; if the mask is empty, all count.
    """
    tokens = tokens.astype(jnp.float32)
    b, h, w, _ = tokens.shape
    shares = jnp.ones((b, h, w)) if mask is None else cell_shares(mask, (h, w))
    shares = jnp.where(jnp.any(shares > 0, axis=(1, 2), keepdims=True), shares, 1.0)
    total = jnp.sum(shares, axis=(1, 2))[:, None]
    return jnp.einsum("bhw,bhwt->bt", shares, tokens, precision="highest") / total


def cell_shares(mask: jax.Array, grid: tuple[int, int]) -> jax.Array:
    """Compute the share of each cell's area where the mask is 1: (B, H, W) -> (B, h, w) float32."""
    rows, columns = (jnp.asarray(_overlaps(a, b)) for a, b in zip(mask.shape[1:], grid, strict=True))
    return jnp.einsum("yh,xw,bhw->byx", rows, columns, (mask == 1).astype(jnp.float32), precision="highest")


def _overlaps(n_in: int, n_out: int) -> np.ndarray:
    """Return (n_out, n_in) float32: the share of an output cell that each input cell covers; rows sum to 1."""
    edges = np.arange(n_out + 1) * (n_in / n_out)
    left, right = np.arange(n_in), np.arange(1, n_in + 1)
    low, high = np.maximum(edges[:-1, None], left[None]), np.minimum(edges[1:, None], right[None])
    return (np.maximum(high - low, 0) * (n_out / n_in)).astype(np.float32)


def prompted(tokens: jax.Array, mask: jax.Array, has_mask: jax.Array) -> jax.Array:
    """Pool the tokens of each image that are aligned with its prompt: (B, h, w, T) -> (B, T) float32.

    Args:
      mask: (B, H, W), the mask of the prompt's object: tokens are pooled inside it (see `pooled`).
      has_mask: (B,), 1 if the mask is known; else the tokens are pooled over the image.
    """
    return pooled(tokens, jnp.where(has_mask[:, None, None] > 0, mask, 0))


def prompted_weight(mask: jax.Array, has_mask: jax.Array, weight: jax.Array) -> jax.Array:
    """Return weight (B,), 0 if a known mask is empty, since the prompt's object is not in the image."""
    return jnp.where((has_mask > 0) & ~jnp.any(mask == 1, axis=(-2, -1)), 0.0, weight)


def alignment_loss(
    image: jax.Array, text: jax.Array, prompt: jax.Array, weight: jax.Array, temperature: float = 0.07
) -> jax.Array:
    """Compute a contrastive loss of images and texts over the whole batch; rows with the same prompt are positives.

    With s the cosines divided by the temperature: for each image, minus the mean over its positives j of
    log(exp(s_ij) / sum over all texts of exp(s_ik)), and the same for each text over the images; half of each. Images
    of weight 0 are in no sum. With a single prompt in the batch, the texts do not distinguish images, and only the
    similarities between that text and the images count.

    Args:
      image: (B, T), as returned by `prompted`. text: (B, T), of any length. prompt: (B,) int, equal for equal texts.

    Returns:
      A scalar, float32.

    Source: Yang et al. 2022, Unified Contrastive Learning in Image-Text-Label Space (arXiv:2204.03610), equations
    2 to 4; without repeated texts it is CLIP's loss.
    """
    weight = weight.astype(jnp.float32)
    present = weight > 0
    image = unit(jnp.where(present[:, None], image.astype(jnp.float32), 0.0))
    text = unit(jnp.where(present[:, None], text.astype(jnp.float32), 0.0))
    scores = jnp.einsum("it,jt->ij", image, text, precision="highest") / temperature
    alike = (prompt[:, None] == prompt[None]) & present[:, None] & present[None]
    return 0.5 * (_contrast(scores, alike, weight) + _contrast(scores.T, alike, weight))


def _contrast(scores: jax.Array, alike: jax.Array, weight: jax.Array) -> jax.Array:
    """Compute minus the mean log share of each row's positives, by weight; columns of weight 0 are ignored."""
    shares = jax.nn.log_softmax(jnp.where((weight > 0)[None], scores, -1e9), axis=1)
    count = jnp.maximum(jnp.sum(alike, axis=1), 1)
    return weighted_mean(-jnp.sum(jnp.where(alike, shares, 0.0), axis=1) / count, weight)
