"""Groups of images from pairs of them: the connected components."""

from collections.abc import Iterable

import numpy as np

MOST = 4_000_000  # pairs that are held; more are replaced by the components that they make


def groups(count: int, pairs: Iterable[np.ndarray]) -> list[list[int]]:
    """Return the connected components of more than one of `count` nodes, each ascending.

    Args:
      pairs: blocks of int (P, 2).
    """
    held: list[np.ndarray] = []
    size = 0
    for block in pairs:
        held.append(block)
        size += len(block)
        if size > MOST:
            held = [_stars(_components(count, held))]
            size = 0
    if not held:
        return []
    component = _components(count, held)
    order = np.argsort(component, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(component[order])) + 1)
    return sorted((part.tolist() for part in parts if len(part) > 1), key=lambda part: part[0])


def _components(count: int, pairs: list[np.ndarray]) -> np.ndarray:
    """Return the number of the component of each node."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    one, two = np.concatenate(pairs).T
    graph = coo_array((np.ones(len(one), bool), (one, two)), (count, count))
    return connected_components(graph, directed=False)[1]


def _stars(component: np.ndarray) -> np.ndarray:
    """Return pairs (P, 2) that make the same components: of each node and the first one of its component."""
    _, first, inverse = np.unique(component, return_index=True, return_inverse=True)
    pairs = np.stack([first[inverse], np.arange(len(component))], axis=1)
    return pairs[pairs[:, 0] != pairs[:, 1]]
