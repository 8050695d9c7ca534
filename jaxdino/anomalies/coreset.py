"""Choose patches that stand for all patches of the good images, in bounded memory.

Source: greedy k-centre selection on randomly projected features, as PatchCore (arXiv:2106.08265), algorithm 1.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdino.core.bars import bar

PROJECTED = 128  # numbers of a feature that are compared
TOGETHER = 500  # patches chosen by one call
HELD = 4  # times the size of the bank that are held before they are reduced


class Coreset:
    """Collect patches, and keep at most `size` that cover them.

    When more than `HELD` x size patches are held, they are reduced to `size`; memory does not grow with the number of
    images, and the result is that of the greedy selection if it was reduced once.
    """

    def __init__(self, size: int, seed: int = 0):
        self.size, self.seed, self.seen = size, seed, 0
        self._held: list[np.ndarray] = []
        self._rows = 0

    def add(self, rows: np.ndarray) -> None:
        """Add patches, float32 (P, D)."""
        self._held.append(np.asarray(rows, np.float32))
        self._rows += len(rows)
        self.seen += len(rows)
        if self._rows > HELD * self.size:
            self._reduce()

    def bank(self) -> np.ndarray:
        """Return the chosen patches, float32 (at most size, D)."""
        if self._rows > self.size:
            self._reduce()
        return np.concatenate(self._held)

    def _reduce(self) -> None:
        rows = np.concatenate(self._held)
        self._held = [rows[greedy(rows, self.size, self.seed)]]
        self._rows = len(self._held[0])


def greedy(rows: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Return `count` indices of rows (N, D): the first drawn by the seed, each other the farthest from those before."""
    key_project, key_first = jax.random.split(jax.random.key(seed))
    shown = jnp.asarray(rows, jnp.float32)
    if rows.shape[1] > PROJECTED:
        shown = shown @ jax.random.normal(key_project, (rows.shape[1], PROJECTED)) / PROJECTED**0.5
    first = jax.random.randint(key_first, (), 0, len(rows))
    state = jnp.zeros(count, jnp.int32).at[0].set(first), jnp.full(len(rows), jnp.inf)
    with bar(None, f"choosing {count:,} of {len(rows):,} patches", total=count, unit="patch") as watched:
        for begin in range(1, count, TOGETHER):
            end = min(begin + TOGETHER, count)
            state = jax.block_until_ready(_chosen(shown, state, begin, end))
            watched.update(end - begin)
    return np.asarray(state[0])


@jax.jit
def _chosen(rows_NxD: jax.Array, state: Any, begin: int, end: int) -> Any:
    """Choose the rows `begin` to `end` - 1, given those before and the distance of each row to the nearest of them."""
    squares = (rows_NxD * rows_NxD).sum(axis=1)

    def step(i, state):
        chosen, far = state
        row = chosen[i - 1]
        far = jnp.minimum(far, squares + squares[row] - 2 * rows_NxD @ rows_NxD[row]).at[row].set(-jnp.inf)
        return chosen.at[i].set(far.argmax()), far

    return jax.lax.fori_loop(begin, end, step, state)
