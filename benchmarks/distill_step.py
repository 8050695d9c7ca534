"""Compare one self-distillation step with a plain PyTorch loop of the same method: images/s and peak memory.

python -m benchmarks.distill_step --quick
python -m benchmarks.distill_step --dtype=bfloat16 --method=dinov2 --parts step
python -m benchmarks.distill_step --out-dim=4096 --locals=6 --parts step data memory

Ours takes the batch in slices, which changes nothing about the step (tests/parity/test_distill_trajectory.py).

The step: the teacher on the global crops, the student on all of them, projection heads, losses, backward, clipping of
each gradient, AdamW, the teacher's average. Crops, model, head and threads are the same. The peer is the loop that our
trajectories are tested against (tests/parity/torch_distill.py), around timm's or transformers' model, with fused AdamW,
under autocast in bfloat16.

step    crops that are augmented already, on the device.
data    JPEG files to the update: our iterator and the photometric part inside the step, against torchvision's
        transforms in a DataLoader with as many workers as we have threads. The images are those of
        benchmarks.input_pipeline.
memory  each in a process of its own that takes three steps: its peak, libraries included, and above them.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks import harness
from benchmarks.harness import Contender
from jaxdino.core.host_memory import in_huge_pages
from jaxdino.core.processor import prepare

METHODS = {
    "dino": {},
    "dinov2": dict(ibot=1.0, koleo=0.1),
    "dinov3": dict(ibot=1.0, koleo=0.1, gram=2.0, centring="sinkhorn"),
}
"""Settings that differ from DINO's."""
PARTS = ("step", "data", "memory")
GLOBALS, PATCH, MASKED = 2, 16, (0.1, 0.5)
PEAK = "import resource, subprocess, sys; code = subprocess.run(sys.argv[1:]).returncode; \
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024); sys.exit(code)"


def crops(args: argparse.Namespace) -> dict[str, np.ndarray]:
    """Make a batch of normalised crops (B, V, H, W, 3) and masks (B, G, h, w); half of the views are masked."""
    rng = np.random.default_rng(0)
    side = args.size // PATCH
    sizes = {"global": (GLOBALS, args.size), "local": (args.locals, args.local_size)}
    found = {
        kind: rng.standard_normal((args.batch, views, size, size, 3), np.float32)
        for kind, (views, size) in sizes.items()
        if views
    }
    shares = np.linspace(*MASKED, args.batch)[:, None] * np.array([[1.0, 0.0]])
    order = rng.random((args.batch, GLOBALS, side * side)).argsort(-1)
    mask = order.reshape(args.batch, GLOBALS, side, side) < np.round(shares * side * side)[..., None, None]
    return found | {"mask": mask, "weight": np.ones(args.batch, np.float32)}


def contender(name: str, args: argparse.Namespace) -> Contender:
    """Return the contender "jaxdino" or "<library> <mode>"; nothing is imported for the others."""
    if name == "jaxdino":
        from benchmarks import distill_ours

        return distill_ours.stepping(args, crops(args))
    from benchmarks import distill_peers

    return distill_peers.stepping(*name.split(), args, crops(args))


def names(args: argparse.Namespace) -> list[str]:
    """Return the names of all contenders."""
    libraries = ("timm", "transformers") if args.model.startswith("dinov3_vit") else ("timm",)
    modes = ("eager",) if args.quick else ("eager", "compile")
    return ["jaxdino", *(f"{library} {mode}" for library in libraries for mode in modes)]


def memory(args: argparse.Namespace, chosen: Sequence[str]) -> None:
    """Print the peaks, and the ratio of ours to the lowest peer's."""
    peaks = {}
    for name in chosen:
        given = [sys.executable, "-m", "benchmarks.distill_step", *sys.argv[1:]]
        both = [peak([*given, "--alone", name, "--steps", str(steps)]) for steps in (0, 3)]
        peaks[name] = both[1], both[1] - both[0]
    print(f"\npeak memory of a process, MB: {title(args)}")
    for name, (full, above) in peaks.items():
        print(f"  {name:<36} {full / 1e6:9.0f}, above the libraries {above / 1e6:9.0f}")
    lowest = min((name for name in peaks if name != "jaxdino"), key=lambda name: peaks[name][0])
    shares = [mine / theirs for mine, theirs in zip(peaks["jaxdino"], peaks[lowest], strict=True)]
    print(f"  ratio {shares[0]:.2f}, above the libraries {shares[1]:.2f}: jaxdino against {lowest}")


def peak(command: Sequence[str]) -> int:
    """Run a command; return the largest memory of its process, in bytes."""
    done = subprocess.run([sys.executable, "-c", PEAK, *command], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return int(done.stdout.split()[-1])


def begin_alone(args: argparse.Namespace, ours: bool) -> None:
    """Begin a process whose peak is measured: on the given cores, and with its memory as in a run, if it is ours."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.threads or None])
    os.environ["NPROC"] = str(harness.cores())
    if ours:
        in_huge_pages()
        prepare()  # and where there are none


def alone(args: argparse.Namespace) -> None:
    """Run a process for `memory`: import, then take some steps of one contender."""
    begin_alone(args, ours=args.alone == "jaxdino")
    if args.steps:
        one = contender(args.alone, args)
        for _ in range(args.steps):
            one.run()
    elif args.alone == "jaxdino":
        from benchmarks import distill_ours

        distill_ours.idle()
    else:
        from benchmarks import distill_peers

        distill_peers.idle(args.alone.split()[0])


def with_data(args: argparse.Namespace) -> None:
    """Time the path from files to updates."""
    from benchmarks import distill_ours, distill_peers
    from benchmarks.input_pipeline import make_images
    from jaxdino.data.config import DataConfig
    from jaxdino.data.sources import load_source

    with tempfile.TemporaryDirectory() as made:
        if args.root is None:
            make_images(Path(made), max(96, 3 * args.batch))
        split = load_source(DataConfig(name="images", root=args.root or made)).split("train")
        workers = args.workers or harness.cores()
        contenders = [distill_ours.from_files(args, split, workers, crops(args))]
        for name in names(args)[1:]:
            contenders.append(distill_peers.from_files(*name.split(), args, list(split.records), workers, crops(args)))
        harness.report(f"with the data in, {title(args)}", contenders, harness.alternate(contenders, args.rounds))


def title(args: argparse.Namespace) -> str:
    """Describe what is timed."""
    views = f"{GLOBALS} x {args.size} + {args.locals} x {args.local_size}"
    batch = f"batch {args.batch} (ours in {args.slices} slices)" if args.slices > 1 else f"batch {args.batch}"
    return f"{args.method} step, {args.model}, {views}, {args.out_dim} prototypes, {batch}, {args.dtype}"


def main() -> None:
    """Run the benchmark."""
    flags = harness.parser(__doc__, batch=16, rounds=7)
    flags.add_argument("--model", default="dinov3_vits16")
    flags.add_argument("--method", choices=tuple(METHODS), default="dino")
    flags.add_argument("--size", type=int, default=224, help="of the global crops, pixels")
    flags.add_argument("--local-size", type=int, default=96)
    flags.add_argument("--locals", type=int, default=8, help="local crops")
    flags.add_argument("--out-dim", type=int, default=65536, help="prototypes")
    flags.add_argument("--slices", type=int, default=4, help="ours takes the batch in so many (optimizer.accumulate)")
    flags.add_argument("--attention", choices=("xla", "cudnn"), default="xla", help="cudnn: on an NVIDIA GPU")
    flags.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    flags.add_argument("--root", help="a folder of images for `data`; by default one is made")
    flags.add_argument("--workers", type=int, default=0, help="for `data`; 0: one per core")
    flags.add_argument("--alone", help=argparse.SUPPRESS)
    flags.add_argument("--steps", type=int, default=0, help=argparse.SUPPRESS)
    args = flags.parse_args()
    if args.alone:
        alone(args)
        return
    if len(args.parts) > 1:  # each in a process of its own
        for part in args.parts:
            subprocess.run(
                [sys.executable, "-m", "benchmarks.distill_step", *sys.argv[1:], "--parts", part], check=True
            )
        return
    if args.parts[0] == "data":  # torch's threads spin while they wait: many times slower beside a loader's workers
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    harness.begin(args)
    if args.parts[0] == "memory":
        memory(args, names(args))
    elif args.parts[0] == "data":
        with_data(args)
    else:
        contenders = [contender(name, args) for name in names(args)]
        harness.report(title(args), contenders, harness.alternate(contenders, args.rounds))


if __name__ == "__main__":
    main()
