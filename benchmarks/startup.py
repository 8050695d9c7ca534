"""Compare the time from the command to the end of the first training step with a plain torch script, in seconds.

python -m benchmarks.startup

Ours is `python -m jaxdino.main --config=configs/linear.py` with all it does (config, data, run folder), stopped
after its first step: with an empty cache of compiled programs, and again with what that left there. The peer
imports torch and timm, builds a model of the same size, and takes one step on a random batch; it reads no data.
"""

import os
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
PEER = """
import torch
from benchmarks.harness import allow_timm
allow_timm()
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
"""


def seconds(script: str, *args: str, **environment: str) -> float:
    """Return the time from the start of the process to the line that reports the first step."""
    start = time.perf_counter()
    command = [sys.executable, "-c", script, *args]
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, env=os.environ | environment
        ) as process,
    ):
        for line in process.stdout:
            if line.startswith("first step"):
                return time.perf_counter() - start
        errors.seek(0)
        raise SystemExit(f"the process ended before its first step:\n{errors.read()}")


def main() -> None:
    """Run the benchmark."""
    flags = harness.parser(__doc__, rounds=5)
    flags.add_argument("--config", default="configs/linear.py")
    args = flags.parse_args()
    harness.begin(args)
    times: dict[str, list[float]] = {"jaxdino, cold": [], "jaxdino, cached": [], "torch and timm": []}
    for _ in range(args.rounds):
        with tempfile.TemporaryDirectory() as folder:
            cache = {
                "JAX_COMPILATION_CACHE_DIR": f"{folder}/cache",
                "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            }
            for name, workdir in (("jaxdino, cold", "first"), ("jaxdino, cached", "second")):
                given = (f"--config={args.config}", f"--workdir={folder}/{workdir}")
                times[name].append(seconds(OURS, *given, **cache))
        times["torch and timm"].append(seconds(PEER))
    print(f"\nfrom command to first step, {args.config}; medians of {args.rounds} rounds")
    for name, values in times.items():
        print(f"  {name:<20} {statistics.median(values):6.2f} s   (least {min(values):.2f})")


if __name__ == "__main__":
    main()
