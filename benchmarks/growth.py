"""Cost as a job grows: `python -m benchmarks.growth [--parts devices images classes checkpoint] [--plot FILE.png]`.

Measures each point in a process of its own, and prints by which factor time and memory grow where the size grows:

devices: the training step of a small ViT with 64 images, on 1 to 8 simulated devices of this machine. They share its
cores, so that a step should take as long on each; memory is that of one device, from the compiled program.
images: a CSV manifest: seconds until it is listed and the first batch is there; memory of the process.
classes: the training step of a head on 4 devices that share it (mesh.fsdp=4); memory of one device.
checkpoint: a state of this size, saved and restored; memory that this takes beside the state.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SIZES = {
    "devices": (1, 2, 4, 8),
    "images": (10**3, 10**4, 10**5, 10**6, 10**7),
    "classes": (10, 10**2, 10**3, 10**4, 10**5),
    "checkpoint": (10**7, 10**8, 10**9, 3 * 10**9),
}
"""Part -> its sizes; of a checkpoint in bytes."""
DEVICES = "--xla_force_host_platform_device_count="
ROUNDS = 7


def stepping(devices: int, classes: int, trainable: str, **axes: int) -> dict[str, float]:
    """Measure a training step: seconds (median), seconds until the first one is done, and bytes of one device."""
    import statistics

    import jax
    from flax import nnx

    from benchmarks.ours import stage_of, uint8_batch
    from jaxdino import optim
    from jaxdino.core import sharding
    from jaxdino.core.params import split
    from jaxdino.data.photometric import normalize
    from jaxdino.models.published.vit import DINOV3
    from jaxdino.models.spec import ModelSpec, Preprocess
    from jaxdino.models.vit import ViTConfig
    from jaxdino.objectives.classify import Classify
    from jaxdino.strategy import resolve
    from jaxdino.train import state, step
    from jaxdino.train.memory import measure

    begin = time.perf_counter()
    config = ViTConfig(patch_size=16, width=192, depth=4, num_heads=3, mlp_dim=768, **DINOV3)
    spec = ModelSpec("small", "dinov3", config, Preprocess(size=(64, 64)))
    mesh, stage = sharding.make_mesh(**axes), stage_of(trainable)
    skeleton, flat = split(spec.build(classes, rngs=nnx.Rngs(0)))
    plan = resolve(spec, skeleton, stage)
    tx = optim.build(plan, stage, stage.steps)
    flat = sharding.put(flat, sharding.shardings(flat, mesh))
    now = state.begin(flat, skeleton, plan, tx, seed=0, mesh=mesh)

    def normalized(key: jax.Array, batch: step.Batch) -> step.Batch:
        return batch | {"image": normalize(batch["image"], (0.5,) * 3, (0.5,) * 3)}

    given = sharding.put_batch(uint8_batch(64, 64) | {"label": uint8_batch(64, 64)["label"] % classes}, mesh)
    jitted = step.compile_train_step(step.make_train_step(skeleton, Classify(), tx, normalized), now, mesh)
    compiled = jitted.lower(now["moving"], now["frozen"], given).compile()
    memory, times = measure(compiled, now, given), []
    for _ in range(ROUNDS + 1):
        times.append(time.perf_counter())
        now["moving"], measured = compiled(now["moving"], now["frozen"], given)
        jax.block_until_ready((now["moving"]["trainable"], measured))
    times.append(time.perf_counter())
    seconds = [after - before for before, after in itertools.pairwise(times)]
    found = {"seconds": statistics.median(seconds[1:]), "start": times[1] - begin}
    return found | ({"bytes": memory.total} if memory else {})


def of_devices(size: int) -> dict[str, float]:
    """Measure full training on so many devices."""
    return stepping(size, 10, "all", data=-1)


def of_classes(size: int) -> dict[str, float]:
    """Measure the training of a head of so many classes."""
    return stepping(4, size, "head", data=1, fsdp=4)


def of_images(size: int) -> dict[str, float]:
    """Measure the start with a manifest of so many images."""
    from benchmarks.large_manifest import make, peak_memory
    from jaxdino.data.config import DataConfig
    from jaxdino.data.pipeline import make_train_iter
    from jaxdino.data.sources import load_source

    with tempfile.TemporaryDirectory() as top:
        file = make(Path(top), size, splits=True)
        before, begin = peak_memory(), time.perf_counter()
        cfg = DataConfig(name="manifest", root=str(file))
        source = load_source(cfg)
        batches = make_train_iter(source.splits["train"], cfg, seed=0, batch_size=64, image_size=32)
        next(batches)
        seconds = time.perf_counter() - begin
        batches.close()
        return {"seconds": seconds, "bytes": (peak_memory() - before) * 2**20}


def of_checkpoint(size: int) -> dict[str, float]:
    """Measure saving and restoring so many bytes, in matrices of 4 MB."""
    import jax
    import jax.numpy as jnp

    from jaxdino.core import sharding
    from jaxdino.core.host_memory import Peak
    from jaxdino.train.checkpoint import Checkpoints, abstract

    count = max(1, size // 2**22)
    mesh = sharding.make_mesh()
    state = {"trainable": {f"layer{i}.kernel": jnp.full((1024, 1024), float(i)) for i in range(count)}}
    where = jax.tree.map(lambda _: sharding.replicated(mesh), state)
    state = jax.block_until_ready(jax.device_put(state, where))
    with tempfile.TemporaryDirectory() as top:
        kept, like = Checkpoints(Path(top) / "checkpoints"), abstract(state, where)
        with Peak() as peak:
            begin = time.perf_counter()
            kept.save(1, state, {})
            kept.wait()
            saved = time.perf_counter()
        jax.block_until_ready(kept.restore(1, like))
        found = {"seconds": saved - begin, "start": time.perf_counter() - saved}
        kept.close()
    return found | ({} if peak.grown is None else {"bytes": peak.grown})


PARTS: dict[str, Callable[[int], dict[str, float]]] = {
    "devices": of_devices,
    "images": of_images,
    "classes": of_classes,
    "checkpoint": of_checkpoint,
}
COLUMNS = {
    "devices": ("step, s", "until the first step, s", "of a device, MB"),
    "images": ("until the first batch, s", "", "MB"),
    "classes": ("step, s", "until the first step, s", "of a device, MB"),
    "checkpoint": ("saved, s", "restored, s", "beside the state, MB"),
}


def table(part: str, found: dict[int, dict[str, float]]) -> str:
    """Format one part; after each figure the factor by which it grew since the line before."""
    from jaxdino.core.table import format_table

    names = [name for name in ("seconds", "start", "bytes") if all(name in one for one in found.values())]
    heads = dict(zip(("seconds", "start", "bytes"), COLUMNS[part], strict=True))
    rows = [(part, *(heads[name] for name in names))]
    last, before = 0, None
    for size, one in found.items():
        cells = []
        for name in names:
            value = one[name] / 2**20 if name == "bytes" else one[name]
            grown = "" if before is None or not before[name] else f" (x {one[name] / before[name]:.1f})"
            cells.append((f"{value:,.0f}" if name == "bytes" else f"{value:,.2f}") + grown)
        rows.append((f"{size:,}" + ("" if before is None else f" (x {size / last:.0f})"), *cells))
        before, last = one, size
    return format_table(rows)


def draw(parts: dict[str, dict[int, dict[str, float]]], file: str) -> None:
    """Plot time and memory over size, both axes logarithmic, with a line that grows as the size does."""
    import matplotlib.pyplot as plt

    figure, grid = plt.subplots(2, len(parts), figsize=(3.4 * len(parts), 6), squeeze=False, layout="constrained")
    for column, (part, found) in zip(grid.T, parts.items(), strict=True):
        for axes, name, unit in zip(column, ("seconds", "bytes"), (1, 2**20), strict=True):
            sizes, values = list(found), [one.get(name, float("nan")) / unit for one in found.values()]
            axes.loglog(sizes, values, "o-")
            axes.loglog(
                sizes, [values[-1] * size / sizes[-1] for size in sizes], ":", color="grey", label="as the size"
            )
            axes.set(title=part if name == "seconds" else None, xlabel="bytes" if part == "checkpoint" else part)
            axes.set_xticks(sizes, [f"{size:g}" for size in sizes])
            axes.minorticks_off()
            axes.set_ylabel("seconds" if name == "seconds" else "MB")
            axes.set_ylim(min(values) / 3, max(values) * 3)
        column[0].legend()
    figure.savefig(file, dpi=110)
    print(file)


def measured(part: str, size: int) -> dict[str, Any]:
    """Measure one point in a process of its own."""
    devices = {"devices": size, "classes": 4}.get(part, 1)
    env = os.environ | {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {DEVICES}{devices}", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "benchmarks.growth", "--alone", part, str(size)]
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Print the tables, and draw the plots."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--parts", nargs="+", choices=tuple(PARTS), default=tuple(PARTS))
    flags.add_argument("--most", type=int, help="leave larger sizes out")
    flags.add_argument("--plot", metavar="FILE")
    flags.add_argument("--alone", nargs=2, help=argparse.SUPPRESS)
    args = flags.parse_args()
    if args.alone:
        part, size = args.alone
        print(json.dumps(PARTS[part](int(size))))
        return
    found: dict[str, dict[int, dict[str, float]]] = {}
    for part in args.parts:
        sizes = [size for size in SIZES[part] if size <= (args.most or size)]
        found[part] = {size: measured(part, size) for size in sizes}
        print(f"\n{table(part, found[part])}", flush=True)
    if args.plot:
        draw(found, args.plot)


if __name__ == "__main__":
    main()
