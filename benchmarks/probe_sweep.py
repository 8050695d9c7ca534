"""Time of many linear heads trained at once, against one head, and against as many runs of a PyTorch loop.

    python -m benchmarks.probe_sweep --width 384 --heads 64

Features drawn at random, 10 classes, SGD with momentum in minibatches of 128. `jaxdino probe --methods linear` trains
its heads by this code. A PyTorch run is `torch.nn.Linear` with `torch.optim.SGD` on features in memory, one head at a
time: by indexing a tensor, the fastest form, and through a `DataLoader` of a `TensorDataset`, as training scripts do.
Neither side reads images or starts a process in the time that is measured.
"""

import itertools
import statistics
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from benchmarks import harness

CLASSES, BATCH = 10, 128


def features(rows: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return standardised features (N, D) and classes (N,)."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, CLASSES, rows).astype(np.int32)
    x = rng.normal(size=(rows, width)) + 0.5 * rng.normal(size=(CLASSES, width))[y]
    return ((x - x.mean(axis=0)) / x.std(axis=0)).astype(np.float32), y


def ours(x: np.ndarray, y: np.ndarray, heads: int, steps: int) -> harness.Contender:
    """Train `heads` heads by `linear_heads`."""
    import jax

    from jaxdino.evals.linear_heads import Cells, train_heads

    cells = Cells.of(np.geomspace(1e-4, 0.1, heads), np.full(heads, 1e-3))

    def run() -> None:
        jax.block_until_ready(train_heads(x, y, cells, num_classes=CLASSES, steps=steps, batch_size=BATCH))

    return harness.Contender(f"jaxdino, {heads} heads", run, work=heads, peer=False)


def indexed(data: Any, labels: Any) -> Iterator[tuple[Any, Any]]:
    """Yield minibatches without end, by indexing shuffled rows."""
    import torch

    generator, order = torch.Generator().manual_seed(0), torch.empty(0, dtype=torch.long)
    while True:
        if len(order) < BATCH:
            order = torch.randperm(len(data), generator=generator)
        rows, order = order[:BATCH], order[BATCH:]
        yield data[rows], labels[rows]


def loaded(data: Any, labels: Any) -> Iterator[tuple[Any, Any]]:
    """Yield minibatches without end, from a DataLoader without workers."""
    from torch.utils.data import DataLoader, TensorDataset

    loader = DataLoader(TensorDataset(data, labels), min(BATCH, len(data)), shuffle=True, drop_last=True)
    while True:
        yield from loader


def torch_run(x: np.ndarray, y: np.ndarray, steps: int, batches: Callable, name: str) -> harness.Contender:
    """Train one head by PyTorch, on minibatches from `batches`."""
    import torch

    data, labels = torch.from_numpy(x), torch.from_numpy(y).long()

    def run() -> None:
        head = torch.nn.Linear(x.shape[1], CLASSES)
        groups = [{"params": [head.weight], "weight_decay": 1e-3}, {"params": [head.bias]}]
        optimizer = torch.optim.SGD(groups, lr=0.05, momentum=0.9)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for features, classes in itertools.islice(batches(data, labels), steps):
            loss = torch.nn.functional.cross_entropy(head(features), classes)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()

    return harness.Contender(name, run, work=1)


def main() -> None:
    """Print the times, and both ratios with their quartiles."""
    flags = harness.parser(__doc__, rounds=7)
    flags.add_argument("--width", type=int, default=384)
    flags.add_argument("--rows", type=int, default=10_000)
    flags.add_argument("--heads", type=int, default=64)
    flags.add_argument("--steps", type=int, default=256)
    args = flags.parse_args()
    harness.begin(args)
    x, y = features(args.rows, args.width)
    one, many = ours(x, y, 1, args.steps), ours(x, y, args.heads, args.steps)
    peers = [
        torch_run(x, y, args.steps, batches, f"PyTorch, one head, {name}")
        for batches, name in ((indexed, "indexing"), (loaded, "DataLoader"))
    ]
    times = harness.alternate([one, many, *peers], args.rounds)
    title = f"{args.steps} steps of {args.heads} heads of {CLASSES} classes, {args.width} features, batch {BATCH}"
    harness.report(title, [one, many, *peers], times, "heads/s")
    for other, count in ((one, 1), *((peer, args.heads) for peer in peers)):
        pairs = zip(times[many.name], times[other.name], strict=True)
        low, middle, high = statistics.quantiles([mine / (count * theirs) for mine, theirs in pairs], n=4)
        what = f"1 / {1 / middle:.0f} of" if middle < 1 else f"{middle:.3g} x"
        print(f"  {args.heads} heads cost {what} {count} x {other.name} (quartiles {low:.3g} to {high:.3g})")


if __name__ == "__main__":
    main()
