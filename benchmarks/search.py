"""Time of `jaxdino search` in embeddings drawn at random: a query, and all pairs exactly and by faiss.

    python -m benchmarks.search --rows 100000 1000000 --pairs 20000 100000

Rows are drawn in clusters, with a near-copy of every tenth row. A query is compared with every row (from the array on
the host to its ten nearest). Near-duplicates at cosine 0.95: time of both ways, and the share of the exact pairs that
faiss finds. `--faiss` rows are too many for all pairs: its time, and the share of the near-copies that it finds.
"""

import argparse
import time

import numpy as np

from jaxdino.core.table import format_table
from jaxdino.evals.knn import neighbours
from jaxdino.retrieval import pairs

COSINE = 0.95


def drawn(rows: int, width: int, seed: int = 0) -> np.ndarray:
    """Return float32 (rows, width): clusters of 100 rows, in which every tenth is nearly the row before it."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(rows // 100 + 1, width)).astype(np.float32)
    values = centres[np.arange(rows) // 100] + rng.normal(size=(rows, width)).astype(np.float32)
    values[1::10] = values[::10][: len(values[1::10])] + 0.1 * rng.normal(size=values[1::10].shape).astype(np.float32)
    return values


def timed(work, *args) -> tuple[float, object]:
    """Return the seconds of a call, and its result."""
    begin = time.perf_counter()
    found = work(*args)
    return time.perf_counter() - begin, found


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--rows", type=int, nargs="*", default=[100_000, 1_000_000], help="rows that a query is compared with"
    )
    parser.add_argument("--pairs", type=int, nargs="*", default=[20_000, 100_000], help="rows of all pairs")
    parser.add_argument("--faiss", type=int, nargs="*", default=[], help="rows that faiss alone pairs")
    parser.add_argument("--width", type=int, default=384)
    args = parser.parse_args()
    lines = [["rows", "one query", "100 queries"]]
    for rows in args.rows:
        values = drawn(rows, args.width)
        neighbours(values[:1000], values[:1], 10)
        lines.append([f"{rows:,}", *(f"{timed(neighbours, values, values[:n], 10)[0]:.2f} s" for n in (1, 100))])
    print(format_table(lines))
    lines = [["rows", "exact", "faiss", "pairs found"]]
    for rows in args.pairs:
        values = drawn(rows, args.width)
        (exact, (cosines, places)), (faiss, (_, others)) = (
            timed(pairs.neighbours, values, e) for e in ("exact", "faiss")
        )
        near = cosines >= COSINE
        found = [np.isin(places[i, near[i]], others[i]).sum() for i in range(rows)]
        lines.append([f"{rows:,}", f"{exact:.1f} s", f"{faiss:.1f} s", f"{sum(found) / near.sum():.4f}"])
    print(format_table(lines))
    lines = [["rows", "faiss", "near-copies", "found"]]
    for rows in args.faiss:
        faiss, (cosines, places) = timed(pairs.neighbours, drawn(rows, args.width), "faiss")
        copies = np.arange(1, rows, 10).reshape(-1, 1)
        hits = ((places[copies[:, 0]] == copies - 1) & (cosines[copies[:, 0]] >= COSINE)).any(axis=1)
        lines.append([f"{rows:,}", f"{faiss:.1f} s", f"{len(copies):,}", f"{hits.mean():.4f}"])
    print(format_table(lines))


if __name__ == "__main__":
    main()
