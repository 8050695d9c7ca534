"""Importing holds the weights once, and little more: peak memory of a fresh process."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from convert.load import bound_table
from convert.writers import write_pth
from jaxdino.models import registry
from jaxdino.models.positions import rope_periods

ROOT = Path(__file__).parent.parent.parent
MEASURE = """
import resource, sys
import jaxdino, jaxdino.api, convert.__main__, convert.store, orbax.checkpoint
from jaxdino.models import registry
import jax
jax.block_until_ready(jax.numpy.ones(3))
registry.get("dinov3_vits16").skeleton()
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = peak()
{work}
print((peak() - before) * 1024)
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A ViT-B/16 in Meta's layout and its size in bytes."""
    spec = registry.get("dinov3_vitb16")
    flat = {path: np.broadcast_to(np.float32(0.5), e.shape) for path, e in spec.skeleton().entries.items()}
    flat["backbone.rope.periods"] = rope_periods(spec.config.head_dim, spec.config.rope_base)
    path = tmp_path_factory.mktemp("large") / "dinov3_vitb16.pth"
    write_pth(path, bound_table(spec, "meta", head=False).write(flat))
    return path


@pytest.mark.parametrize(
    "work", ["model = jaxdino.load({src!r})", "convert.__main__.main(['import', {src!r}, '--out', {out!r}])"]
)
def test_weights_are_held_once(checkpoint, tmp_path, work):
    code = MEASURE.format(work=work.format(src=str(checkpoint), out=str(tmp_path / "ours")))
    env = os.environ | {"PYTHONPATH": str(ROOT), "XLA_FLAGS": ""}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True)
    assert float(done.stdout.split()[-1]) < 1.5 * checkpoint.stat().st_size
