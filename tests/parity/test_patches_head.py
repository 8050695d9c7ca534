"""Linear segmentation heads as DINOv2 and DINOv3 publish them: batch norm and a 1 x 1 convolution on patch tokens."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import torch
from torch import nn

import jaxdino
from convert.__main__ import main
from convert.describe import inspect
from convert.export import export
from convert.head_keys import bound_table
from convert.load import Pretrained, load_pretrained
from convert.readers import open_source
from convert.store import save_model
from jaxdino.core.errors import UserError
from jaxdino.core.params import bind, split
from jaxdino.models.batch_norm import set_training
from jaxdino.models.heads.patches import PatchesHeadConfig
from jaxdino.models.registry import get
from tests.parity.cases import HEADS, PATCH
from tests.parity.drawing import channels_last, draw, images
from tests.parity.meta_modules import DINOV3, Apart, MetaViT
from tests.parity.ours import assert_same

CLASSES, WIDTH, DEPTH = 7, 64, 5
BACKBONES = {
    "dinov2": dict(),
    "dinov2 reg": dict(registers=4),
    "dinov3": dict(feed_forward=Apart, mask_k_bias=True, **DINOV3),
}
CASES = [("dinov2", 1, "mmseg"), ("dinov2 reg", 4, "mmseg"), ("dinov3", 1, "dinov3"), ("dinov3", (0, 2, 4), "dinov3")]
NATIVE, WIDE = (4 * PATCH, 4 * PATCH), (2 * PATCH, 8 * PATCH)
NAMES = {"mmseg": ("decode_head.", "bn", "conv_seg"), "dinov3": ("segmentation_model.1.", "batchnorm_layer", "conv")}


class LinearSegmentor(nn.Module):
    """A backbone, and a batch norm and a convolution on the patch tokens of some of its blocks."""

    def __init__(self, name: str, blocks: int | tuple[int, ...], naming: str):
        super().__init__()
        self.places = blocks if isinstance(blocks, tuple) else tuple(range(DEPTH - blocks, DEPTH))
        self.stem, norm, conv = NAMES[naming]
        self.backbone = MetaViT(depth=DEPTH, **BACKBONES[name])
        self.head = nn.Sequential()
        self.head.add_module(norm, nn.BatchNorm2d(len(self.places) * WIDTH))
        self.head.add_module(conv, nn.Conv2d(len(self.places) * WIDTH, CLASSES, 1))
        self.before = 1 + BACKBONES[name].get("registers", 4 if name == "dinov3" else 0)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        states: list[torch.Tensor] = []
        hooks = [block.register_forward_hook(lambda _, args, out: states.append(out)) for block in self.backbone.blocks]
        self.backbone(pixels)
        for hook in hooks:
            hook.remove()
        maps = [self.backbone.norm(states[n])[:, self.before :] for n in self.places]
        grid = [side // PATCH for side in pixels.shape[2:]]
        return self.head(torch.cat(maps, dim=2).transpose(1, 2).unflatten(2, grid))

    def head_state(self) -> dict[str, torch.Tensor]:
        return {self.stem + key: value for key, value in self.head.state_dict().items()}


def make(name: str, blocks: int | tuple[int, ...], naming: str) -> LinearSegmentor:
    """A segmentor in which each parameter and each running statistic matters."""
    model = draw(LinearSegmentor(name, blocks, naming))
    norm = model.head[0]
    norm.running_mean.normal_(0, 0.5, generator=torch.Generator().manual_seed(3))
    norm.running_var.uniform_(0.5, 2, generator=torch.Generator().manual_seed(4))
    norm.num_batches_tracked.fill_(40_000)
    return model


def save(model: LinearSegmentor, folder: Path) -> tuple[Path, Path]:
    """The backbone's file and the head's."""
    backbone, head = folder / "backbone.pth", folder / "segmentation.pth"
    torch.save(model.backbone.state_dict(), backbone)
    torch.save({"meta": {"epoch": 1}, "state_dict": model.head_state()}, head)
    return backbone, head


def load(files: tuple[Path, Path], blocks, **more) -> Pretrained:
    given = dict(head_blocks=blocks) if isinstance(blocks, tuple) else {}
    return load_pretrained(files[0], head=files[1], num_heads=HEADS, **given, **more)


def logits(found: Pretrained, pixels: torch.Tensor, flat=None) -> torch.Tensor:
    """Ours, channels first."""
    skeleton = found.card.spec.skeleton(head=found.card.head)
    run = jax.jit(lambda flat, images: bind(skeleton, flat)(images).logits)
    return np.asarray(run(found.flat if flat is None else flat, channels_last(pixels))).transpose(0, 3, 1, 2)


@pytest.mark.parametrize("size", [NATIVE, WIDE])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_same_logits(tmp_path, case, size):
    model, pixels = make(*case), images(*size)
    found = load(save(model, tmp_path), case[1])
    assert found.card.head == PatchesHeadConfig(CLASSES, case[1])
    with torch.no_grad():
        assert_same({"logits": logits(found, pixels)}, {"logits": model(pixels)})


def test_each_leaf_of_the_head_matters(tmp_path):
    """The comparison would see an error in any of them."""
    model, pixels = make(*CASES[0]), images(*NATIVE)
    found = load(save(model, tmp_path), 1)
    for path in (path for path in found.flat if path.startswith("head.") and "num_batches" not in path):
        other = logits(found, pixels, found.flat | {path: found.flat[path][::-1]})
        with pytest.raises(AssertionError), torch.no_grad():
            assert_same({"logits": other}, {"logits": model(pixels)})


@pytest.mark.parametrize("case", CASES, ids=str)
def test_training_moves_the_same_statistics(tmp_path, case):
    model = make(*case)
    found = load(save(model, tmp_path), case[1])
    skeleton = found.card.spec.skeleton(head=found.card.head)
    model.head.train()

    @jax.jit
    def step(flat, pixels):
        net = bind(skeleton, flat)
        set_training(net, ["head.bn.scale"])
        return net(pixels).logits.transpose(0, 3, 1, 2), split(net)[1]

    flat = found.flat
    for seed in (1, 2):
        pixels = images(*NATIVE, seed=seed)
        ours, flat = step(flat, channels_last(pixels))
        with torch.no_grad():
            assert_same({"logits": np.asarray(ours)}, {"logits": model(pixels)})
    norm = model.head[0]
    theirs = {"mean": norm.running_mean, "var": norm.running_var}
    assert_same({name: np.asarray(flat[f"head.bn.{name}"]) for name in theirs}, theirs)
    assert int(flat["head.bn.num_batches_tracked"]) == int(norm.num_batches_tracked) == 40_002


@pytest.mark.parametrize("trains", [False, True])
@pytest.mark.parametrize("case", CASES[1:3], ids=str)
def test_gradients_through_the_table(tmp_path, case, trains):
    model, pixels = make(*case), images(*NATIVE)
    found = load(save(model, tmp_path), case[1])
    model.head.train(trains)
    model(pixels).sin().sum().backward()
    card = found.card
    skeleton = card.spec.skeleton(head=card.head)
    params = {path: found.flat[path] for path in skeleton.paths("param")}
    others = {path: jax.numpy.asarray(array) for path, array in found.flat.items() if path not in params}

    def loss(flat):
        net = bind(skeleton, flat | others)
        set_training(net, ["head.bn.scale"] if trains else [])
        return jax.numpy.sin(net(channels_last(pixels)).logits).sum()

    ours = {path: np.asarray(gradient) for path, gradient in jax.jit(jax.grad(loss))(params).items()}
    table = bound_table(card.spec, "meta", card.head, case[2])
    written = {t.key: t.make() for t in table.write(others | ours)}
    theirs = {model.stem + key: p.grad for key, p in model.head.named_parameters()}
    theirs |= {key: p.grad for key, p in model.backbone.named_parameters() if p.grad is not None}
    assert len([key for key in theirs if key.startswith(model.stem)]) == 4
    scale = max(float(gradient.abs().max()) for gradient in theirs.values())
    for key, gradient in theirs.items():
        assert np.abs(written[key] - gradient.numpy()).max() <= 1e-5 * scale, key


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_export_writes_both_files_again(tmp_path, case, dtype):
    model = make(*case).to(dtype)
    backbone, head = save(model, tmp_path)
    command = ["import", str(backbone), "--head", str(head), "--num_heads", str(HEADS), "--out", str(tmp_path / "ours")]
    indices = ["--head_blocks", ",".join(map(str, case[1]))] if isinstance(case[1], tuple) else []
    assert main([*command, *indices]) == 0
    notes = export(tmp_path / "ours", tmp_path / "out")
    family, widths = case[0].split()[0], len(model.places)
    name = f"{family}_custom_segmentation_linear{widths if widths > 1 else ''}_head.pth"
    assert any(f"the segmentation head is in {name}, named as in {case[2]}" in note for note in notes)
    state = torch.load(backbone), model.head_state()
    for file, theirs in zip((f"{family}_custom.pth", name), state, strict=True):
        ours = torch.load(tmp_path / "out" / file)
        assert set(ours) == set(theirs)
        assert all(ours[key].dtype == theirs[key].dtype and ours[key].equal(theirs[key]) for key in theirs), file
    again, first = load_pretrained(tmp_path / "out"), load_pretrained(tmp_path / "ours")
    assert again.card.digest == first.card.digest and again.card.head == first.card.head
    (tmp_path / "out" / "jaxdino.json").unlink()
    alone = load_pretrained(tmp_path / "out", num_heads=HEADS)
    assert alone.card.digest == first.card.digest and alone.card.num_classes == CLASSES


@pytest.mark.parametrize("layout", ["hf", "timm"])
def test_other_layouts_keep_the_head_beside_the_backbone(tmp_path, layout):
    found = load(save(make(*CASES[1]), tmp_path), 4)
    card = dataclasses.replace(found.card, class_names=tuple("abcdefg"), head=PatchesHeadConfig(CLASSES, 4, 0.1))
    save_model(tmp_path / "ours", card, found.flat)
    export(tmp_path / "ours", tmp_path / "out", layout=layout, dtype="bfloat16")
    config = (tmp_path / "out" / "config.json").read_text()
    assert "ForImageClassification" not in config and f'"num_classes": {CLASSES}' not in config
    again = load_pretrained(tmp_path / "out")
    assert again.card.head == card.head and again.card.class_names == card.class_names
    for path in (path for path in found.flat if path.startswith("head.")):
        assert np.array_equal(again.flat[path], found.flat[path].astype(again.flat[path].dtype)), path


@pytest.mark.parametrize("wrapped", [False, True])
def test_one_file_with_both_as_mmsegmentation_writes_it(tmp_path, wrapped):
    model = make(*CASES[1])
    apart = load(save(model, tmp_path), 4)
    state = {f"backbone.{key}": value for key, value in model.backbone.state_dict().items()} | model.head_state()
    meta = {"CLASSES": tuple("abcdefg")}
    torch.save({"meta": meta, "state_dict": state} if wrapped else state, tmp_path / "segmentor.pth")
    both = load_pretrained(tmp_path / "segmentor.pth", num_heads=HEADS)
    assert both.card.digest == apart.card.digest and both.card.head == apart.card.head
    assert both.card.class_names == (tuple("abcdefg") if wrapped else ())
    card, _, found = inspect(tmp_path / "segmentor.pth", num_heads=HEADS)
    with open_source(tmp_path / "segmentor.pth") as source:
        for tensor in bound_table(card.spec, "meta", card.head, "mmseg").write(both.flat):
            assert tensor.make().tobytes() == source.read(found.keys[tensor.key]).tobytes(), tensor.key
    without = load_pretrained(tmp_path / "segmentor.pth", num_heads=HEADS, drop_head=True)
    assert without.card.num_classes == 0 and not [path for path in without.flat if path.startswith("head")]


def test_a_training_checkpoint_of_dinov3(tmp_path, capsys):
    """Its head lies beside the optimiser, and the blocks it reads are not in it."""
    model = make("dinov3", 4, "dinov3")
    backbone, head = save(model, tmp_path)
    optimiser = torch.optim.AdamW(model.head.parameters())
    model(images(*NATIVE)).sum().backward()
    optimiser.step()
    torch.save({"model": model.head_state(), "optimizer": optimiser.state_dict()}, head)
    found = load((backbone, head), 4)
    assert found.card.head == PatchesHeadConfig(CLASSES, 4)
    assert any("a segmentation head on the last 4 blocks" in line for line in found.card.assumed)
    assert any("left aside 12 tensors of the head's file, optimizer.state" in note for note in found.notes)
    with torch.no_grad():
        assert_same({"logits": logits(found, images(*WIDE))}, {"logits": model(images(*WIDE))})
    other = load((backbone, head), (0, 1, 2, 4))
    assert other.card.head.blocks == (0, 1, 2, 4) and not any("segmentation" in line for line in other.card.assumed)
    save_model(tmp_path / "ours", other.card, other.flat)
    assert main(["inspect", str(tmp_path / "ours")]) == 0
    assert "7 classes on patch tokens of blocks 0, 1, 2, 4 (segmentation)" in capsys.readouterr().out


def test_verify_compares_the_network_before_the_head(tmp_path, capsys):
    model = make(*CASES[0])
    state = {f"backbone.{key}": value for key, value in model.backbone.state_dict().items()} | model.head_state()
    torch.save(state, tmp_path / "segmentor.pth")
    assert main(["verify", str(tmp_path / "segmentor.pth"), "--num_heads", str(HEADS)]) == 0
    said = capsys.readouterr().out
    assert "the models agree" in said and "the head of 7 classes: only the networks before it are compared" in said


def test_python_face(tmp_path):
    model = make(*CASES[0])
    backbone, head = save(model, tmp_path)
    ours = jaxdino.load(backbone, head=head, num_heads=HEADS)
    found = np.asarray(ours(channels_last(images(*WIDE))).logits).transpose(0, 3, 1, 2)
    with torch.no_grad():
        assert_same({"logits": found}, {"logits": model(images(*WIDE))})
    with pytest.raises(UserError, match="does not give classes of whole images"):
        ours.predict([np.zeros((*NATIVE, 3), np.uint8)])


def test_a_head_without_names_in_pytorch_is_not_written_as_another():
    with pytest.raises(UserError, match="the head 'boxes' has no names in PyTorch"):
        bound_table(get("dinov2_vits14"), "meta", SimpleNamespace(name="boxes", num_classes=3))


def test_refusals(tmp_path):
    model = make(*CASES[0])
    backbone, head = save(model, tmp_path)
    with pytest.raises(UserError, match="--pool cls is of classification heads"):
        load((backbone, head), 1, pool="cls")
    with pytest.raises(UserError, match="--head_blocks 4 is of segmentation heads"):
        load_pretrained(backbone, num_heads=HEADS, head_blocks=4)
    with pytest.raises(UserError, match=r"mismatched decode_head\.conv_seg\.weight \(7, 64, 1, 1\)"):
        load_pretrained(backbone, head=head, num_heads=HEADS, head_blocks=2)
    torch.save(model.backbone.state_dict() | {"head.weight": torch.ones(2, 64)}, tmp_path / "two.pth")
    with pytest.raises(UserError, match=r"two heads, head\.weight and decode_head\.conv_seg\.weight"):
        load((tmp_path / "two.pth", head), 1)
    torch.save(model.head_state() | {"decode_head.fusion.weight": torch.ones(2, 2)}, head)
    with pytest.raises(UserError, match=r"which is not a linear classification head.*called decode_head"):
        load((backbone, head), 1)
    state = {f"backbone.{key}": value for key, value in model.backbone.state_dict().items()} | torch.load(head)
    torch.save(state, tmp_path / "decoder.pth")
    found = load_pretrained(tmp_path / "decoder.pth", num_heads=HEADS)  # the decoder is not a linear head
    assert found.card.num_classes == 0 and any("under 'decode_head'" in note for note in found.notes)
    wide = model.head_state() | {"decode_head.conv_seg.weight": torch.ones(7, 64, 3, 3)}
    torch.save(wide, head)
    with pytest.raises(UserError, match="mismatched"):
        load((backbone, head), 1)
    found = load(save(model, tmp_path), 1)
    save_model(tmp_path / "ours", found.card, found.flat)
    with pytest.raises(UserError, match="head_blocks cannot be given"):
        load_pretrained(tmp_path / "ours", head_blocks=4)
