"""The order of the records in training: every record once an epoch, or more draws from rare classes."""

from typing import Any

import grain
import numpy as np

from jaxdino.data.sampling import UNIFORM, class_draws


def sampled(records: Any, labels: np.ndarray, sampling: str, total: int, seed: int) -> grain.MapDataset:
    """Return the records in the order of training: `total` an epoch, endless by index.

    Args:
      records: N records by index. labels: their classes, int (N,), needed unless sampling is "uniform".
      total: at most N; with "uniform", the N - total records that an epoch leaves out differ from epoch to epoch.
    """
    source = grain.MapDataset.source(records)
    if sampling == UNIFORM:
        return source.shuffle(seed=seed)[:total]
    return ClassSampled(source, labels, sampling, total, seed)


class ClassSampled(grain.MapDataset):
    """An order in which each class has the same number of draws in every epoch.

    A class goes through its images in a new order each time, and goes on in the next epoch where it stopped: all its
    images are drawn equally often. Draw i depends only on i and the seed.

    Args: as for `sampled`, with `records` as a dataset.
    """

    def __init__(self, records: grain.MapDataset, labels: np.ndarray, sampling: str, total: int, seed: int):
        super().__init__(records)
        labels = np.asarray(labels)
        counts = np.bincount(labels)
        self._draws = class_draws(counts, sampling, total)
        self._ends, self._starts = np.cumsum(self._draws), np.cumsum(counts) - counts
        self._members = np.argsort(labels, kind="stable").astype(np.int32 if len(labels) < 2**31 else np.int64)
        order, *seeds = (int(word) for word in np.random.SeedSequence(seed).generate_state(1 + len(counts)))
        self._order = grain.MapDataset.range(total).shuffle(seed=order)
        self._within = [
            grain.MapDataset.range(count).shuffle(seed=own) if count else None
            for count, own in zip(counts.tolist(), seeds, strict=True)
        ]

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return self.slice(index)
        place = self._order[index]
        label = int(np.searchsorted(self._ends, place, side="right"))
        draws, first = int(self._draws[label]), int(self._ends[label] - self._draws[label])
        number = self._within[label][index // len(self) * draws + place - first]  # counted over all epochs
        return self._parent[int(self._members[self._starts[label] + number])]
