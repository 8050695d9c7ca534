"""Batches of images with similar aspect ratio: groups of images, and the order in which an epoch goes through them.

The images of an epoch are sorted by group and cut into batches, and the batches are shuffled. So an epoch has the same
images and the same number of batches as without groups; where a group's images do not fill a batch, the next group's
images complete it, and such a batch has the group of most of its images.
"""

import threading
from collections.abc import Sequence
from typing import Any

import grain
import numpy as np

from jaxdino.data.sampling import UNIFORM, class_draws

KEPT = 2  # epochs whose order is kept: reading ahead may begin the next one


def groups_of(shapes: np.ndarray, ratios: Sequence[float]) -> np.ndarray:
    """Return the group of each image, int8 (N,): the nearest ratio, as a factor.

    Args:
      shapes: (width, height) of the images, (N, 2). Unknown ones, 0, count as square.
      ratios: width / height of the groups, ascending.
    """
    known = shapes.min(axis=1) > 0
    own = np.ones(len(shapes))
    np.divide(shapes[:, 0], shapes[:, 1], out=own, where=known)
    between = np.sqrt(np.asarray(ratios[1:]) * np.asarray(ratios[:-1]))
    return np.searchsorted(between, own).astype(np.int8)


class EpochOrder:
    """The records of each epoch in their order, and the groups of its batches. They depend on epoch and seed only.

    Args:
      groups: group of each record, (N,). labels: classes of the records, (N,), needed unless sampling is "uniform".
      total: records of an epoch, a multiple of `batch_size`.
    """

    def __init__(
        self, groups: np.ndarray, labels: np.ndarray, sampling: str, *, batch_size: int, total: int, seed: int
    ):
        self._groups, self._labels, self._sampling = groups, np.asarray(labels), sampling
        self._batch_size, self._total, self._seed = batch_size, total, seed
        self._lock, self._known = threading.Lock(), {}

    def __reduce__(self) -> tuple[Any, ...]:
        how = (self._groups, self._labels, self._sampling, self._batch_size, self._total, self._seed)
        return _order, how

    def __len__(self) -> int:
        return self._total

    def __getitem__(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Return (records int64 (total,), group of each batch int8 (total / batch_size,)) of an epoch."""
        with self._lock:
            if epoch not in self._known:
                self._known = {key: self._known[key] for key in sorted(self._known)[-KEPT + 1 :]}
                self._known[epoch] = self._arranged(epoch)
            return self._known[epoch]

    def _arranged(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng([self._seed, epoch])
        rows = self._drawn(epoch, rng)
        rows = rows[np.argsort(self._groups[rows], kind="stable")]
        batches = rows.reshape(-1, self._batch_size)
        batches = batches[rng.permutation(len(batches))]
        return batches.reshape(-1), self._groups[batches[:, self._batch_size // 2]]

    def _drawn(self, epoch: int, rng: np.random.Generator) -> np.ndarray:
        """Return the records of an epoch in random order; those that it leaves out differ from epoch to epoch.

        With classes, a class goes on where it stopped in the last epoch, as in `order.ClassSampled`.
        """
        if self._sampling == UNIFORM:
            return rng.permutation(len(self._groups))[: self._total]
        counts = np.bincount(self._labels)
        draws = class_draws(counts, self._sampling, self._total)
        members = np.split(np.argsort(self._labels, kind="stable"), np.cumsum(counts)[:-1])
        found = [
            _continued(own, int(count), [self._seed, label], epoch)
            for label, (own, count) in enumerate(zip(members, draws, strict=True))
            if count
        ]
        return rng.permutation(np.concatenate(found))

    def crossing(self, epoch: int) -> int:
        """Return how many records of an epoch are in a batch of another group."""
        rows, groups = self[epoch]
        return int((self._groups[rows] != np.repeat(groups, self._batch_size)).sum())


def _order(groups, labels, sampling, batch_size, total, seed) -> EpochOrder:
    return EpochOrder(groups, labels, sampling, batch_size=batch_size, total=total, seed=seed)


def _continued(members: np.ndarray, count: int, seed: list[int], epoch: int) -> np.ndarray:
    """Return the next `count` members of a class after those of earlier epochs, in a new order in each pass."""
    first, size = epoch * count, len(members)
    passes = range(first // size, (first + count - 1) // size + 1)
    found = np.concatenate([np.random.default_rng([*seed, one]).permutation(members) for one in passes])
    return found[first - passes.start * size :][:count]


class AspectBatches(grain.MapDataset):
    """Records in the order of training, endless by index, each with the "group" of its batch.

    Args:
      records: N records, as a dataset.
    """

    def __init__(self, records: grain.MapDataset, order: EpochOrder, batch_size: int):
        super().__init__(records)
        self._order, self._batch_size = order, batch_size

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return self.slice(index)
        epoch, place = divmod(index, len(self))
        rows, groups = self._order[epoch]
        return self._parent[int(rows[place])] | {"group": int(groups[place // self._batch_size])}
