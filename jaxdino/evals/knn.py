"""Weighted k-nearest-neighbour classification of frozen features, on the device, for data of any size.

Source: Wu et al. 2018 (arXiv:1805.01978), section 3.4; facebookresearch/dino eval_knn.py.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxdino.core import sharding
from jaxdino.core.bars import bar
from jaxdino.core.errors import UserError

K = (10, 20)
TEMPERATURE = 0.07
CHUNK = 1024  # queries at a time
BANK_CHUNK = 16384  # rows of the bank at a time: 64 MiB of similarities


def knn_accuracy(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    features: np.ndarray,
    labels: np.ndarray,
    *,
    k: Sequence[int] = K,
    temperature: float = TEMPERATURE,
    num_classes: int,
    chunk: int = CHUNK,
    bank_chunk: int = BANK_CHUNK,
    mesh: Mesh | None = None,
    poll: Callable[[], None] = lambda: None,
) -> dict[int, float]:
    """Return {k: accuracy on the queries}: each of the k nearest train rows votes with exp(cosine / T).

    Args:
      train_features: the bank (M, D); train_labels: (M,) class indices.
      features, labels: the queries (N, D) and (N,).
      k: one number or several, none above M.
      temperature: T of the votes.
      chunk, bank_chunk: queries and bank rows compared at once; they affect memory, not the result.
      mesh: devices to shard the queries over; each holds the bank's chunk.
      poll: called for every chunk; an exception from it ends the computation.

    Raises:
      UserError: for an empty set, widths or labels that do not match, features that are not finite, k outside 1 to M.
    """
    labels = check_labels(labels, features, num_classes, "queries")
    found = knn_predictions(
        train_features,
        train_labels,
        features,
        k=k,
        temperature=temperature,
        num_classes=num_classes,
        chunk=chunk,
        bank_chunk=bank_chunk,
        mesh=mesh,
        poll=poll,
    )
    return {count: float(np.mean(predicted == labels)) for count, predicted in found.items()}


def knn_predictions(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    features: np.ndarray,
    *,
    k: Sequence[int] = K,
    temperature: float = TEMPERATURE,
    num_classes: int,
    chunk: int = CHUNK,
    bank_chunk: int = BANK_CHUNK,
    mesh: Mesh | None = None,
    poll: Callable[[], None] = lambda: None,
) -> dict[int, np.ndarray]:
    """Return {k: predicted classes int32 (N,)} of the queries; arguments and errors as in `knn_accuracy`."""
    counts = tuple(dict.fromkeys(int(count) for count in np.atleast_1d(k)))
    train_labels = check_labels(train_labels, train_features, num_classes, "bank")
    if not counts:
        raise UserError("k is empty: give at least one number of neighbours, such as k=(10, 20)")
    if not temperature > 0:
        raise UserError(f"the temperature of the votes is {temperature}: it must be above 0")
    how: dict[str, Any] = dict(chunk=chunk, bank_chunk=bank_chunk, mesh=mesh, poll=poll)
    cosines, rows = neighbours(train_features, features, max(counts), **how)
    check_k(min(counts), len(train_labels))
    parts = range(0, len(rows), chunk)
    votes = functools.partial(_predicted, counts=counts, num_classes=num_classes)
    found = [
        np.asarray(votes(cosines[i : i + chunk], train_labels[rows[i : i + chunk]], jnp.float32(temperature)))
        for i in parts
    ]
    return dict(zip(counts, np.concatenate(found, axis=1), strict=True))


def neighbours(
    bank: np.ndarray,
    queries: np.ndarray,
    k: int,
    *,
    chunk: int = CHUNK,
    bank_chunk: int = BANK_CHUNK,
    mesh: Mesh | None = None,
    poll: Callable[[], None] = lambda: None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the k nearest bank rows of each query: cosines float32 (N, k), descending, and indices int32 (N, k).

    Of equal cosines the earlier row comes first. The bank is sent to the device once, chunk by chunk; a running top k
    of every query stays there. Memory is chunk x bank_chunk similarities, independent of M and N.

    Args:
      bank: (M, D); queries: (N, D). Rows are normalised to length 1 here.

    Raises:
      UserError: as `knn_accuracy`.
    """
    bank, queries = _unit(bank, "bank"), _unit(queries, "queries")
    if bank.shape[1] != queries.shape[1]:
        raise UserError(f"features of the bank are {bank.shape[1]} wide, those of the queries {queries.shape[1]}")
    check_k(k, len(bank))
    devices = mesh.size if mesh else 1
    chunk = -(-min(chunk, len(queries)) // devices) * devices
    bank_chunk = max(k, min(bank_chunk, len(bank)))
    place = (lambda x: sharding.put(x, sharding.batch_sharding(mesh))) if mesh else jnp.asarray
    everywhere = (lambda x: sharding.put(x, sharding.replicated(mesh))) if mesh else jnp.asarray

    starts = range(0, len(queries), chunk)
    nothing = place(np.full((chunk, k), -np.inf, np.float32)), place(np.zeros((chunk, k), np.int32))
    best = [nothing for _ in starts]
    for first in bar(range(0, len(bank), bank_chunk), "neighbours", unit=f"x{bank_chunk:,} images"):
        part = everywhere(_padded(bank[first : first + bank_chunk], bank_chunk))
        for i, start in enumerate(starts):
            poll()
            asked = place(_padded(queries[start : start + chunk], chunk))
            best[i] = _merged(*best[i], asked, part, np.int32(first), np.int32(len(bank)))
    cosines, rows = (np.concatenate([sharding.gather(pair[i]) for pair in best])[: len(queries)] for i in (0, 1))
    return cosines, rows


@jax.jit
def _merged(cosines_Qxk, rows_Qxk, queries_QxD, part_CxD, first, bank_size):
    """Update the running top k with one more chunk of the bank, whose row 0 is the bank's row `first`."""
    k = cosines_Qxk.shape[1]
    similarity = jnp.matmul(queries_QxD, part_CxD.T, precision=jax.lax.Precision.HIGHEST)
    padding = jnp.arange(similarity.shape[1])[None] >= bank_size - first
    similarity, rows = jax.lax.top_k(jnp.where(padding, -jnp.inf, similarity), k)
    similarity, rows = jnp.concatenate([cosines_Qxk, similarity], 1), jnp.concatenate([rows_Qxk, rows + first], 1)
    cosines, places = jax.lax.top_k(similarity, k)  # equal values stay in the bank's order
    return cosines, jnp.take_along_axis(rows, places, axis=1)


@functools.partial(jax.jit, static_argnames=("counts", "num_classes"))
def _predicted(cosines_Qxk, labels_Qxk, temperature, *, counts, num_classes):
    """Return the class with most votes (the first if equal) among the nearest `count`, for each count: (counts, Q)."""
    votes = jnp.exp((cosines_Qxk - cosines_Qxk[:, :1]) / temperature)  # avoids overflow, keeps the order of the votes
    row = jnp.arange(len(votes))[:, None]
    tally = jnp.zeros((len(votes), num_classes))
    found = [tally.at[row, labels_Qxk[:, :n]].add(votes[:, :n]).argmax(axis=1) for n in counts]
    return jnp.stack(found).astype(jnp.int32)


def _padded(rows: np.ndarray, count: int) -> np.ndarray:
    """Pad with zero rows up to `count`, so that every chunk has the same shape."""
    return np.pad(rows, ((0, count - len(rows)), (0, 0)))


def _unit(features: np.ndarray, what: str) -> np.ndarray:
    """Normalise rows to length 1; a row of zeros stays zero."""
    features = check_features(features, what)
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)


def check_features(features: np.ndarray, what: str) -> np.ndarray:
    """Return features as float32 (N, D). Raise UserError if there are none, or some are not finite."""
    features = np.asarray(features, np.float32)
    if features.ndim != 2 or not features.size:
        raise UserError(f"features of the {what} have shape {features.shape}: rows of them are needed")
    if wrong := np.count_nonzero(~np.isfinite(features).all(axis=1)):
        raise UserError(f"{wrong} of the {len(features)} features of the {what} are not finite: the model is broken")
    return features


def check_labels(labels: np.ndarray, features: np.ndarray, num_classes: int, what: str) -> np.ndarray:
    """Return labels as int32 (N,). Raise UserError unless there is a class index for each feature."""
    labels = np.asarray(labels)
    if labels.shape != (len(features),):
        raise UserError(
            f"{len(features)} features of the {what} have labels of shape {labels.shape}: one each is needed"
        )
    if labels.size and not (labels.min() >= 0 and labels.max() < num_classes):
        span = f"{labels.min()} to {labels.max()}"
        raise UserError(f"labels of the {what} go from {span}, but must be indices into {num_classes} classes")
    return labels.astype(np.int32)


def check_k(k: int, bank_size: int) -> None:
    """Raise UserError unless the bank has at least k rows."""
    if not 1 <= k <= bank_size:
        raise UserError(
            f"k={k} neighbours cannot be found among the {bank_size} images of the bank: "
            f"give k (--k) from 1 to {bank_size}, or a larger bank"
        )
