"""A run's initial weights go to the devices leaf by leaf: the host never holds the model."""

import dataclasses
import json
import subprocess
import sys
import tracemalloc
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from convert.head_keys import bound_table
from convert.load import load_pretrained
from convert.writers import write_safetensors
from jaxdino import api
from jaxdino.core import sharding
from jaxdino.core.sharding import make_mesh
from jaxdino.models import registry
from jaxdino.models.rope import rope_periods
from jaxdino.train import weights
from jaxdino.train.placing import OnMesh
from tests.train import child, tiny

CONFIG = dataclasses.replace(tiny.SPEC.config, width=512, mlp_dim=2048, depth=8, num_heads=8)
LARGEST, SPARE = 4 * 512 * 2048, 3_000_000  # bytes; blocks of a tensor that is turned, and what Python allocates


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A model of 100 MB in Hugging Face's layout, of random numbers, and its leaves."""
    spec, folder = dataclasses.replace(tiny.SPEC, name="dinov3_custom", config=CONFIG), tmp_path_factory.mktemp("hf")
    draw = np.random.default_rng(0)
    flat = {path: draw.random(e.shape, np.float32) for path, e in spec.skeleton().entries.items()}
    flat["backbone.rope.periods"] = rope_periods(spec.config.head_dim, spec.config.rope_base)
    for path in flat:
        if path.endswith("qkv.bias"):
            flat[path][512:1024] = 0  # DINOv3 has no bias for keys
    write_safetensors(folder / "w", bound_table(spec, "hf").write(flat), max_shard_bytes=10**12)
    return folder / "w", flat


def held(work) -> tuple[Any, int]:
    """Return the result, and the most bytes that numpy and Python held at once."""
    tracemalloc.start()
    try:
        return work(), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def copied(monkeypatch):
    """Have devices take the shape of what they get alone: on a CPU an array may use numpy's memory, which counts, and a
    copied one is let go a little later."""
    monkeypatch.setattr(sharding.jax, "device_put", lambda x, device: jnp.zeros(x.shape, x.dtype, device=device))


class Nowhere:
    """A place that keeps only shapes: on a CPU, device arrays may use numpy's memory, which would count."""

    def put(self, path: str, leaf: Any) -> tuple[int, ...]:
        return leaf.shape

    def drawn(self, array: np.ndarray) -> jax.Array:
        raise AssertionError("nothing is drawn")


def settings(source: object):
    return tiny.config(1, model__weights=str(source), model__num_heads=8, mesh__fsdp=4, model__name="dinov3_custom")


def test_a_run_holds_one_leaf_at_a_time(source):
    config = settings(source[0])
    _, most = held(lambda: weights.start(config, ("a", "b"), lambda _: None, place=Nowhere()))
    assert sum(leaf.nbytes for leaf in source[1].values()) > 20 * LARGEST and most < 1.2 * LARGEST + SPARE


def test_slices_are_converted_one_at_a_time(monkeypatch):
    half, mesh = np.ones((4096, 1024), np.float16), make_mesh(fsdp=4)
    copied(monkeypatch)
    leaf, most = held(lambda: sharding.place("x.kernel", half, mesh, dtype=np.float32))
    assert leaf.addressable_shards[0].data.nbytes * 4 == 2 * half.nbytes == leaf.nbytes
    assert half.nbytes + most < 1.2 * leaf.nbytes


def test_a_run_has_the_weights_in_slices(source):
    config = settings(source[0])
    card, flat = weights.start(config, ("a", "b"), lambda _: None, place=OnMesh(make_mesh(fsdp=4)))
    for path, leaf in source[1].items():
        np.testing.assert_array_equal(flat[path], leaf, err_msg=path)
    assert flat["backbone.blocks.0.mlp.fc1.kernel"].addressable_shards[0].data.nbytes == LARGEST // 4
    assert card.digest == load_pretrained(source[0], num_heads=8).card.digest
    assert weights.has_new_head(config, card, flat)


def test_a_loaded_model_has_the_same_weights(source):
    model = api.load(source[0], num_heads=8, mesh=make_mesh(fsdp=4))
    np.testing.assert_array_equal(
        model.flat["backbone.blocks.7.attn.qkv.kernel"], source[1]["backbone.blocks.7.attn.qkv.kernel"]
    )


@pytest.mark.slow
def test_the_host_holds_the_model_and_a_leaf(tmp_path):
    """Also in files of half precision and in our own format; the process has a MALLOC that gives freed memory back."""
    settings = child.environment() | {"MALLOC_MMAP_THRESHOLD_": "65536"}
    command = [sys.executable, "-W", "ignore", "-m", "tests.train.streamed_memory", str(tmp_path)]
    done = subprocess.run(command, cwd=child.ROOT, env=settings, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-2000:]
    shares = json.loads(done.stdout.splitlines()[-1])
    if None in shares.values():
        pytest.skip("this system does not tell the peak of a process")
    assert len(shares) == 6 and max(shares.values()) < 1.2, shares


def test_random_weights_are_drawn_onto_the_mesh(monkeypatch):
    spec = dataclasses.replace(tiny.SPEC, config=dataclasses.replace(CONFIG, depth=2))
    monkeypatch.setitem(registry.MODELS, "tiny", spec)
    config, mesh = tiny.config(1, mesh__fsdp=4), make_mesh(fsdp=4)
    rules = (("backbone.blocks.0.mlp.fc1.kernel", (None, None)),)
    _, whole = weights.start(config, ("a", "b"), print)
    _, flat = weights.start(config, ("a", "b"), print, place=OnMesh(mesh, rules))
    assert list(flat) == list(whole) and all(np.array_equal(flat[path], leaf) for path, leaf in whole.items())
    shards = [flat[f"backbone.blocks.{i}.mlp.fc1.kernel"].addressable_shards[0].data.nbytes for i in (0, 1)]
    assert shards == [LARGEST, LARGEST // 4] and isinstance(flat["head.kernel"], jax.Array)
