"""Large models on many devices, on paper: `python -m benchmarks.scale --models dinov3_vit7b16 --devices 8 64 256`.

Compiles training steps for simulated devices, from shapes alone, on any machine: no weight is allocated, no step is
taken. Prints from the compiled program the bytes of one device by part, what it sends by kind of collective, and its
floating-point operations; and from those and the data sheets in `benchmarks/chips.py` the time of a step on two
accelerators. The shorter one is the largest of operations at the full matrix rate, memory traffic of the weights, and
sending, if they overlap perfectly; the longer one is operations plus sending, if they do not overlap.

The program is a CPU's, so that activations and what is sent are upper bounds: it computes and sends half-precision
values as float32, and an accelerator's compiler sums gradients straight into their shards (reduce-scatter).
"""

import argparse
import dataclasses
import itertools
import json
import os
import subprocess
import sys
import time

METHODS = ("probe", "lora", "full", "distill")
FLAGS = "--xla_backend_optimization_level=0 --xla_cpu_enable_concurrency_optimized_scheduler=false"
"""LLVM's optimisations change neither the sizes nor the operations of the program; and operations are ordered for
little memory, as an accelerator's compiler does, not for many threads."""


def measured(args: argparse.Namespace) -> dict:
    """Compile one case; return its figures."""
    import jax

    from benchmarks.chips import CHIPS
    from benchmarks.collectives import by_kind, collectives
    from benchmarks.scale_step import shapes
    from jaxdino.core import sharding
    from jaxdino.train.memory import measure

    (model,), (method,), (devices,) = args.models, args.methods, args.devices
    mesh = sharding.make_mesh(-1, min(args.fsdp, devices // args.tensor), tensor=args.tensor)
    images = args.batch * sharding.batch_shards(mesh)
    case = shapes(model, method, mesh, images, dtype=args.dtype, remat=args.remat, size=args.size)
    begin = time.perf_counter()
    compiled = case.compiled()
    found, memory = collectives(compiled.as_text(), devices), measure(compiled, case.now, case.batch)
    assert memory is not None
    flops = compiled.cost_analysis()["flops"]
    traffic = 3 * memory.weights + 2 * memory.optimizer + 2 * memory.copies  # read forward and backward, updated
    steps = {}
    for chip in CHIPS:
        work, sent = flops / chip.flops, chip.sending(found)
        steps[chip.name] = (max(work, traffic / chip.bandwidth, sent), work + sent, memory.total <= chip.memory)
    return {
        "mesh": dict(mesh.shape),
        "seconds": time.perf_counter() - begin,
        "memory": dataclasses.asdict(memory) | {"total": memory.total},
        "sent": by_kind(found),
        "flops": flops,
        "steps": steps,
        "platform": jax.default_backend(),
    }


def row(model: str, method: str, devices: int, found: dict) -> tuple[str, ...]:
    """Format one case."""

    def gb(count: float) -> str:
        return f"{count / 1e9:.1f}" if count >= 5e7 else f"{count / 1e9:.2f}"

    memory, sent = found["memory"], found["sent"]
    state = memory["weights"] + memory["optimizer"] + memory["copies"]
    parts = (state, memory["gradients"], memory["activations"], memory["total"])
    kinds = ", ".join(f"{kind} {gb(size)}" for kind, size in sent.items()) or "-"
    steps = [
        f"{1e3 * best:,.0f} to {1e3 * worst:,.0f}" + ("" if fits else " (does not fit)")
        for best, worst, fits in found["steps"].values()
    ]
    mesh = " x ".join(str(size) for size in found["mesh"].values())
    return (model, method, str(devices), mesh, *map(gb, parts), f"{found['flops'] / 1e12:.1f}", kinds, *steps)


def one(model: str, method: str, devices: int, how: list[str]) -> tuple[str, ...]:
    """Compile one case in a process of its own, with so many devices; return its row."""
    case = ["--alone", "--models", model, "--methods", method, "--devices", str(devices), *how]
    more = {"XLA_FLAGS": f"{FLAGS} --xla_force_host_platform_device_count={devices}", "TF_CPP_MIN_LOG_LEVEL": "3"}
    env = os.environ | {"JAX_PLATFORMS": "cpu"} | more
    command = [sys.executable, "-m", "benchmarks.scale", *case]
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"{model} {method} on {devices} devices: see the error above")
    found = json.loads(done.stdout.splitlines()[-1])
    print(f"{model} {method} {devices}: compiled in {found['seconds']:.0f} s", file=sys.stderr)
    return row(model, method, devices, found)


def main() -> None:
    """Print the table."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--models", nargs="+", default=["dinov3_vit7b16", "dinov3_vitl16"])
    flags.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    flags.add_argument("--devices", nargs="+", type=int, default=[8, 64, 256])
    flags.add_argument("--batch", type=int, default=16, help="images for each part of the batch (data x fsdp parts)")
    flags.add_argument("--size", type=int, default=224, help="pixels a side")
    flags.add_argument("--fsdp", type=int, default=8)
    flags.add_argument("--tensor", type=int, default=1)
    flags.add_argument("--dtype", default="bfloat16")
    flags.add_argument("--remat", action=argparse.BooleanOptionalAction, default=True)
    flags.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    args = flags.parse_args()
    if args.alone:
        print(json.dumps(measured(args)))
        return
    from jaxdino.core.table import format_table

    head = ("model", "method", "devices", "data x fsdp x tensor", "state GB", "gradients", "activations", "total")
    rows = [(*head, "TFLOP", "sent by a device, GB", "step on H100, ms", "on TPU v5p, ms")]
    how = [f"--{name}={getattr(args, name)}" for name in ("batch", "size", "fsdp", "tensor", "dtype")]
    how.append("--remat" if args.remat else "--no-remat")
    cases = itertools.product(args.models, args.methods, args.devices)
    try:
        for case in cases:
            rows.append(one(*case, how))
    finally:  # what was compiled before an error or Ctrl-C
        print(format_table(rows))


if __name__ == "__main__":
    main()
