"""Perceptual hashes of images, and all pairs of hashes that differ in few bits.

Source of the hash: imagehash's `phash`: the 8 x 8 lowest frequencies of a 32 x 32 grey image, each above their median
or not. Source of the index: Norouzi et al., Fast search in Hamming space with multi-index hashing (arXiv:1307.2982).
"""

from collections.abc import Iterator
from itertools import combinations, pairwise

import numpy as np
from PIL import Image

BANDS, WIDTH = 4, 16  # bands of a hash, and bits of each
FARTHEST = 15  # the largest distance: above, an index of 4 bands would compare nearly all pairs
CLOSE = 128  # pixels of the shorter side to which an image is averaged before its hash
BLOCK = 1 << 22  # pairs compared at once


def perceptual_hash(grey: Image.Image) -> np.uint64:
    """Return the 64-bit perceptual hash of a grey image."""
    import imagehash

    factor = min(grey.size) // CLOSE
    small = grey.reduce(factor) if factor > 1 else grey  # much faster than imagehash's filter on all pixels
    return np.packbits(imagehash.phash(small).hash).view(">u8")[0].astype(np.uint64)


def close_pairs(hashes: np.ndarray, distance: int) -> Iterator[np.ndarray]:
    """Yield all pairs of hashes that differ in at most `distance` bits, in blocks of int64 (P, 2); i < j.

    Of two hashes that differ in at most d bits, one of the four 16-bit bands differs in at most d // 4 bits. Each band
    is an index: a hash is compared only with those whose band differs in so few bits. Pairs may come several times.

    Args:
      hashes: uint64 (N,), all different: equal ones are a group of their own.
      distance: 0 to `FARTHEST`.
    """
    masks = [
        sum(1 << bit for bit in bits)
        for count in range(distance // BANDS + 1)
        for bits in combinations(range(WIDTH), count)
    ]
    for band in range(BANDS):
        key = (hashes >> np.uint64(band * WIDTH)).astype(np.int64) & ((1 << WIDTH) - 1)
        order = np.argsort(key, kind="stable")
        counts = np.bincount(key, minlength=1 << WIDTH)
        starts = np.cumsum(counts) - counts
        key = key[order]
        for mask in masks:
            other = key ^ mask
            chosen = np.flatnonzero((counts[other] > 0) & (key <= other))
            for left, right in _expanded(chosen, starts[other[chosen]], counts[other[chosen]]):
                one, two = order[left], order[right]
                near = (np.bitwise_count(hashes[one] ^ hashes[two]) <= distance) & (one != two)
                if near.any():
                    yield np.sort(np.stack([one[near], two[near]], axis=1), axis=1)


def _expanded(rows: np.ndarray, starts: np.ndarray, counts: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (row, start), (row, start + 1), ... of each row, about `BLOCK` pairs at a time."""
    if not rows.size:
        return
    ends = np.cumsum(counts)
    edges = np.searchsorted(ends, np.arange(BLOCK, ends[-1] + BLOCK, BLOCK), side="left")
    edges = np.unique(np.concatenate([[0], np.minimum(edges + 1, len(rows))]))
    for first, last in pairwise(edges):
        part = counts[first:last]
        before = np.repeat(np.cumsum(part) - part, part)
        yield np.repeat(rows[first:last], part), np.repeat(starts[first:last], part) + np.arange(part.sum()) - before
