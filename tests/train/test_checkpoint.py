"""Checkpoints: other meshes, damage of every kind, and steps that donate what is being saved."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdino.core import sharding
from jaxdino.core.errors import UserError
from jaxdino.train.checkpoint import Checkpoints, abstract

ALL_DEVICES = True


def state_on(mesh, value: float):
    rng = np.random.default_rng(0)
    tree = {
        "trainable": {"head.kernel": value + rng.normal(size=(64, 64)).astype(np.float32)},
        "opt": ({"mu": {"head.kernel": rng.normal(size=(64, 64)).astype(np.float32)}}, np.int32(7)),
        "key": jax.random.key_data(jax.random.key(3)),
    }
    return sharding.put(tree, sharding.shardings(tree, mesh))


def assert_same(left, right):
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(np.asarray(a), np.asarray(b)), left, right)


@pytest.mark.parametrize(("data", "fsdp"), [(1, 1), (2, 1), (1, 2)])
def test_saved_on_four_devices_restores_on_one_and_two(tmp_path, data, fsdp):
    state = state_on(sharding.make_mesh(1, 4), 1.0)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(5, state, {"stage": 1})
    checkpoints.close()
    mesh = sharding.make_mesh(data, fsdp, jax.devices()[: data * fsdp])
    again = Checkpoints(tmp_path)
    step, meta = again.latest()
    restored = again.restore(step, abstract(state, sharding.shardings(state, mesh)))
    again.close()
    assert (step, meta) == (5, {"stage": 1})
    assert restored["trainable"]["head.kernel"].sharding.mesh.size == data * fsdp
    assert_same(state, restored)


def truncate(folder):
    file = max(folder.rglob("d/*"), key=lambda path: path.stat().st_size)
    file.write_bytes(file.read_bytes()[:-10])
    return file.name


def flip(folder):
    file = max(folder.rglob("d/*"), key=lambda path: path.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))
    return file.name


def remove(folder):
    file = max(folder.rglob("d/*"), key=lambda path: path.stat().st_size)
    file.unlink()
    return file.name


def unseal(folder):
    (folder / "manifest.json").unlink()
    return "manifest.json"


def half_write(folder):
    folder.rename(folder.with_name("2.orbax-checkpoint-tmp"))
    return "is unfinished: the run ended while it was written"


def empty_the_manifest(folder):
    flip(folder)
    (folder / "manifest.json").write_text("{}")
    return "manifest.json does not list meta/"


def shorten_the_manifest(folder):
    name = flip(folder)
    entries = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({key: one for key, one in entries.items() if name not in key}))
    return f"manifest.json does not list state/ocdbt.process_0/d/{name}"


def write_manifest(content):
    def damage(folder):
        (folder / "manifest.json").write_bytes(content)
        return "manifest.json cannot be read (" if content[:1] != b"{" else "a is missing"

    return damage


def forget_a_checksum(folder):
    entries = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(entries | {"meta/metadata": None}))
    return "manifest.json has no checksum of meta/metadata"


def add_a_file(folder):
    (folder / "state" / "more").write_text("x")
    return "manifest.json does not list state/more"


def rename_two_keys_of_the_stamp(folder):
    stamp = folder / "_CHECKPOINT_METADATA"
    text = stamp.read_text().replace('"item_handlers"', '"htem_handlers"')
    stamp.write_text(text.replace('"commit_timestamp_nsecs"', '"commit_timewtamp_nsecs"'))
    return "_CHECKPOINT_METADATA cannot be read ("


DAMAGES = [truncate, flip, remove, unseal, half_write, empty_the_manifest, shorten_the_manifest, forget_a_checksum]
CONTENTS = [b"[]", b"null", b"\0" * 9, b"[" * 99_999, b'{"a": 1}', b'{"a": {"bytes": 1, "sha256": ""}}']


@pytest.mark.parametrize("damage", [*DAMAGES, add_a_file, rename_two_keys_of_the_stamp, *map(write_manifest, CONTENTS)])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(tmp_path, damage):
    mesh, folder = sharding.make_mesh(), tmp_path / "checkpoints"
    states = {step: state_on(mesh, step) for step in (1, 2)}
    checkpoints = Checkpoints(folder)
    for step, state in states.items():
        checkpoints.save(step, state, {})
    checkpoints.close()
    fault = damage(folder / "2")
    lines = []
    again = Checkpoints(folder, warn=lines.append)
    assert again.latest()[0] == 1
    assert len(lines) == 1 and "checkpoint 2" in lines[0] and fault in lines[0]
    like = abstract(states[1], sharding.shardings(states[1], mesh))
    assert_same(states[1], again.restore(1, like))
    again.save(2, states[2], {})  # the step is written anew
    again.close()
    assert Checkpoints(folder, warn=lines.append).latest()[0] == 2 and len(lines) == 1


def test_files_of_file_browsers_do_no_harm(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, {"x": jnp.ones(3)}, {})
    checkpoints.close()
    for name in (".DS_Store", "state/.nfs0001", "state/d/Thumbs.db"):
        (tmp_path / "1" / name).write_text("x")
    assert Checkpoints(tmp_path, warn=pytest.fail).latest()[0] == 1


@pytest.mark.parametrize("damage", [remove, unseal, lambda folder: remove(folder) and unseal(folder)])
def test_a_checkpoint_whose_deletion_was_interrupted_is_unfinished(tmp_path, damage):
    folder, lines = tmp_path / "checkpoints", []
    checkpoints = Checkpoints(folder, keep=3)
    for step in (1, 2, 3):
        checkpoints.save(step, {"x": jnp.ones(3)}, {})
    checkpoints.close()
    damage(folder / "1")
    again = Checkpoints(folder, keep=3, warn=lines.append)
    assert again.latest()[0] == 3 and not (tmp_path / "damaged").exists() and not (folder / "1").exists()
    assert lines == ["checkpoint 1 is unfinished: the run ended while it was deleted (removed); checkpoint 3 is used"]
    again.close()


def test_steps_may_donate_what_is_being_saved(tmp_path):
    mesh = sharding.make_mesh()
    state = state_on(mesh, 1.0)
    expected = jax.tree.map(lambda x: np.array(x), state)
    like = abstract(state, sharding.shardings(state, mesh))
    bump = jax.jit(lambda tree: jax.tree.map(lambda x: x * 2 + 1, tree), donate_argnums=0)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, state, {})
    for _ in range(20):
        state = bump(state)
    jax.block_until_ready(state)
    checkpoints.wait()
    assert_same(expected, checkpoints.restore(1, like))
    checkpoints.close()


def test_only_so_many_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (1, 2, 3):
        checkpoints.save(step, {"x": jnp.ones(3)}, {})
    checkpoints.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2", "3"]


def test_a_checkpoint_of_other_leaves_is_refused(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, {"x": jnp.ones(3)}, {})
    checkpoints.wait()
    where = sharding.replicated(sharding.make_mesh())
    like = {"x": jax.ShapeDtypeStruct((4,), jnp.float32, sharding=where)}
    with pytest.raises(UserError, match="does not fit this run"):
        checkpoints.restore(1, like)
    checkpoints.close()


def test_when_every_checkpoint_is_damaged_the_run_starts_over(tmp_path):
    folder, lines = tmp_path / "checkpoints", []
    checkpoints = Checkpoints(folder)
    checkpoints.save(1, {"x": jnp.ones(3)}, {})
    checkpoints.close()
    unseal(folder / "1")
    again = Checkpoints(folder, warn=lines.append)
    assert again.latest() is None and "starts over from the beginning" in lines[0]
    again.close()
