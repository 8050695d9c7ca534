"""Segmentation metrics: count pixels on the device, then compute IoU, Dice, precision and recall from the counts."""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

IGNORED = 255
"""Mask value of pixels that no metric counts."""

Counts = Mapping[str, np.ndarray]


def counts(prediction: jax.Array, mask: jax.Array) -> dict[str, jax.Array]:
    """Count the pixels of each mask; works under jit.

    Args:
      prediction: (..., H, W), bool, or logits, where the mask is above 0.
      mask: (..., H, W), 1 inside the object, 0 outside, 255 for ignored pixels.

    Returns:
      intersection, predicted, truth: (...) float32.
    """
    found = prediction if prediction.dtype == jnp.bool_ else prediction > 0
    found, truth = found & (mask != IGNORED), mask == 1

    def pixels(which: jax.Array) -> jax.Array:
        return jnp.sum(which, axis=(-2, -1), dtype=jnp.float32)

    return {"intersection": pixels(found & truth), "predicted": pixels(found), "truth": pixels(truth)}


def summarise(
    counts: Counts, prompt: np.ndarray, names: Sequence[str], thresholds: Sequence[float] = (0.5, 0.75, 0.9)
) -> dict:
    """Compute the metrics of a split from its counts. A pair with an empty mask and prediction has IoU = Dice = 1.

    Args:
      counts: (N,) arrays as from `counts`. prompt: (N,), indices into `names`.

    Returns:
      miou: mean over the prompts of their summed intersections divided by their summed unions.
      dice, iou: means over the pairs; iou_50, iou_75, ...: share of the pairs whose IoU is at least that.
      precision, recall: of the pixels of the whole split; if nothing is predicted (present), 1 if nothing is present
        (predicted) either, else 0.
      pairs: N. per_prompt: {name: {miou, dice, precision, recall, pairs}}, of the prompts that occur.
      All but per_prompt and pairs are NaN if there is no pair.
    """
    both, found, truth = (np.asarray(counts[name], np.float64) for name in ("intersection", "predicted", "truth"))
    prompt = np.asarray(prompt)
    iou, dice = _share(both, found + truth - both), _share(2 * both, found + truth)
    per_prompt = {}
    for place in np.unique(prompt):
        own = prompt == place
        sums = both[own].sum(), found[own].sum(), truth[own].sum()
        per_prompt[names[place]] = {
            "miou": float(_share(sums[0], sums[1] + sums[2] - sums[0])),
            "dice": float(dice[own].mean()),
            **_of_pixels(*sums),
            "pairs": int(own.sum()),
        }
    whole = _of_pixels(both.sum(), found.sum(), truth.sum()) if len(prompt) else dict.fromkeys(PIXELS, float("nan"))
    return {
        "miou": _mean([one["miou"] for one in per_prompt.values()]),
        "dice": _mean(dice),
        "iou": _mean(iou),
        **{f"iou_{100 * least:g}": _mean(iou >= least) for least in thresholds},
        **whole,
        "pairs": len(prompt),
        "per_prompt": per_prompt,
    }


PIXELS = ("precision", "recall")


def _of_pixels(both: float, found: float, truth: float) -> dict[str, float]:
    if not found and not truth:
        return dict.fromkeys(PIXELS, 1.0)
    return {"precision": float(both / max(found, 1)), "recall": float(both / max(truth, 1))}


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Return part / whole, 1 if the whole is 0."""
    return np.where(whole > 0, part / np.maximum(whole, 1), 1.0)


def _mean(values: Sequence[float] | np.ndarray) -> float:
    return float(np.mean(values)) if len(values) else float("nan")
