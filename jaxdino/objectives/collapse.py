"""Collapse of self-distillation: the signals that show it. `health` judges a run by them.

Without a balance of centring and sharpening the teacher gives every image the same answer: one prototype, or all of
them alike (Caron et al. 2021, DINO, arXiv:2104.14294, section 5.3). Either way the answer tells nothing of the image.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import entr

from jaxdino.objectives.classify import weighted_mean
from jaxdino.objectives.dino import counted


def signals(probabilities: jax.Array, weight: jax.Array) -> dict[str, jax.Array]:
    """What the teacher's answers to a batch show, in nats: scalars in float32.

    Args:
      probabilities: (n, K), of rows that weight (n,) counts.

    Returns:
      teacher_entropy: the mean of the rows' entropies. kl_to_uniform: log K less that. marginal_entropy: of the mean
      row. information: marginal less teacher entropy, what a prototype tells of the image, 0 in either collapse and
      never above log n.
    """
    weight = weight.astype(jnp.float32)
    rows = counted(probabilities, weight)
    entropy = weighted_mean(jnp.sum(entr(rows), axis=1), weight)
    mean = jnp.sum(rows * weight[:, None], axis=0) / jnp.maximum(jnp.sum(weight), 1e-12)
    marginal = jnp.sum(entr(mean))
    return {
        "teacher_entropy": entropy,
        "kl_to_uniform": math.log(rows.shape[1]) - entropy,
        "marginal_entropy": marginal,
        "information": marginal - entropy,
    }


def feature_std(features: np.ndarray) -> float:
    """The mean over dimensions of the std of L2-normalised rows (n, D), times sqrt(D): 1 spread out, 0 collapsed.

    Source: Chen and He 2021, SimSiam (arXiv:2011.10566), section 4.1. NaN for features that are not finite.
    """
    features = np.asarray(features, np.float64)
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    return float(np.std(features / np.maximum(lengths, 1e-12), axis=0).mean() * math.sqrt(features.shape[1]))


def feature_rank(features: np.ndarray) -> float:
    """RankMe of features (n, D): exp of the entropy of their singular values' shares; from 1 to min(n, D).

    Not centred, as published: the noise around a collapsed feature would have full rank. Compare it at one n only.
    Source: Garrido et al. 2023 (arXiv:2210.02885), equation 1. NaN for features that are not finite.
    """
    features = np.asarray(features, np.float64)
    if not np.isfinite(features).all():
        return math.nan
    values = np.linalg.svd(features, compute_uv=False)
    shares = values / max(values.sum(), 1e-12) + 1e-7
    return float(np.exp(-np.sum(shares * np.log(shares))))
