"""Loading holds the weights once; importing and exporting hold a part of them: peak memory of a fresh process."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from convert.head_keys import bound_table
from convert.writers import write_pth, write_safetensors
from jaxdino.models import registry
from jaxdino.models.rope import rope_periods

ROOT = Path(__file__).parent.parent.parent
SHARD = 200_000_000
MEASURE = """
import resource, sys
import jaxdino, jaxdino.api, convert.__main__, convert.store, convert.export, orbax.checkpoint
from jaxdino.models import registry
import jax
jax.block_until_ready(jax.numpy.ones(3))
registry.get("dinov3_vits16").skeleton()
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = peak()
{work}
print((peak() - before) * 1024)
"""


def peak(work: str) -> float:
    """Bytes that a process needs for the work beyond what it had when everything was imported."""
    code, env = MEASURE.format(work=work), os.environ | {"PYTHONPATH": str(ROOT), "XLA_FLAGS": ""}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True)
    return float(done.stdout.split()[-1])


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """A ViT-B/16 in Meta's layout, and in Hugging Face's as shards."""
    spec, folder = registry.get("dinov3_vitb16"), tmp_path_factory.mktemp("large")
    flat = {path: np.broadcast_to(np.float32(0.5), e.shape) for path, e in spec.skeleton().entries.items()}
    flat["backbone.rope.periods"] = rope_periods(spec.config.head_dim, spec.config.rope_base)
    write_pth(folder / "dinov3_vitb16.pth", bound_table(spec, "meta").write(flat))
    write_safetensors(folder / "hf", bound_table(spec, "hf").write(flat), max_shard_bytes=SHARD)
    return folder


def test_loading_holds_the_weights_once(checkpoints):
    src = checkpoints / "dinov3_vitb16.pth"
    assert peak(f"model = jaxdino.load({str(src)!r})") < 1.5 * src.stat().st_size


def test_import_and_export_hold_less_than_a_shard(checkpoints, tmp_path):
    src, ours, out = (str(path) for path in (checkpoints / "hf", tmp_path / "ours", tmp_path / "out"))
    call = "convert.__main__.main({!r})".format
    assert peak(call(["import", src, "--out", ours])) < 1.5 * SHARD
    assert peak(call(["export", ours, "--out", out, "--max_shard_size", str(SHARD / 1e9)])) < 1.5 * SHARD
    assert len(list((tmp_path / "out").glob("*.safetensors"))) == 2
