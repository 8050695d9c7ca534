"""Put a chosen linear head back into the model: a folder that predict, export, load and fine-tuning take."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from convert.card import Card
from convert.store import save_model
from jaxdino.core.errors import UserError
from jaxdino.evals.linear_heads import Heads
from jaxdino.features.names import PARTS, pool_for
from jaxdino.features.reader import FeatureCache
from jaxdino.models.heads.linear import LinearHeadConfig
from jaxdino.models.spec import Preprocess


def folded(head: Heads, mean: np.ndarray, scale: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return kernel (D, C) and bias (C,) for features that are not standardised, with the same logits.

    ((x - mean) scale) K + b = x (scale K) + (b - mean scale K).
    """
    kernel = np.asarray(head.kernel, np.float64)[:, :, 0] * scale[:, None].astype(np.float64)
    bias = np.asarray(head.bias, np.float64)[:, 0] - mean.astype(np.float64) @ kernel
    return kernel.astype(np.float32), bias.astype(np.float32)


def why_not(parts: Sequence[str], card: Card, cache: FeatureCache) -> str:
    """Return why a head on these features cannot be put into the model; "" if it can."""
    if "tiled" in cache.made.settings:
        return "the features are those of windows (--tiled): a model sees an image as a whole"
    pool = pool_for(parts)
    if pool is None:
        return f"a model has no head that reads {'+'.join(parts)}: it reads {', '.join(PARTS)}"
    if LinearHeadConfig(1, pool).blocks > 1 and "backbone.cls_token" not in card.spec.skeleton().entries:
        return f"a {card.spec.name} has no class tokens of several blocks, which {'+'.join(parts)} reads"
    return ""


def spread_out(kernel: np.ndarray, parts: Sequence[str], pool: str, width: int) -> np.ndarray:
    """Return the kernel (D of the pooling, C): features that the head does not read get zeros.

    Args:
      width: of each feature; those of one pooling are equally wide.
    """
    found = np.zeros((len(PARTS[pool]) * width, kernel.shape[1]), np.float32)
    for n, part in enumerate(parts):
        place = PARTS[pool].index(part)
        found[place * width : (place + 1) * width] += kernel[n * width : (n + 1) * width]
    return found


def check_weights(cache: FeatureCache, card: Card) -> None:
    """Raise UserError unless the weights are those that the features were made by."""
    there = cache.made.weights["digest"]
    if card.digest != there:
        raise UserError(
            f"the weights {cache.made.opened_by['weights']} have changed since the features in {cache.folder} were "
            f"made: SHA-256 {there[:12]} -> {card.digest[:12]}. Restore them, or extract again with --overwrite"
        )


def save_with_head(
    folder: Path,
    cache: FeatureCache,
    card: Card,
    flat: Mapping[str, Any],
    parts: Sequence[str],
    head: tuple[np.ndarray, np.ndarray],
    thresholds: tuple[float, ...],
    companions: Sequence[Path] = (),
) -> Card:
    """Save the model with a linear head in place of its own; return its card.

    Args:
      card, flat: the model that the features were made by. parts: the features that the head reads.
      head: kernel and bias for features that are not standardised. thresholds: of several classes, else ().

    Raises:
      UserError: if the model cannot hold such a head (see `why_not`), or it cannot be written.
    """
    if reason := why_not(parts, card, cache):
        raise UserError(reason)
    pool = pool_for(parts)
    config = LinearHeadConfig(len(cache.class_names), str(pool), thresholds)
    kernel = spread_out(head[0], parts, str(pool), cache.width(parts[0]))
    spec = dataclasses.replace(card.spec, preprocess=Preprocess.of(dict(cache.made.preprocess)))
    card = dataclasses.replace(card, spec=spec, head=config, class_names=cache.class_names)
    entries = spec.skeleton(head=config).entries
    found = {path: flat[path] for path in entries if not path.startswith("head.")}
    own = {"head.kernel": kernel, "head.bias": head[1]}
    leaves = {path: own.get(path, found.get(path)) for path in entries}
    return save_model(folder, card, leaves, companions=companions, overwrite=True)
