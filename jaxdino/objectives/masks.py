"""What masks are trained with: logits (B, H, W) against masks (B, H, W) of 0 and 1, 255 where a pixel does not count.

Each loss is one number for each image, from the pixels that count, and then the mean over the images by weight (B,).

Sources: Kirillov et al. 2023, Segment Anything (arXiv:2304.02643), appendix A, for what is added up; its focal loss is
plain cross entropy here.
"""

import jax
import jax.numpy as jnp
import numpy as np

from jaxdino.models.positions import linear_matrix
from jaxdino.objectives.classify import weighted_mean
from jaxdino.objectives.koleo import unit

IGNORED = 255
"""In a mask: the pixel counts in no loss and no measure."""


def _parts(logits: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """logits, the truth in {0, 1} and what counts in {0, 1}: (B, pixels) each, float32."""
    flat = mask.reshape(len(mask), -1)
    counts = (flat != IGNORED).astype(jnp.float32)
    return logits.astype(jnp.float32).reshape(flat.shape), (flat == 1).astype(jnp.float32), counts


def dice_loss(logits: jax.Array, mask: jax.Array, weight: jax.Array, smooth: float = 1.0) -> jax.Array:
    """1 - (2 sum(p t) + smooth) / (sum(p) + sum(t) + smooth), p = sigmoid(logits), summed over an image's pixels.

    With an empty mask it falls to 0 as the mass of p does. A scalar, float32.

    Args:
      logits: (B, H, W). mask: (B, H, W). weight: (B,).
      smooth: in pixels; what an image weighs whose mask and prediction are empty.

    Source: Milletari et al. 2016, V-Net (arXiv:1606.04797), equation 2, without its squares, as SAM has it.
    """
    x, truth, counts = _parts(logits, mask)
    p = jax.nn.sigmoid(x) * counts
    both = jnp.sum(p * truth, axis=1)
    return weighted_mean(1 - (2 * both + smooth) / (jnp.sum(p, axis=1) + jnp.sum(truth, axis=1) + smooth), weight)


def bce_loss(logits: jax.Array, mask: jax.Array, weight: jax.Array) -> jax.Array:
    """Binary cross entropy from logits: the mean over an image's pixels that count, 0 where none does.

    A scalar, float32; shapes as `dice_loss`'s.
    """
    x, truth, counts = _parts(logits, mask)
    losses = jax.nn.softplus(x) - x * truth
    return weighted_mean(jnp.sum(losses * counts, axis=1) / jnp.maximum(jnp.sum(counts, axis=1), 1), weight)


def iou_loss(predicted: jax.Array, logits: jax.Array, mask: jax.Array, weight: jax.Array) -> jax.Array:
    """The squared error of the predicted IoU (B,) to that of the mask above 0, to which no gradient flows.

    Nothing found where there is nothing has an IoU of 1. A scalar, float32; shapes as `dice_loss`'s.
    """
    x, truth, counts = _parts(jax.lax.stop_gradient(logits), mask)
    found = (x > 0) * counts
    both = jnp.sum(found * truth, axis=1)
    either = jnp.sum(found, axis=1) + jnp.sum(truth, axis=1) - both
    actual = jnp.where(either > 0, both / jnp.maximum(either, 1), 1.0)
    return weighted_mean(jnp.square(predicted.astype(jnp.float32) - actual), weight)


def upsampled(logits: jax.Array, size: tuple[int, int]) -> jax.Array:
    """logits (B, h, w) at another size (B, H, W), float32: torch's bilinear `interpolate`, align_corners=False."""
    rows, columns = (jnp.asarray(linear_matrix(a, b)) for a, b in zip(logits.shape[1:], size, strict=True))
    return jnp.einsum("yh,xw,bhw->byx", rows, columns, logits.astype(jnp.float32), precision="highest")


def pooled(tokens: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """The mean token of an image: (B, h, w, T) -> (B, T) float32.

    Args:
      mask: (B, H, W): a token counts by the share of its cell that the mask fills; all count where the mask is empty.
    """
    tokens = tokens.astype(jnp.float32)
    b, h, w, _ = tokens.shape
    shares = jnp.ones((b, h, w)) if mask is None else cell_shares(mask, (h, w))
    shares = jnp.where(jnp.any(shares > 0, axis=(1, 2), keepdims=True), shares, 1.0)
    total = jnp.sum(shares, axis=(1, 2))[:, None]
    return jnp.einsum("bhw,bhwt->bt", shares, tokens, precision="highest") / total


def cell_shares(mask: jax.Array, grid: tuple[int, int]) -> jax.Array:
    """(B, H, W) -> (B, h, w) float32: the share of each cell's area where the mask is 1."""
    rows, columns = (jnp.asarray(_overlaps(a, b)) for a, b in zip(mask.shape[1:], grid, strict=True))
    return jnp.einsum("yh,xw,bhw->byx", rows, columns, (mask == 1).astype(jnp.float32), precision="highest")


def _overlaps(n_in: int, n_out: int) -> np.ndarray:
    """(n_out, n_in) float32: which share of an output cell each input cell covers; rows sum to 1."""
    edges = np.arange(n_out + 1) * (n_in / n_out)
    left, right = np.arange(n_in), np.arange(1, n_in + 1)
    low, high = np.maximum(edges[:-1, None], left[None]), np.minimum(edges[1:, None], right[None])
    return (np.maximum(high - low, 0) * (n_out / n_in)).astype(np.float32)


def prompted(tokens: jax.Array, mask: jax.Array, has_mask: jax.Array) -> jax.Array:
    """What of each image is aligned with its prompt: (B, h, w, T) -> (B, T) float32.

    Args:
      mask: (B, H, W), where the prompt's object is: tokens are pooled there (see `pooled`).
      has_mask: (B,), 1 where the mask is known; else the tokens are pooled over the image.
    """
    return pooled(tokens, jnp.where(has_mask[:, None, None] > 0, mask, 0))


def prompted_weight(mask: jax.Array, has_mask: jax.Array, weight: jax.Array) -> jax.Array:
    """weight (B,), 0 where a known mask is empty: what the prompt names is not in the image."""
    return jnp.where((has_mask > 0) & ~jnp.any(mask == 1, axis=(-2, -1)), 0.0, weight)


def alignment_loss(
    image: jax.Array, text: jax.Array, prompt: jax.Array, weight: jax.Array, temperature: float = 0.07
) -> jax.Array:
    """Contrasts images and texts both ways over the whole batch; rows of one prompt are positives of each other.

    With s the cosines over the temperature: for each image, minus the mean over its positives j of
    log(exp(s_ij) / sum over all texts of exp(s_ik)), and the same for each text over the images; half of each. Images
    of weight 0 stand in no sum. With one prompt in the batch the texts tell no image apart, and only how alike the
    images are to it counts.

    Args:
      image: (B, T), as of `prompted`, and text: (B, T), of any length. prompt: (B,) int, the same for the same
        text.

    Returns:
      A scalar, float32.

    Source: Yang et al. 2022, Unified Contrastive Learning in Image-Text-Label Space (arXiv:2204.03610), equations
    2 to 4, of which CLIP's loss is the case without repeated texts.
    """
    weight = weight.astype(jnp.float32)
    present = weight > 0
    image = unit(jnp.where(present[:, None], image.astype(jnp.float32), 0.0))
    text = unit(jnp.where(present[:, None], text.astype(jnp.float32), 0.0))
    scores = jnp.einsum("it,jt->ij", image, text, precision="highest") / temperature
    alike = (prompt[:, None] == prompt[None]) & present[:, None] & present[None]
    return 0.5 * (_contrast(scores, alike, weight) + _contrast(scores.T, alike, weight))


def _contrast(scores: jax.Array, alike: jax.Array, weight: jax.Array) -> jax.Array:
    """Minus the mean log share of each row's positives, by weight; columns of weight 0 do not count."""
    shares = jax.nn.log_softmax(jnp.where((weight > 0)[None], scores, -1e9), axis=1)
    count = jnp.maximum(jnp.sum(alike, axis=1), 1)
    return weighted_mean(-jnp.sum(jnp.where(alike, shares, 0.0), axis=1) / count, weight)
