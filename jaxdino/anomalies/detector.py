"""A fitted detector: the bank of good patches, what it was made of, and the scores of images."""

import dataclasses
import functools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from convert.atomic import atomic_folder, refuse_occupied
from jaxdino.anomalies.form import Form
from jaxdino.core.errors import UserError
from jaxdino.core.json_file import read_json, write_json

ABOUT, BANK = "anomaly.json", "bank.npy"
AGAIN = "jaxdino anomaly fit --overwrite makes it anew"
QUERIES = 1024  # patches compared with the bank at a time
SIGMA = 4 / 224
"""Standard deviation of the maps' Gaussian blur as a share of the image, as both papers blur 224 pixels."""


@dataclasses.dataclass(frozen=True)
class Detector:
    """A fitted detector.

    Attributes:
      bank: float32 (M, D). threshold: image scores above it are anomalous.
      about: the weights (name, digest, opened_by), preprocessing, counts, and how the threshold was found.
    """

    method: str
    form: Form
    bank: np.ndarray
    threshold: float
    about: Mapping[str, Any]

    def save(self, folder: Path, overwrite: bool) -> None:
        """Write the folder at once. Raise UserError if it holds something else."""
        refuse_occupied(folder, overwrite, lambda name: name in (ABOUT, BANK))
        with atomic_folder(folder) as draft:
            np.save(draft / BANK, self.bank)
            own = {"method": self.method, "form": dataclasses.asdict(self.form), "threshold": self.threshold}
            write_json(draft / ABOUT, {**own, "rows": len(self.bank), "width": self.bank.shape[1], **self.about})


def read(folder: str | Path) -> Detector:
    """Read a fitted detector.

    Raises:
      UserError: if the folder is none, or damaged.
    """
    place = Path(folder)
    if not (place / ABOUT).is_file():
        raise UserError(
            f"{folder} is no anomaly detector: it has no {ABOUT}; jaxdino anomaly fit --out {folder} makes one"
        )
    about = read_json(place / ABOUT, dict)
    try:
        bank = np.load(place / BANK, mmap_mode="r", allow_pickle=False)
        given = dict(about["form"])
        layers = given["layers"]
        form = Form(**given | {"layers": tuple(layers) if isinstance(layers, list) else int(layers)})
        found = Detector(str(about["method"]), form, bank, float(about["threshold"]), about)
        if bank.shape != (about["rows"], about["width"]) or bank.dtype != np.float32 or not bank.size:
            raise ValueError(f"{BANK} is {bank.dtype} {bank.shape}")
        return found
    except (OSError, KeyError, TypeError, ValueError, EOFError) as err:
        raise UserError(f"{folder} is damaged: {type(err).__name__}: {err}; {AGAIN}") from None


def distances(bank: jax.Array, features_BxhxwxD: np.ndarray, cosine: bool) -> np.ndarray:
    """Return the distance of each patch to its nearest one of the bank, float32 (B, h, w).

    Args:
      bank: (M, D) on the device. cosine: 1 - cosine of features of length one; otherwise Euclidean.
    """
    *shape, width = features_BxhxwxD.shape
    rows = features_BxhxwxD.reshape(-1, width)
    size = min(QUERIES, len(rows))
    parts = []
    for first in range(0, len(rows), size):
        part = rows[first : first + size]
        padded = np.pad(part, ((0, size - len(part)), (0, 0)))
        parts.append(np.asarray(_nearest(bank, padded, cosine=cosine))[: len(part)])
    return np.concatenate(parts).reshape(shape)


@functools.partial(jax.jit, static_argnames="cosine")
def _nearest(bank_MxD: jax.Array, rows_PxD: jax.Array, cosine: bool) -> jax.Array:
    products = jnp.matmul(rows_PxD, bank_MxD.T, precision=jax.lax.Precision.HIGHEST)
    if cosine:
        return jnp.maximum(1 - products.max(axis=1), 0)
    near = products - 0.5 * (bank_MxD * bank_MxD).sum(axis=1)[None]
    row = near.argmax(axis=1)
    return jnp.linalg.norm(rows_PxD - bank_MxD[row], axis=1)


def image_scores(distances_Bxhxw: np.ndarray, share: float) -> np.ndarray:
    """Return the score of each image: the mean of the largest `share` of its distances, at least one; float64 (B,)."""
    flat = np.sort(distances_Bxhxw.reshape(len(distances_Bxhxw), -1).astype(np.float64), axis=1)
    return flat[:, -max(1, math.floor(share * flat.shape[1])) :].mean(axis=1)


def smooth_maps(distances_Bxhxw: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return anomaly maps float32 (B, H, W): distances resized bilinearly, then blurred by a Gaussian of `SIGMA`."""
    from scipy.ndimage import gaussian_filter

    large = np.asarray(jax.image.resize(jnp.asarray(distances_Bxhxw), (len(distances_Bxhxw), *size), "bilinear"))
    return gaussian_filter(large, (0, SIGMA * size[0], SIGMA * size[1]))
