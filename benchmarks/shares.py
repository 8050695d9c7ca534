"""Throughput of one worker against two on the same cores: `python -m benchmarks.shares`.

Random weights, generated JPEG files. Prints for `jaxdino predict` in one process, in two with `--shard`, and with
`launch.ray_predict` and one and two workers: the seconds of the whole command and the images a second, start included.
"""

import argparse
import dataclasses
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[1]


def make(top: Path, model: str, images: int, side: int) -> None:
    """Write a model for images of that side, and images four times as large."""
    from convert.store import Card, save_model
    from jaxdino.core.params import split
    from jaxdino.models.registry import get

    spec = get(model)
    spec = dataclasses.replace(spec, preprocess=dataclasses.replace(spec.preprocess, size=(side, side)))
    flat = {path: np.asarray(leaf) for path, leaf in split(spec.build(10))[1].items()}
    save_model(top / "run", Card(spec, spec.linear(10), class_names=tuple("abcdefghij")), flat)
    (top / "photos").mkdir()
    draw = np.random.default_rng(0)
    for number in range(100):
        coarse = draw.integers(0, 256, (side // 4, side // 4, 3), np.uint8)
        Image.fromarray(coarse).resize((4 * side, 4 * side)).save(top / "photos" / f"{number:06d}.jpg")
    for number in range(100, images):
        os.link(top / "photos" / f"{number % 100:06d}.jpg", top / "photos" / f"{number:06d}.jpg")


def run(top: Path, commands: list[list[str]]) -> float:
    """Run commands at the same time; return the seconds until the last one ends."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    env = os.environ | {"PYTHONPATH": path, "RAY_USAGE_STATS_ENABLED": "0", "TMPDIR": "/tmp"}  # short paths for Ray
    begin = time.monotonic()
    started = [
        subprocess.Popen(
            [sys.executable, "-m", *one], cwd=top, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        for one in commands
    ]
    for one in started:
        _, said = one.communicate()
        if one.returncode:
            raise SystemExit(said.decode()[-2000:])
    return time.monotonic() - begin


def main() -> None:
    """Print a line for each way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="dinov3_vits16")
    parser.add_argument("--images", type=int, default=4096, help="a multiple of 2,048: two processes then do the same")
    parser.add_argument(
        "--side", type=int, default=64, help="pixels of the model's images; files have four times as many"
    )
    parser.add_argument("--ways", default="one,two,ray1,ray2", help="which of them, separated by commas")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        top = Path(folder)
        make(top, args.model, args.images, args.side)
        predict = ["jaxdino.predict", "--workdir", "run", "photos", "--out"]
        ray = ["launch.ray_predict", "--workdir", "run", "photos"]
        ways = {
            "one": [[*predict, "one.csv"]],
            "two": [[*predict, "two.csv", "--shard", f"{index}/2"] for index in (1, 2)],
            "ray1": [[*ray, "--workers", "1", "--parts", "4", "--out", "ray1.csv"]],
            "ray2": [[*ray, "--workers", "2", "--parts", "4", "--out", "ray2.csv"]],
        }
        run(top, [[*predict, "warm.csv", "--overwrite"]])  # compiled programs are kept, and files are in memory
        for name in args.ways.split(","):
            seconds = run(top, ways[name])
            same = (top / f"{name}.csv").read_bytes() == (top / "warm.csv").read_bytes()
            print(f"{name}: {seconds:.1f} s, {args.images / seconds:.0f} images/s, same table: {same}", flush=True)


if __name__ == "__main__":
    main()
