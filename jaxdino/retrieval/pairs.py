"""Groups of near-duplicates: images whose embeddings have at least a given cosine.

Up to `MOST` images, each is compared with all others, on the device. Above, an inverted file of faiss compares each
with those of the nearest cells alone: work that grows with N^1.5 in place of N^2, and some pairs are missed
(`benchmarks/search.py` measures how many).
"""

import importlib.util
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from jaxdino.core.bars import bar
from jaxdino.core.errors import UserError
from jaxdino.evals import knn
from jaxdino.inspect_data.groups import groups

NEAREST = 10  # images that each is paired with, at most
MOST = 1_000_000  # images compared with all others by `auto`
ENGINES = ("auto", "exact", "faiss")
PROBES = 32  # cells that are searched
ROUNDS = 10  # of the k-means of the cells
PER_CELL = 64  # images for each cell that the cells are learnt from
ROUNDING = 1e-6  # of a float32 cosine: copies have not always 1
CHUNK = 16_384  # queries at a time


def engine_for(count: int, asked: str, say: Callable[[str], None]) -> str:
    """Return "exact" or "faiss", and say what was chosen if nobody asked.

    Raises:
      UserError: if faiss was asked for and is not installed.
    """
    there = importlib.util.find_spec("faiss") is not None
    if asked == "faiss" and not there:
        raise UserError("--engine faiss needs faiss: pip install 'jaxdino[search]'")
    if asked != "auto":
        return asked
    if count <= MOST:
        return "exact"
    if not there:
        say(f"all {count:,} images are compared with all others: pip install 'jaxdino[search]' has a faster way")
        return "exact"
    say(f"{count:,} images: faiss compares each with those of the nearest cells; --engine exact compares all")
    return "faiss"


def neighbours(values: np.ndarray, engine: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the nearest others of each embedding (N, D): cosines (N, k) and rows (N, k), itself among them.

    k is 1 + `NEAREST`, or N if that is less.
    """
    k = min(NEAREST + 1, len(values))
    return knn.neighbours(values, values, k) if engine == "exact" else _by_faiss(values, k)


def _by_faiss(values: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    faiss: Any = importlib.import_module("faiss")  # its types say that init_centroids is never None

    cells = max(1, min(round(4 * math.sqrt(len(values))), len(values) // 39 or 1))
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(values.shape[1]), values.shape[1], cells, faiss.METRIC_INNER_PRODUCT)
    sample = np.random.default_rng(0).permutation(len(values))[: cells * PER_CELL]
    sample, centres = _unit(values[np.sort(sample)]), None
    for _ in bar(range(ROUNDS), "cells", unit="round"):
        rounds = faiss.Kmeans(values.shape[1], cells, niter=1, spherical=True, max_points_per_centroid=PER_CELL)
        rounds.train(sample, init_centroids=centres)
        centres = rounds.centroids
    index.quantizer.add(centres)
    index.train(sample)  # only marks it as trained: the cells are there
    parts = range(0, len(values), CHUNK)
    for first in bar(parts, "index", unit=f"x{CHUNK:,} images"):
        index.add(_unit(values[first : first + CHUNK]))
    index.nprobe = min(cells, PROBES)
    each = bar(parts, "neighbours", unit=f"x{CHUNK:,} images")
    found = [index.search(_unit(values[first : first + CHUNK]), k) for first in each]
    cosines, rows = (np.concatenate([pair[i] for pair in found]) for i in (0, 1))
    return np.where(rows < 0, -1.0, cosines).astype(np.float32), np.maximum(rows, 0)


def _unit(values: np.ndarray) -> np.ndarray:
    values = np.ascontiguousarray(values, np.float32)
    return values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)


def near_duplicates(values: np.ndarray, cosine: float, engine: str) -> list[list[int]]:
    """Return groups of rows whose embeddings are connected by cosines of at least `cosine`, the largest group first.

    Raises:
      UserError: if embeddings are not finite.
    """
    if len(values) < 2:
        return []
    values = knn.check_features(values, "file")
    cosines, rows = neighbours(values, engine)
    one, rank = np.nonzero(cosines >= cosine - ROUNDING)
    pairs = np.stack([one, rows[one, rank]], axis=1)
    return sorted(groups(len(values), [pairs[pairs[:, 0] != pairs[:, 1]]]), key=lambda group: (-len(group), group[0]))
