"""Weights inside something else: a list, a hub's cache; tensors that are empty."""

import numpy as np
import pytest
import torch
import transformers as hf
from safetensors.torch import save_file

import jaxdino
from convert.export import export
from convert.hub import find
from convert.load import load_pretrained
from convert.readers import open_source
from tests.parity.cases import GRID, HEADS, PATCH, WIDTH
from tests.parity.drawing import draw

SHAPE = dict(
    hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=HEADS, patch_size=PATCH, image_size=GRID * PATCH
)


@pytest.fixture(scope="module")
def vit():
    return draw(hf.ViTModel(hf.ViTConfig(**SHAPE, intermediate_size=2 * WIDTH)))


def optimiser(model) -> dict:
    adam = torch.optim.Adam(model.parameters())
    model(torch.zeros(1, 3, GRID * PATCH, GRID * PATCH)).last_hidden_state.sum().backward()
    adam.step()
    return adam.state_dict()


@pytest.mark.parametrize("kind", [list, tuple])
@pytest.mark.parametrize("legacy", [False, True])
def test_the_network_in_a_list_is_taken_and_said(vit, tmp_path, kind, legacy):
    torch.save(vit.state_dict(), tmp_path / "plain.pth")
    expected = load_pretrained(tmp_path / "plain.pth", num_heads=HEADS)
    items = kind([{"epoch": 3}, {"model": vit.state_dict()}, optimiser(draw(vit))])
    torch.save(items, tmp_path / "w.pth", _use_new_zipfile_serialization=not legacy)
    found = load_pretrained(tmp_path / "w.pth", num_heads=HEADS)
    assert found.notes[0] == f"the file holds a {kind.__name__} of 3: item 1 was taken, the only one with a network"
    assert found.card.spec.config == expected.card.spec.config
    torch.save([kind([vit.state_dict()])], tmp_path / "deep.pth")
    assert len(load_pretrained(tmp_path / "deep.pth", num_heads=HEADS).notes) >= 2


@pytest.mark.parametrize(
    ("items", "why"),
    [
        ([{"a": torch.ones(2)}, {"b.c": torch.ones(2)}], r"holds a list.*2 of its 2 items.*\[0\] a, .*\[1\] b\.c,"),
        ((torch.ones(2), torch.ones(3)), "holds a tuple.*no item holds any"),
        ([], "holds a list.*no item"),
    ],
)
def test_other_lists_are_refused(tmp_path, items, why):
    torch.save(items, tmp_path / "w.pth")
    with pytest.raises(jaxdino.UserError, match=why):
        open_source(tmp_path / "w.pth")


ZERO = {
    "dinov3": lambda: hf.DINOv3ViTModel(hf.DINOv3ViTConfig(**SHAPE, intermediate_size=128, num_register_tokens=0)),
    "dinov2": lambda: hf.Dinov2WithRegistersModel(
        hf.Dinov2WithRegistersConfig(**SHAPE, mlp_ratio=2, num_register_tokens=0)
    ),
}


@pytest.mark.parametrize("family", ZERO)
@pytest.mark.parametrize("save", ["folder", "pth"])
def test_no_registers(tmp_path, family, save):
    """transformers holds them as an empty tensor, and finds it again in what is exported; Meta's files do not."""
    model = draw(ZERO[family]())
    model.save_pretrained(tmp_path / "folder")
    torch.save(model.state_dict(), tmp_path / "w.pth")
    src = tmp_path / ("folder" if save == "folder" else "w.pth")
    found = load_pretrained(src, num_heads=HEADS)
    assert found.card.spec.config.num_registers == 0
    export(src, tmp_path / "out", num_heads=HEADS, layout="hf")
    again, info = type(model).from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(info[what] for what in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    pixels = torch.randn(1, 3, 6 * PATCH, 2 * PATCH)  # another size: positions are resampled
    with torch.no_grad():
        assert torch.equal(again.eval()(pixels).last_hidden_state, model(pixels).last_hidden_state)
        theirs = model(pixels).last_hidden_state[:, 0].numpy()
    ours = jaxdino.load(src, num_heads=HEADS)(pixels.permute(0, 2, 3, 1).numpy()).cls
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    export(src, tmp_path / "meta", num_heads=HEADS, layout="meta")
    (file,) = (tmp_path / "meta").glob("*.pth")
    assert "register_tokens" not in str(torch.load(file).keys()) and "storage_tokens" not in torch.load(file)


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_empty_tensors_are_left_aside_and_named(vit, tmp_path, name):
    state = vit.state_dict() | {"centre": torch.zeros(0, 8), "_extra_state": torch.zeros(0, dtype=torch.uint8)}
    (torch.save if name.endswith("pth") else save_file)(state, tmp_path / name)
    notes = load_pretrained(tmp_path / name, num_heads=HEADS).notes
    assert "left aside centre: an empty tensor of shape (0, 8)" in notes and any("_extra_state" in n for n in notes)


def test_an_empty_tensor_in_place_of_a_weight_is_refused(vit, tmp_path):
    torch.save(vit.state_dict() | {"layernorm.bias": torch.zeros(0)}, tmp_path / "w.pth")
    with pytest.raises(jaxdino.UserError, match=r"mismatched layernorm\.bias \(0,\)"):
        load_pretrained(tmp_path / "w.pth", num_heads=HEADS)


@pytest.fixture
def cache(vit, tmp_path):
    """A repository in the hub's cache: two snapshots whose files are links; the older is that of refs/main."""
    root = tmp_path / "models--someone--vit"
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text("aaa")
    vit.save_pretrained(root / "blobs")
    for name in ("aaa", "bbb"):
        folder = root / "snapshots" / name
        folder.mkdir(parents=True)
        for file in ("config.json", "model.safetensors"):
            (folder / file).symlink_to(f"../../blobs/{file}")
    return root


def test_a_cache_of_the_hub(cache):
    found = load_pretrained(cache)
    assert "snapshot aaa (refs/main; 2 in models--someone--vit)" in found.notes
    assert found.card.spec.config.num_heads == HEADS  # config.json was read
    assert find(cache) == find(cache / "snapshots") == cache / "snapshots" / "aaa"
    (cache / "refs" / "main").unlink()
    assert "snapshot bbb (not the one of refs/main; 2 in models--someone--vit)" in load_pretrained(cache).notes


def test_a_cache_that_is_not_whole_is_refused(cache):
    (cache / "blobs" / "config.json").unlink()
    with pytest.raises(jaxdino.UserError, match=r"1 links are broken \(config.json -> \.\./\.\./blobs/config.json\)"):
        load_pretrained(cache)
    with pytest.raises(jaxdino.UserError, match="1 links are broken"):
        load_pretrained(cache / "snapshots" / "aaa" / "config.json")
    for name in ("aaa", "bbb"):
        for file in (cache / "snapshots" / name).iterdir():
            file.unlink()
        (cache / "snapshots" / name).rmdir()
    with pytest.raises(jaxdino.UserError, match="without a snapshot"):
        load_pretrained(cache)
