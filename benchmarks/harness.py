"""Shared code of the benchmarks: flags, alternating rounds, medians, the table, the machine's description.

The contenders take turns within one process, on the same threads: a temporary slowdown of the machine affects all of
them, so ratios are more stable than times.
"""

import argparse
import dataclasses
import importlib.metadata
import os
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

from jaxdino.core.processor import prepare

DTYPES = ("float32", "bfloat16")
_clock = [time.perf_counter]
_libraries = []  # a torch Library unregisters its operators when it is garbage-collected


@dataclasses.dataclass(frozen=True)
class Contender:
    """A function to time: `run()` does `work` units (images, steps) and returns when they are done."""

    name: str
    run: Callable[[], object]
    work: float
    peer: bool = True  # PyTorch; False is ours


def parser(doc: str, **defaults: int) -> argparse.ArgumentParser:
    """Return a parser with the flags of all benchmarks; `defaults` overrides batch and rounds."""
    found = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--batch", type=int, default=defaults.get("batch", 8))
    found.add_argument("--dtype", choices=DTYPES, default="float32", help="of the computation")
    found.add_argument("--rounds", type=int, default=defaults.get("rounds", 15), help="timed turns of each")
    found.add_argument("--threads", type=int, default=0, help="cores for each; 0: all there are")
    found.add_argument(
        "--cpu-time", action="store_true", help="one thread, by its processor time: on a machine that others use"
    )
    found.add_argument("--quick", action="store_true", help="three rounds, and no peer that compiles")
    return found


def begin(args: argparse.Namespace) -> None:
    """Give JAX and torch the same cores, and print the machine's line. Call it before the first JAX array."""
    warnings.simplefilter("ignore")
    if args.quick:
        args.rounds = min(args.rounds, 3)
    if args.cpu_time:
        args.threads, _clock[:] = 1, [time.process_time]
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.threads or None])
    os.environ["NPROC"] = str(cores())  # the size of XLA's thread pool
    prepare()  # as our commands do without huge pages: faster for the peers, which are in this process too
    import torch

    torch.set_num_threads(cores())
    print(machine() + (", processor time" if args.cpu_time else ""))


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0))


def machine() -> str:
    """Describe processor, cores, accelerator if any, and versions in one line."""
    import jax

    version = importlib.metadata.version
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    fields = dict(line.split(":", 1) for line in info.splitlines() if ":" in line)
    fields = {name.strip(): value.strip() for name, value in fields.items()}
    model = fields.get("model name", platform.processor())
    kind = " (AVX512-BF16)" if "avx512_bf16" in fields.get("flags", "") else ""
    device = jax.devices()[0]
    accelerator = "" if device.platform == "cpu" else f", {jax.device_count()} x {device.device_kind}"
    packages = ", ".join(f"{name} {version(name)}" for name in ("jax", "torch", "timm", "transformers"))
    return f"machine: {model}{kind}, {cores()} threads{accelerator}; Python {platform.python_version()}, {packages}"


def allow_torchvision() -> None:
    """Allow importing timm and transformers with a torchvision without operators (its wheels may be for CUDA)."""
    import torch

    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "DEF")
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _libraries.append(library)


def alternate(contenders: Sequence[Contender], rounds: int, seconds: float = 0.5) -> dict[str, list[float]]:
    """Time the contenders in turns; the order is reversed in every other round.

    A turn is one warm-up call, which is not counted, followed by calls for about `seconds`; their median is used.

    Returns:
      {name: seconds per call in each round}.
    """
    calls = {}
    for it in contenders:  # compiles, and warms up
        it.run()
        calls[it.name] = max(1, min(20, round(seconds / _timed(it.run))))
    times: dict[str, list[float]] = {it.name: [] for it in contenders}
    for turn in range(rounds):
        for it in contenders if turn % 2 == 0 else reversed(contenders):
            it.run()
            times[it.name].append(statistics.median(_timed(it.run) for _ in range(calls[it.name])))
    return times


def _timed(run: Callable[[], object]) -> float:
    start = _clock[0]()
    run()
    return _clock[0]() - start


def report(title: str, contenders: Sequence[Contender], times: dict[str, list[float]], unit: str = "images/s") -> None:
    """Print a table of medians, and the ratio of each of ours to the fastest peer; above 1 we are faster.

    The ratio is the median over the rounds of (peer's time / our time), both of the same round.
    """
    print(f"\n{title}; medians of {len(next(iter(times.values())))} rounds")
    medians = {it.name: statistics.median(times[it.name]) / it.work for it in contenders}
    for it in contenders:
        print(f"  {it.name:<36} {medians[it.name] * it.work * 1e3:9.2f} ms {1 / medians[it.name]:10.1f} {unit}")
    peer = min((it for it in contenders if it.peer), key=lambda it: medians[it.name])
    for it in contenders:
        if not it.peer:
            pairs = zip(times[peer.name], times[it.name], strict=True)
            ratios = [theirs / peer.work * it.work / mine for theirs, mine in pairs]
            low, middle, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
            print(f"  ratio {middle:.2f} (quartiles {low:.2f} to {high:.2f}): {it.name} against {peer.name}")
