"""Our own form on disk: sharded over devices, read back by other numbers of devices, damage and hostile names told."""

import json
import shutil

import jax
import numpy as np
import pytest

from convert.__main__ import main
from convert.load import load_pretrained
from convert.store import load_model, load_sharded
from jaxdino.core.errors import UserError
from jaxdino.core.sharding import make_mesh

ALL_DEVICES = True
KERNEL = "backbone.blocks.0.attn.qkv.kernel"


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    """The embedded model, written from four devices, a slice each."""
    folder = tmp_path_factory.mktemp("store") / "ours"
    assert main(["import", "dinov3_digits", "--out", str(folder), "--fsdp", "4"]) == 0
    return folder


@pytest.mark.parametrize("fsdp", [1, 2, 4])
def test_read_onto_any_mesh(ours, fsdp):
    found = load_pretrained("dinov3_digits")
    card, flat = load_sharded(ours, make_mesh(fsdp=fsdp))
    rows, columns = found.flat[KERNEL].shape
    assert flat[KERNEL].addressable_shards[0].data.shape == (rows, columns // fsdp)
    assert card.digest == found.card.digest
    assert all(np.array_equal(flat[path], array) for path, array in found.flat.items())


def test_slices_make_the_same_model(ours):
    card, flat = load_model(ours)
    assert card.digest == load_pretrained("dinov3_digits").card.digest
    assert all(isinstance(array, np.ndarray) for array in flat.values())


def test_a_mesh_that_the_devices_do_not_make(tmp_path, capsys):
    assert main(["import", "dinov3_digits", "--out", str(tmp_path / "out"), "--fsdp", "3"]) == 2
    assert f"does not fit {jax.device_count()} devices" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_flipped_bit_is_told(ours, tmp_path):
    card = json.loads((ours / "model.json").read_text())
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "params").symlink_to(ours / "params")
    (copy / "model.json").write_text(json.dumps(card | {"digest": card["digest"][::-1]}))
    for read in (load_model, lambda folder: load_sharded(folder, make_mesh())):
        with pytest.raises(UserError, match="are damaged: their digest is not the one"):
            read(copy)


def test_deeply_nested_metadata_is_refused(ours, tmp_path):
    copy = tmp_path / "nested"
    shutil.copytree(ours, copy)
    file = copy / "params" / "00000" / "_METADATA"
    file.write_text("[" * 100_000)
    with pytest.raises(UserError, match="cannot be read: maximum recursion depth"):
        load_model(copy)


@pytest.mark.parametrize("name", ["../../outside", "/outside", "", "a/b", ".."])
def test_a_name_that_leaves_the_folder_is_refused(ours, tmp_path, name):
    card = json.loads((ours / "model.json").read_text())
    card["spec"]["name"] = name
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "params").symlink_to(ours / "params")
    (tmp_path / "in" / "model.json").write_text(json.dumps(card))
    with pytest.raises(UserError, match="is not a valid name of a model"):
        load_model(tmp_path / "in")
    assert main(["export", str(tmp_path / "in"), "--format", "meta", "--out", str(tmp_path / "out")]) == 2
    assert not (tmp_path / "out").exists()
