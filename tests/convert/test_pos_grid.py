"""The grid of a position table: what says it, what is assumed, and what is refused."""

import json

import numpy as np
import pytest
import timm
import torch
from timm.models.vision_transformer import VisionTransformer

import jaxdino
from convert.__main__ import main
from convert.family import Hints
from convert.load import load_pretrained
from convert.tables.vit.pos_grid import pos_grid
from jaxdino.core.errors import AssumedWarning, UserError

WIDE = (32, 128)
"""An image of 2 x 8 patches of 16: as many as in a square of 4 x 4."""


def wide(size=WIDE) -> VisionTransformer:
    """One block of a plain ViT for wide images, every parameter drawn."""
    torch.manual_seed(0)
    model = VisionTransformer(img_size=size, patch_size=16, embed_dim=64, depth=1, num_heads=1, num_classes=0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.2)
    return model.eval()


def saved(model, folder, config=None):
    """A bare .pth, or a folder of timm's with this config.json."""
    folder.mkdir(exist_ok=True)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    if config is None:
        return folder / "pytorch_model.bin"
    (folder / "config.json").write_text(json.dumps({"architecture": "vit_custom", **config}))
    return folder


def same_features(ours, model, size=WIDE) -> None:
    """Compare the patch tokens on images of the grid's own size."""
    x = np.random.default_rng(0).integers(0, 256, (2, *size, 3), np.uint8)
    how = ours.card.spec.preprocess
    pixels = (torch.tensor(x).float() / 255 - torch.tensor(how.mean)) / torch.tensor(how.std)
    with torch.no_grad():
        theirs = model.forward_features(pixels.permute(0, 3, 1, 2)).numpy()
    assert np.abs(np.asarray(ours(x).patches).reshape(2, 16, 64) - theirs[:, 1:]).max() < 1e-5 * np.abs(theirs).max()


@pytest.mark.parametrize(
    "config",
    [
        {"model_args": {"img_size": list(WIDE)}},
        {"pretrained_cfg": {"input_size": [3, *WIDE]}},
        {"model_args": {"img_size": list(WIDE)}, "pretrained_cfg": {"input_size": [3, 224, 224]}},
    ],
    ids=["model_args", "pretrained_cfg", "model_args first"],
)
def test_the_grid_of_a_timm_folder(config, tmp_path):
    model = wide()
    ours = jaxdino.load(saved(model, tmp_path / "t", config), num_heads=1)
    assert ours.card.spec.config.pos_grid == (2, 8)
    same_features(ours, model)


@pytest.mark.parametrize("fixed", [True, False, None])
@pytest.mark.parametrize("more", [{}, {"dynamic_img_size": True}], ids=["one size", "any size"])
@pytest.mark.parametrize("size", [64, [32, 128]], ids=str)
def test_images_have_the_size_that_timm_gives_them(fixed, more, size, tmp_path):
    """Where timm's transform gives images that its own model refuses, the model's size is followed, and said."""
    args = {"img_size": size, "depth": 1, "num_classes": 0, **more}
    pretrained = {"input_size": [3, 224, 224]} | ({} if fixed is None else {"fixed_input_size": fixed})
    config = {"architecture": "vit_tiny_patch16_224", "model_args": args, "pretrained_cfg": pretrained}
    folder = saved(wide(size), tmp_path / "t", config)
    theirs = timm.create_model(f"local-dir:{folder}", pretrained=False)
    wanted = tuple(timm.data.resolve_data_config({}, model=theirs)["input_size"][1:])
    refused = not more and wanted == (224, 224)
    if refused:
        with pytest.raises(AssertionError, match="doesn't match model"):
            theirs(torch.zeros(1, 3, *wanted))
        wanted = theirs.patch_embed.img_size
    ours = load_pretrained(folder, num_heads=1)
    assert ours.card.spec.preprocess.size == wanted
    assert any("in pretrained_cfg: the first is followed" in note for note in ours.notes) == refused


def test_a_square_that_nothing_says_is_assumed(tmp_path):
    bare = saved(wide(), tmp_path)
    with pytest.warns(AssumedWarning, match=r"a position grid of 4 x 4 \(a square of 17 rows\); pos_grid overrules"):
        jaxdino.load(bare, num_heads=1)
    ours = jaxdino.load(bare, num_heads=1, pos_grid=(2, 8))
    assert not any("position grid" in line for line in ours.card.assumed)
    same_features(ours, wide())


def test_a_table_that_is_no_square_names_the_flag(tmp_path, capsys):
    bare = saved(wide((32, 48)), tmp_path / "w")
    assert main(["inspect", str(bare), "--num_heads", "1"]) != 0
    assert "--pos_grid, such as 2x8" in capsys.readouterr().err
    out = ["--out", str(tmp_path / "ours")]
    assert main(["import", str(bare), "--num_heads", "1", "--pos_grid", "2x3", *out]) == 0
    assert jaxdino.load(tmp_path / "ours").card.spec.config.pos_grid == (2, 3)


def test_an_export_notes_the_grid(tmp_path):
    bare = saved(wide(), tmp_path / "w")
    flags = ["--num_heads", "1", "--pos_grid", "2x8", "--format", "meta"]
    assert main(["export", str(bare), *flags, "--out", str(tmp_path / "o")]) == 0
    assert jaxdino.load(tmp_path / "o").card.spec.config.pos_grid == (2, 8)


def test_what_a_config_says_and_the_table_contradicts_is_named():
    said = Hints(json={"model_type": "vit", "image_size": 224})
    grid, has_cls, assumed = pos_grid(577, 16, said)
    assert (grid, has_cls) == ((24, 24), True)
    assert "config.json's image_size=224 would be 14 x 14" in assumed[0]
    with pytest.raises(UserError, match="image_size=224 would be 14 x 14, which does not fit either"):
        pos_grid(7, 16, said)


def test_published_grids_are_not_called_assumptions():
    assert pos_grid(197, 16, Hints()) == ((14, 14), True, ())
    assert pos_grid(1370, 14, Hints()) == ((37, 37), True, ())


def test_a_grid_that_cannot_be_is_refused(tmp_path):
    with pytest.raises(UserError, match="--pos_grid 3x3 has 9 places, and the position table 17 rows"):
        pos_grid(17, 16, Hints(pos_grid=(3, 3)))
    with pytest.raises(SystemExit):
        main(["inspect", "x", "--pos_grid", "28"])
    with pytest.raises(UserError, match="pos_grid is for plain ViTs with a position table"):
        jaxdino.load("dinov3_digits", pos_grid=(4, 4))
