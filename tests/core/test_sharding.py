"""The mesh, the specs of parameters and of everything that follows them, and what is refused."""

import gc
import tracemalloc
from types import SimpleNamespace

import jax
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from jaxdino.core import sharding
from jaxdino.core.errors import UserError

ALL_DEVICES = True
FLAT = {
    "blocks.0.qkv.kernel": np.ones((32, 96), np.float32),
    "patch.kernel": np.ones((4, 4, 3, 64), np.float32),
    "norm.scale": np.ones(4096, np.float32),
}


def test_an_axis_of_minus_one_takes_what_is_left():
    mesh = sharding.make_mesh(-1, 2)
    assert dict(mesh.shape) == {"data": 2, "fsdp": 2, "tensor": 1}
    assert dict(sharding.make_mesh().shape) == {"data": 4, "fsdp": 1, "tensor": 1}
    assert dict(sharding.make_mesh(tensor=4).shape) == {"data": 1, "fsdp": 1, "tensor": 4}


@pytest.mark.parametrize(("data", "fsdp"), [(3, 1), (-1, 3), (-1, -1), (2, 1), (0, 4)])
def test_a_mesh_that_does_not_fit_names_the_devices(data, fsdp):
    with pytest.raises(UserError, match=r"4 devices"):
        sharding.make_mesh(data, fsdp)


def test_heads_are_divided_within_a_process():
    devices = np.array([SimpleNamespace(process_index=n // 2) for n in range(8)])
    sharding.check_tensor(devices.reshape(2, 2, 2))
    with pytest.raises(UserError, match="divide heads over 2 processes"):
        sharding.check_tensor(devices.reshape(2, 1, 4))


def test_matrices_and_kernels_are_sharded_on_their_largest_axis_and_small_leaves_replicated():
    where = sharding.shardings(FLAT, sharding.make_mesh(2, 2))
    specs = {path: one.spec for path, one in where.items()}
    assert specs == {
        "blocks.0.qkv.kernel": P(None, "fsdp"),
        "patch.kernel": P(None, None, None, "fsdp"),
        "norm.scale": P(),
    }


def test_the_optimiser_state_follows_the_parameters():
    mesh = sharding.make_mesh(1, 4)
    tx = optax.multi_transform({"a": optax.adamw(1e-3)}, dict.fromkeys(FLAT, "a"))
    state = jax.eval_shape(tx.init, FLAT)
    where = sharding.shardings(state, mesh)
    moments = where.inner_states["a"].inner_state[0].mu
    assert moments["blocks.0.qkv.kernel"].spec == P(None, "fsdp")
    assert where.inner_states["a"].inner_state[0].count.spec == P()
    made = jax.jit(tx.init, out_shardings=where)(sharding.put(FLAT, sharding.shardings(FLAT, mesh)))
    shard = made.inner_states["a"].inner_state[0].nu["blocks.0.qkv.kernel"].addressable_shards[0]
    assert shard.data.shape == (32, 24)


def test_the_first_rule_wins_and_wrong_rules_are_refused():
    mesh = sharding.make_mesh(2, 2)
    rules = ((r".*qkv\.kernel", ("fsdp", None)), (".*", ()))
    assert sharding.spec_for("blocks.0.qkv.kernel", (32, 96), mesh, rules) == P("fsdp", None)
    assert sharding.spec_for("patch.kernel", (4, 4, 3, 64), mesh, rules) == P()
    for axes, words in (
        (("model",), "no axis 'model'"),
        ((None, "fsdp"), "does not divide"),
        (("data",) * 3, "3 axes"),
    ):
        with pytest.raises(UserError, match=words):
            sharding.spec_for("x", (32, 97), mesh, (("x", axes),))
    with pytest.raises(UserError, match="matches no parameter"):
        sharding.check_rules((("nothing", ()),), list(FLAT))


def test_put_copies_so_that_donation_is_safe():
    mesh = sharding.make_mesh(1, 1, jax.devices()[:1])
    host = {"x": np.zeros(4, np.float32)}
    placed = sharding.put(host, sharding.replicated(mesh))
    jax.jit(lambda tree: jax.tree.map(lambda x: x + 1, tree), donate_argnums=0)(placed)
    assert not host["x"].any()


def test_gathered_arrays_are_not_kept_on_the_host():
    leaf = sharding.place("x.kernel", np.ones((512, 512), np.float32), sharding.make_mesh(fsdp=4))
    tracemalloc.start()
    gathered = sharding.gather({"x": leaf})["x"]
    assert gathered.sum() == leaf.size and tracemalloc.get_traced_memory()[0] >= leaf.nbytes
    del gathered
    gc.collect()
    kept = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert kept < leaf.nbytes / 10
