"""Compare the time from the command to the end of the first training step with a plain torch script.

python -m benchmarks.startup

Ours is `python -m jaxdino.main --config=configs/linear.py` with all it does (config, data, run folder), stopped
after its first step: with an empty cache of compiled programs, and again with what that left there. The peer
imports torch and timm, builds a model of the same size, and takes one step on a random batch; it reads no data.
Times are those of the clock, and of the processors (all threads): other work on the machine changes the second less.
"""

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time

from benchmarks import harness

OURS = """
import os, sys
from absl import app, flags
from jaxdino import main
from jaxdino.train import loop

def stop(step):
    print("first step", flush=True)
    os._exit(0)

run = loop.run
loop.run = lambda config, workdir=None, on_step=None, name="run": run(config, workdir, stop, name)
app.run(main.main)
"""
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}  # the default cache
PEER = """
import os
import torch
from benchmarks.harness import allow_torchvision
allow_torchvision()
import timm
model = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=4, embed_dim=96, depth=6, num_heads=3,
                          num_classes=10)
model.requires_grad_(False)
model.head.requires_grad_(True)
optimizer = torch.optim.AdamW(model.head.parameters())
images, labels = torch.rand(64, 3, 32, 32), torch.randint(0, 10, (64,))
torch.nn.functional.cross_entropy(model(images), labels).backward()
optimizer.step()
print("first step", flush=True)
os._exit(0)
"""


def seconds(script: str, *args: str, **environment: str) -> tuple[float, float]:
    """Return the seconds from the start of the process to the line that reports the first step: clock, processors."""
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-c", script, *args]
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, env=ENVIRONMENT | environment
        ) as process,
    ):
        for line in process.stdout:
            if line.startswith("first step"):
                clock = time.perf_counter() - start
                process.wait()  # which ends at once
                after = resource.getrusage(resource.RUSAGE_CHILDREN)
                return clock, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        errors.seek(0)
        raise SystemExit(f"the process ended before its first step:\n{errors.read()}")


def main() -> None:
    """Run the benchmark."""
    flags = harness.parser(__doc__, rounds=5)
    flags.add_argument("--config", default="configs/linear.py")
    args = flags.parse_args()
    harness.begin(args)
    times: dict[str, list[tuple[float, float]]] = {"jaxdino, cold": [], "jaxdino, cached": [], "torch and timm": []}
    for _ in range(args.rounds):
        with tempfile.TemporaryDirectory() as folder:
            for name, workdir in (("jaxdino, cold", "first"), ("jaxdino, cached", "second")):
                given = (f"--config={args.config}", f"--workdir={folder}/{workdir}")
                times[name].append(seconds(OURS, *given, XDG_CACHE_HOME=folder))
        times["torch and timm"].append(seconds(PEER))
    print(f"\nfrom command to first step, {args.config}; medians of {args.rounds} rounds")
    peer = [statistics.median(kind) for kind in zip(*times["torch and timm"], strict=True)]
    for name, values in times.items():
        clock, processors = (statistics.median(kind) for kind in zip(*values, strict=True))
        print(
            f"  {name:<16} {clock:6.2f} s by the clock ({clock / peer[0]:.2f} x the peer's), "
            f"{processors:6.2f} s of processors ({processors / peer[1]:.2f} x)"
        )


if __name__ == "__main__":
    main()
