"""Fit a detector on good images: some make the bank, the others the threshold."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxdino.anomalies import detector
from jaxdino.anomalies.coreset import Coreset
from jaxdino.anomalies.form import Form, features
from jaxdino.core.bars import bar
from jaxdino.core.errors import UserError
from jaxdino.data.bad_images import check_read
from jaxdino.data.config import DataConfig
from jaxdino.data.record import Split
from jaxdino.evals import report

FEW = 20  # images for the threshold; with fewer the quantile is rough


def divided(count: int, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of the bank's images and of those held out, each ascending; one of each at least.

    Raises:
      UserError: for fewer than two images.
    """
    if count < 2:
        raise UserError(f"there is {count} good image: two are needed, one for the bank and one for the threshold")
    order = np.random.default_rng(seed).permutation(count)
    held = min(max(1, round(share * count)), count - 1)
    return np.sort(order[held:]), np.sort(order[:held])


def fit(
    model: Any,
    form: Form,
    split: Split,
    data: DataConfig,
    *,
    size: int,
    hold_out: float,
    quantile: float,
    batch_size: int,
    seed: int,
    say: Callable[[str], None],
) -> tuple[np.ndarray, float, dict[str, Any]]:
    """Return the bank (M, D), the threshold, and counts.

    Args:
      size: largest number of patches in the bank. hold_out: share of the images that set the threshold.
      quantile: of the held-out images' scores, which is the threshold.

    Raises:
      UserError: for too few images, and if none can be read.
    """
    fitted, held = divided(len(split), hold_out, seed)
    look = features(model, form)
    kept = Coreset(size, seed)
    part = split.chosen(fitted)
    found, bad = report.readable(part, data, model, look, batch_size)
    with bar(None, "bank", total=len(part)) as watched:
        for rows, values in found:
            kept.add(values.reshape(-1, values.shape[-1]))
            watched.update(len(rows))
    check_read(bad, len(bad), len(part), say)
    bank = kept.bank()
    on_device, scores = jnp.asarray(bank), []
    part_held = split.chosen(held)
    found, bad_held = report.readable(part_held, data, model, look, batch_size)
    for _, values in bar(found, "threshold", unit="batch"):
        scores.append(detector.image_scores(detector.distances(on_device, values, form.cosine), form.share))
    check_read(bad_held, len(bad_held), len(part_held), say)
    good = np.concatenate(scores)
    if len(good) < FEW:
        say(f"the threshold is the {quantile:g} quantile of {len(good)} good images, which is rough: give more of them")
    counts = {
        "images": len(fitted) - len(bad),
        "patches": kept.seen,
        "held_out": len(good),
        "unread": len(bad) + len(bad_held),
        "quantile": quantile,
        "good_scores": {"mean": float(good.mean()), "max": float(good.max())},
    }
    return bank, float(np.quantile(good, quantile)), counts
