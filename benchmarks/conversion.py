"""Compare import and export of a large sharded checkpoint with copying its files: time and peak memory.

python -m benchmarks.conversion

The checkpoint is made here: DINOv3 7B's blocks, as many as fill --gigabytes, random, in Hugging Face's layout.
Copy, import and export take turns, each a whole process and on disk (synchronised) when its clock stops. Memory is
that of the process at its peak, its imports included, as a share of the largest shard.
"""

import argparse
import dataclasses
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.harness import machine
from convert.export import export_json
from convert.head_keys import bound_table
from convert.lazy_array import LazyArray
from convert.store import Card
from convert.writers import write_safetensors
from jaxdino.models import registry

BLOCK_BYTES = 672_000_000
PEAK = "import resource, subprocess, sys; code = subprocess.run(sys.argv[1:]).returncode; \
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024); sys.exit(code)"


def make(folder: Path, gigabytes: float, shard_bytes: int) -> None:
    """Write the checkpoint."""
    spec = registry.get("dinov3_vit7b16")
    depth = max(1, round(gigabytes * 1e9 / BLOCK_BYTES))
    spec = dataclasses.replace(spec, name="dinov3_custom", config=dataclasses.replace(spec.config, depth=depth))
    rng = np.random.default_rng(0)
    flat = {
        path: LazyArray(entry.shape, entry.dtype, lambda shape=entry.shape: rng.standard_normal(shape, np.float32))
        for path, entry in spec.skeleton().entries.items()
    }
    write_safetensors(folder, bound_table(spec, "hf").write(flat), max_shard_bytes=shard_bytes)
    export_json(Card(spec), "hf", "float32", folder)


def run(*command: str, into: Path) -> tuple[float, float]:
    """Run a command; return (seconds until its output is on disk, peak bytes)."""
    shutil.rmtree(into, ignore_errors=True)
    os.sync()
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", PEAK, *command], capture_output=True, text=True, check=True)
    subprocess.run(["sync", "-f", str(into)], check=True)
    return time.perf_counter() - start, float(done.stdout.split()[-1])


def main() -> None:
    """Print a line for copy, import and export."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=3.36)
    parser.add_argument("--shard", type=float, default=1.0, help="size of a shard in gigabytes")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tmp", help="where to write: four times --gigabytes")
    args = parser.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory(dir=args.tmp) as folder:
        src, copy, ours, out = (Path(folder) / name for name in ("src", "copy", "ours", "out"))
        make(src, args.gigabytes, int(args.shard * 1e9))
        largest = max(file.stat().st_size for file in src.iterdir())
        convert = (sys.executable, "-m", "convert")
        work = {
            "copy": (("cp", "-r", str(src), str(copy)), copy),
            "import": ((*convert, "import", str(src), "--out", str(ours)), ours),
            "export": ((*convert, "export", str(ours), "--out", str(out), "--max_shard_size", str(args.shard)), out),
        }
        found = {name: [] for name in work}
        for _ in range(args.rounds):
            for name, (command, into) in work.items():
                found[name].append(run(*command, into=into))
    copied = [seconds for seconds, _ in found["copy"]]
    for name, rounds in found.items():
        speed = statistics.median(base / seconds for base, (seconds, _) in zip(copied, rounds, strict=True))
        seconds, peak = statistics.median(s for s, _ in rounds), max(bytes for _, bytes in rounds)
        print(f"{name:<8}{seconds:7.1f} s   {speed:5.2f} x copy's speed   peak {peak / largest:5.2f} x largest shard")


if __name__ == "__main__":
    main()
