"""Run a method on an input: train its heads, choose the settings by validation, and measure the chosen head."""

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdino.evals.linear_heads import NO_FOLD
from jaxdino.probing import intervals
from jaxdino.probing.method import Cell, Job, Method, Trained
from jaxdino.probing.sets import Rows, Sets

ROWS = 2048  # rows evaluated at a time
ROWS_OF_TOKENS = 64


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The result of a method on an input.

    Attributes:
      sets: the rows, with the input's name. scores: (settings, seeds, folds), accuracy or mean average precision.
      best: index of the chosen settings: the best mean over seeds and folds.
      heads: the chosen head of each seed, with folds trained on all rows.
      trained: number of heads; diverged: of those that are not finite. seconds: of training and scoring all.
      converged: whether each head reached the minimum, bool like `scores`; None for methods without one.
      final_converged: the same of the chosen heads.
    """

    method: Method
    sets: Sets
    scores: np.ndarray
    best: int
    heads: list[Any]
    trained: int
    diverged: int
    seconds: float
    converged: np.ndarray | None = None
    final_converged: bool = True

    @property
    def settings(self) -> dict[str, Any]:
        """The chosen settings."""
        return dict(self.method.settings[self.best])

    @property
    def unconverged(self) -> int:
        """The number of heads that did not reach the minimum."""
        return 0 if self.converged is None else int(np.count_nonzero(~self.converged))

    @property
    def score(self) -> float:
        """The score by which the settings were chosen."""
        return float(self.scores[self.best].mean())


def run(method: Method, sets: Sets, job: Job, seeds: Sequence[int]) -> Outcome:
    """Train all heads and choose the settings; test is not looked at."""
    begin = time.perf_counter()
    seeds = list(seeds) if method.seeded else [seeds[0]]
    folds = list(range(sets.folds)) or [NO_FOLD]
    cells = [Cell(n, seed, fold) for n in range(len(method.settings)) for seed in seeds for fold in folds]
    scores, kept, reached, diverged = {}, {}, {}, 0
    for group in method.train(job, cells):
        found, finite = _scores(method, group.heads, sets, group.cells)
        scores |= dict(zip(group.cells, found, strict=True))
        diverged += int(np.count_nonzero(~finite))
        reached |= _reached(group)
        if not sets.folds:
            kept |= {cell: (group.heads, index) for index, cell in enumerate(group.cells)}
    shape = len(method.settings), len(seeds), len(folds)
    table = np.array([scores[cell] for cell in cells]).reshape(shape)
    converged = np.array([reached[cell] for cell in cells]).reshape(shape) if reached else None
    best = int(np.argmax(table.mean(axis=(1, 2))))
    chosen = [Cell(best, seed) for seed in seeds]
    if sets.folds:
        for group in method.train(dataclasses.replace(job, fold_of=None), chosen):
            reached |= _reached(group)
            kept |= {cell: (group.heads, index) for index, cell in enumerate(group.cells)}
    final = [method.one(*kept[cell]) for cell in chosen]
    of_final = all(reached.get(cell, True) for cell in chosen)
    seconds = time.perf_counter() - begin
    return Outcome(method, sets, table, best, final, len(cells), diverged, seconds, converged, of_final)


def _reached(group: Trained) -> dict[Cell, bool]:
    return {} if group.converged is None else dict(zip(group.cells, group.converged.tolist(), strict=True))


def logits(method: Method, heads: Any, x: np.ndarray) -> np.ndarray:
    """Return the logits of all rows, (N, C, H), on the host."""
    return np.concatenate([np.asarray(part) for part in _parts(method, heads, x)])


def _parts(method: Method, heads: Any, x: np.ndarray) -> Any:
    size = ROWS if x.ndim == 2 else ROWS_OF_TOKENS
    return (method.logits(heads, x[first : first + size]) for first in range(0, len(x), size))


@jax.jit
def _right(logits, y):
    """Return whether each head is right (B, H), and finite (H,); a head that is not finite is never right."""
    finite = jnp.isfinite(logits).all(axis=1)
    return (logits.argmax(axis=1) == y[:, None]) & finite, finite.all(axis=0)


def right(method: Method, heads: Any, rows: Rows) -> tuple[np.ndarray, np.ndarray]:
    """Return whether each head classifies each row as its class, bool (N, H), and whether it is finite (H,)."""
    found, first = [], 0
    for part in _parts(method, heads, rows.x):
        found.append(_right(part, rows.y[first : first + len(part)]))
        first += len(part)
    return np.concatenate([np.asarray(one) for one, _ in found]), np.all([np.asarray(one) for _, one in found], axis=0)


def _scores(method: Method, heads: Any, sets: Sets, cells: Sequence[Cell]) -> tuple[list[float], np.ndarray]:
    rows, several = sets.choose, sets.choose.y.ndim == 2
    fold_of = None if sets.fold_of is None else sets.fold_of[: len(rows)]
    if several:
        found = logits(method, heads, rows.x)
        finite = np.asarray(np.isfinite(found).all(axis=(0, 1)))
    else:
        found, finite = right(method, heads, rows)
    scores = []
    for index, cell in enumerate(cells):
        chosen = slice(None) if fold_of is None else fold_of == cell.fold
        if several:
            of_head = found[chosen, :, index]
            scores.append(_map_or_zero(of_head, rows.y[chosen]) if finite[index] else 0.0)
        else:
            scores.append(float(found[chosen, index].mean()))
    return scores, finite


def mean_average_precision(logits: np.ndarray, y: np.ndarray) -> float:
    """Return the mean over the classes that an image has. Raise ValueError if no image has a class."""
    from sklearn.metrics import average_precision_score

    there = np.flatnonzero((y > 0.5).any(axis=0))
    if not len(there):
        raise ValueError("no image has a class")
    return float(np.mean([average_precision_score(y[:, label] > 0.5, logits[:, label]) for label in there]))


def _map_or_zero(logits: np.ndarray, y: np.ndarray) -> float:
    return mean_average_precision(logits, y) if (y > 0.5).any() else 0.0


def measured(method: Method, head: Any, rows: Rows | None) -> dict[str, Any]:
    """Return the accuracy or mean average precision of one head, with n and interval; or the reason for none."""
    if rows is None:
        return {"value": None, "n": 0, "interval": None, "reason": "there is no test split"}
    if rows.y.ndim == 1:
        return intervals.share(right(method, head, rows)[0][:, 0])
    found = logits(method, head, rows.x)[:, :, 0]
    if not (rows.y > 0.5).any():
        return {"value": None, "n": len(rows), "interval": None, "reason": "no image has a class"}
    return intervals.bootstrap(lambda chosen: mean_average_precision(found[chosen], rows.y[chosen]), len(rows))


def about(outcome: Outcome) -> dict[str, Any]:
    """Return what is reported of the choice: settings, score on validation, spread over folds and seeds."""
    sets, of_best = outcome.sets, outcome.scores[outcome.best]
    found: dict[str, Any] = {"input": sets.name, "settings": outcome.settings, "heads": outcome.trained}
    found |= {"diverged": outcome.diverged, "seconds": outcome.seconds}
    if outcome.converged is not None:
        found |= {"not_converged": outcome.unconverged, "chosen_converged": outcome.final_converged}
    if sets.folds:
        folds = intervals.spread(of_best.mean(axis=0).tolist(), "folds")
        found["val"], found["folds"] = intervals.over_folds(folds, len(sets.choose), sets.choose.y.ndim == 1), folds
    else:
        found["val"] = measured(outcome.method, outcome.heads[0], sets.choose)
    if outcome.method.seeded:
        found["seeds"] = intervals.spread(of_best.mean(axis=1).tolist(), "seeds")
    edges = _at_edges(outcome)
    return found | ({"at_edge": edges} if edges else {})


def _at_edges(outcome: Outcome) -> list[str]:
    """Return the settings whose chosen value is the smallest or largest of three or more that were tried."""
    found = []
    for name, value in outcome.settings.items():
        tried = sorted({one[name] for one in outcome.method.settings})
        if len(tried) > 2 and value in (tried[0], tried[-1]) and value != 0:
            found.append(name)
    return found


def best_of_each(outcomes: Sequence[Outcome]) -> dict[str, Outcome]:
    """Return {method: its outcome on the input that is best on validation}."""
    best: dict[str, Outcome] = {}
    for one in outcomes:
        if one.method.name not in best or one.score > best[one.method.name].score:
            best[one.method.name] = one
    return best
