"""How much of the host loading takes beside what is kept: `python -m tests.train.streamed_memory FOLDER`.

Prints, for each way of loading, the peak less the model, as a share of the largest leaf (67 MB in float32). On a CPU
the devices' memory is that of the process, so what is kept is the model. MALLOC_MMAP_THRESHOLD_=65536 has freed memory
given back.
"""

import dataclasses
import gc
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from convert.card import Card
from convert.head_keys import bound_table
from convert.store import load_sharded, save_model
from convert.writers import write_safetensors
from jaxdino import api
from jaxdino.core.host_memory import Peak
from jaxdino.core.sharding import make_mesh
from jaxdino.models.heads import NO_HEAD
from jaxdino.models.rope import rope_periods
from jaxdino.train import weights
from jaxdino.train.placing import OnMesh
from tests.train import tiny

HEADS = 16
CONFIG = dataclasses.replace(tiny.SPEC.config, width=1024, mlp_dim=16384, depth=1, num_heads=HEADS)
SPEC = dataclasses.replace(tiny.SPEC, name="dinov3_custom", config=CONFIG)
LARGEST = 4 * CONFIG.width * CONFIG.mlp_dim  # bytes, in float32


def write(folder: Path) -> None:
    """Write the same weights in Hugging Face's layout, in float32 and float16, and in our own format."""
    flat = {path: np.ones(entry.shape, np.float32) for path, entry in SPEC.skeleton().entries.items()}
    flat["backbone.rope.periods"] = rope_periods(CONFIG.head_dim, CONFIG.rope_base)
    flat["backbone.blocks.0.attn.qkv.bias"][1024:2048] = 0  # DINOv3 has no bias for keys
    half = {path: leaf.astype(np.float16) for path, leaf in flat.items()}
    for name, leaves in (("float32", flat), ("float16", half)):
        write_safetensors(folder / name, bound_table(SPEC, "hf").write(leaves), max_shard_bytes=10**12)
    save_model(folder / "own", Card(SPEC, NO_HEAD, source={"path": "ones"}), flat)


def share(load: Callable[[], Mapping[str, jax.Array]]) -> float | None:
    """Return the memory beside the model at the peak over `LARGEST`; None where the system does not tell it."""
    gc.collect()
    with Peak() as peak:
        flat = load()
    if peak.grown is None:
        return None
    kept = sum(shard.data.nbytes for leaf in flat.values() for shard in leaf.addressable_shards)
    return (peak.grown - kept) / LARGEST


def ways(folder: Path) -> dict[str, Callable[[], Mapping[str, jax.Array]]]:
    """Return the ways of loading: for `jaxdino.load`, the start of training, and a best model at a run's end."""

    def load(name: str, fsdp: int, **how: Any) -> Mapping[str, jax.Array]:
        given = {} if name == "own" else {"num_heads": HEADS}
        return api.load(folder / name, mesh=mesh(fsdp), **given, **how).flat

    def start(name: str, fsdp: int) -> Mapping[str, jax.Array]:
        heads = None if name == "own" else HEADS
        config = tiny.config(1, model__weights=str(folder / name), model__num_heads=heads, model__name="dinov3_custom")
        return weights.start(config, ("a", "b"), lambda _: None, place=OnMesh(mesh(fsdp)))[1]

    def mesh(fsdp: int):
        return make_mesh(fsdp=fsdp, devices=jax.devices()[:fsdp])

    return {
        "load, 4 devices": lambda: load("float32", 4),
        "load, float16 to float32, 1 device": lambda: load("float16", 1),
        "load, float32 to bfloat16, 1 device": lambda: load("float32", 1, dtype="bfloat16"),
        "start, 4 devices": lambda: start("float32", 4),
        "start, own format, 4 devices": lambda: start("own", 4),
        "best model, 4 devices": lambda: load_sharded(folder / "own", mesh(4))[1],
    }


def main(folder: Path) -> None:
    """Write the weights, and print the share of each way; the first start compiles, and is not measured."""
    write(folder)
    every = ways(folder)
    for name in ("start, own format, 4 devices", *(name for name in every if " to " in name)):
        every[name]()
    print(json.dumps({name: share(load) for name, load in every.items()}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
