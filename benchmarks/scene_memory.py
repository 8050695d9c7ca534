"""Peak memory of `segment` on a large GeoTIFF that is read in strips, against its size.

    python -m benchmarks.scene_memory --sides 3000 12000

The model is a small random ViT (windows of 512 pixels, patches of 32, 8 classes), so that the time is that of the rest.
A scene is blocks of colours drawn at random, in a tiled, compressed TIFF.
"""

import argparse
import dataclasses
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tifffile

from convert.card import Card
from convert.store import save_model
from jaxdino.models.heads.patches import PatchesHeadConfig
from jaxdino.models.published import vit
from jaxdino.models.vit import ViTConfig

TILE, BLOCK = 512, 64

CHILD = """
import json, resource, sys
from jaxdino import segment
code = segment.main(sys.argv[1:])
print(json.dumps({"rc": code, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))
"""


def tiles(side: int) -> Iterator[np.ndarray]:
    """Yield the tiles of a scene, uint8 (TILE, TILE, 3)."""
    draw = np.random.default_rng(0)
    for _ in range((-(-side // TILE)) ** 2):
        blocks = draw.integers(0, 256, (TILE // BLOCK, TILE // BLOCK, 3), np.uint8)
        yield blocks.repeat(BLOCK, axis=0).repeat(BLOCK, axis=1)


def save_random(folder: Path) -> None:
    """Write the model."""
    config = ViTConfig(patch_size=32, width=32, depth=1, num_heads=2, mlp_dim=64, **vit.DINOV3)
    how = dataclasses.replace(vit.DIGITS.preprocess, size=(512, 512))
    spec = dataclasses.replace(vit.DIGITS, name="random", config=config, preprocess=how, last_layers=1)
    head, draw = PatchesHeadConfig(8), np.random.default_rng(0)
    entries = spec.skeleton(head=head).entries
    flat = {path: draw.normal(0, 0.3, entry.shape).astype(np.float32) for path, entry in entries.items()}
    save_model(folder / "best", Card(spec, head, tuple(map(str, range(8)))), flat)


def measured(workdir: str, side: int, folder: Path) -> dict[str, float]:
    """Return the seconds and the peak memory, in bytes, of a process that segments a scene at its own size."""
    scene = folder / f"{side}.tif"
    tifffile.imwrite(
        scene, tiles(side), shape=(side, side, 3), dtype=np.uint8, photometric="rgb", tile=(TILE, TILE),
        compression="zlib",
    )  # fmt: skip
    given = ["--workdir", workdir, "--short_side", "0", "--out", str(folder / f"out_{side}"), str(scene)]
    start = time.perf_counter()
    # a low limit: a scene of 3000 pixels a side is read in strips too
    command = [sys.executable, "-c", CHILD, "--max_pixels", "8000000", *given]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found = json.loads(done.stdout.splitlines()[-1])
    if found["rc"]:
        raise SystemExit(f"the scene of {side} pixels was not segmented")
    return {"seconds": time.perf_counter() - start, "peak": found["peak"]}


def main() -> None:
    """Print a row for each size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sides", type=int, nargs="+", default=[3000, 12000])
    args = parser.parse_args()
    print("pixels a side    MB of RGB    peak MB of the process    s", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        save_random(Path(folder) / "run")
        for side in args.sides:
            found = measured(str(Path(folder) / "run"), side, Path(folder))
            print(
                f"{side:13} {3 * side * side / 1e6:12.0f} {found['peak'] / 1e6:25.0f} {found['seconds']:4.0f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
