"""Signals of a collapse in self-distillation. `health` judges a run by them.

If centring and sharpening are out of balance, the teacher gives the same output for every image: either one prototype,
or a uniform distribution (Caron et al. 2021, DINO, arXiv:2104.14294, section 5.3). In both cases the output contains no
information about the image.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import entr

from jaxdino.objectives.classify import weighted_mean
from jaxdino.objectives.dino import counted


def signals(probabilities: jax.Array, weight: jax.Array) -> dict[str, jax.Array]:
    """Compute the signals of the teacher's outputs for a batch, in nats: scalars in float32.

    Args:
      probabilities: (n, K). weight: (n,), weight of each row.

    Returns:
      teacher_entropy: mean entropy of the rows. kl_to_uniform: log K - teacher_entropy. marginal_entropy: entropy of
      the mean row. information: marginal_entropy - teacher_entropy, the information of a prototype about the image; 0
      in both kinds of collapse and at most log n.
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
    """Compute the std of L2-normalised rows (n, D), averaged over dimensions, times sqrt(D): 1 spread out, 0 collapsed.

    Source: Chen and He 2021, SimSiam (arXiv:2011.10566), section 4.1. NaN if a feature is not finite.
    """
    features = np.asarray(features, np.float64)
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    return float(np.std(features / np.maximum(lengths, 1e-12), axis=0).mean() * math.sqrt(features.shape[1]))


def feature_rank(features: np.ndarray) -> float:
    """Compute RankMe of features (n, D): exp of the entropy of their normalised singular values; from 1 to min(n, D).

    The features are not centred, as in the paper: the noise around a collapsed feature would have full rank. Compare
    values with the same n only. Source: Garrido et al. 2023 (arXiv:2210.02885), equation 1. NaN if a feature is not
    finite.
    """
    features = np.asarray(features, np.float64)
    if not np.isfinite(features).all():
        return math.nan
    values = np.linalg.svd(features, compute_uv=False)
    shares = values / max(values.sum(), 1e-12) + 1e-7
    return float(np.exp(-np.sum(shares * np.log(shares))))
