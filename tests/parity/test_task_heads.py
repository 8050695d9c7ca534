"""Linear classification heads as DINOv2 and DINOv3 publish them: apart from their backbones, or in one classifier."""

from pathlib import Path

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
from jaxdino.core.params import bind
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
POOLS = {1: "cls_mean", 4: "cls4_mean"}
CASES = [("dinov2", 1), ("dinov2", 4), ("dinov2 reg", 1), ("dinov2 reg", 4), ("dinov3", 1)]
NATIVE, WIDE = (4 * PATCH, 4 * PATCH), (2 * PATCH, 8 * PATCH)


class LinearClassifier(nn.Module):
    """A backbone and a head on the class tokens of its last one or four blocks and its last mean patch."""

    def __init__(self, layers: int, **how):
        super().__init__()
        self.backbone = MetaViT(depth=DEPTH, **how)
        self.linear_head = nn.Linear((layers + 1) * WIDTH, CLASSES)
        self.layers, self.before = layers, 1 + how.get("registers", 0)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        states: list[torch.Tensor] = []
        hooks = [block.register_forward_hook(lambda _, args, out: states.append(out)) for block in self.backbone.blocks]
        self.backbone(pixels)
        for hook in hooks:
            hook.remove()
        last = [self.backbone.norm(state) for state in states[-self.layers :]]
        features = [state[:, 0] for state in last] + [last[-1][:, self.before :].mean(dim=1)]
        return self.linear_head(torch.cat(features, dim=1))


def make(name: str, layers: int) -> LinearClassifier:
    return draw(LinearClassifier(layers, **BACKBONES[name]))


def save(model: LinearClassifier, folder: Path) -> tuple[Path, Path]:
    """The backbone's file and the head's."""
    backbone, head = folder / "backbone.pth", folder / "linear.pth"
    torch.save(model.backbone.state_dict(), backbone)
    torch.save(model.linear_head.state_dict(), head)
    return backbone, head


def logits(found: Pretrained, pixels: torch.Tensor, flat=None) -> np.ndarray:
    card = found.card
    skeleton = card.spec.skeleton(card.num_classes, pool=card.pool)
    run = jax.jit(lambda flat, images: bind(skeleton, flat)(images).logits)
    return np.asarray(run(found.flat if flat is None else flat, channels_last(pixels)))


@pytest.mark.parametrize("size", [NATIVE, WIDE])
@pytest.mark.parametrize(("name", "layers"), CASES)
def test_a_head_apart_gives_the_same_logits(tmp_path, name, layers, size):
    model, pixels = make(name, layers), images(*size)
    backbone, head = save(model, tmp_path)
    found = load_pretrained(backbone, head=head, num_heads=HEADS)
    assert (found.card.num_classes, found.card.pool) == (CLASSES, POOLS[layers])
    with torch.no_grad():
        assert_same({"logits": logits(found, pixels)}, {"logits": model(pixels)})


@pytest.mark.parametrize(("name", "layers"), CASES)
def test_gradients(tmp_path, name, layers):
    model, pixels = make(name, layers), images(*NATIVE)
    found = load_pretrained(*save(model, tmp_path)[:1], head=tmp_path / "linear.pth", num_heads=HEADS)
    model(pixels).sin().sum().backward()
    card = found.card
    skeleton = card.spec.skeleton(CLASSES, pool=card.pool)
    params = {path: found.flat[path] for path in skeleton.paths("param")}
    others = {path: array for path, array in found.flat.items() if path not in params}
    loss = lambda flat: jax.numpy.sin(bind(skeleton, flat | others)(channels_last(pixels)).logits).sum()  # noqa: E731
    ours = {path: np.asarray(gradient) for path, gradient in jax.jit(jax.grad(loss))(params).items()}
    written = {t.key: t.make() for t in bound_table(card.spec, "meta", card.head).write(ours | others)}
    theirs = {f"head.{key}": p.grad for key, p in model.linear_head.named_parameters()}
    theirs |= {key: p.grad for key, p in model.backbone.named_parameters() if p.grad is not None}
    scale = max(float(gradient.abs().max()) for gradient in theirs.values())
    for key, gradient in theirs.items():
        assert np.abs(written[key] - gradient.numpy()).max() <= 1e-5 * scale, key


@pytest.mark.parametrize(("name", "layers"), CASES)
def test_one_file_with_both(tmp_path, name, layers):
    model = make(name, layers)
    apart = load_pretrained(save(model, tmp_path)[0], head=tmp_path / "linear.pth", num_heads=HEADS)
    torch.save(model.state_dict(), tmp_path / "classifier.pth")
    both = load_pretrained(tmp_path / "classifier.pth", num_heads=HEADS)
    assert both.card.digest == apart.card.digest and both.card.pool == POOLS[layers]
    card, _, found = inspect(tmp_path / "classifier.pth", num_heads=HEADS)
    with open_source(tmp_path / "classifier.pth") as source:
        for tensor in bound_table(card.spec, "meta", card.head).write(both.flat):
            assert tensor.make().tobytes() == source.read(found.keys[tensor.key]).tobytes(), tensor.key
    without = load_pretrained(tmp_path / "classifier.pth", num_heads=HEADS, drop_head=True)
    assert without.card.num_classes == 0 and "head.kernel" not in without.flat


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("name", "layers"), CASES)
def test_export_writes_both_files_again(tmp_path, name, layers, dtype):
    model = make(name, layers).to(dtype)
    backbone, head = save(model, tmp_path)
    command = ["import", str(backbone), "--head", str(head), "--num_heads", str(HEADS), "--out", str(tmp_path / "ours")]
    assert main(command) == 0
    notes = export(tmp_path / "ours", tmp_path / "out")
    name = f"{name.split()[0]}_custom_linear{'4' if layers == 4 else ''}_head.pth"
    assert any(name in note and "logits = linear_head(class token" in note for note in notes)
    for file, original in ((name.split("_linear")[0] + ".pth", backbone), (name, head)):
        ours, theirs = torch.load(tmp_path / "out" / file), torch.load(original)
        assert set(ours) == set(theirs)
        assert all(ours[key].dtype == theirs[key].dtype and ours[key].equal(theirs[key]) for key in theirs)
    again = load_pretrained(tmp_path / "out")
    assert again.card.digest == load_pretrained(tmp_path / "ours").card.digest
    (tmp_path / "out" / "jaxdino.json").unlink()
    alone = load_pretrained(tmp_path / "out", num_heads=HEADS)
    assert (alone.card.num_classes, alone.card.pool) == (CLASSES, POOLS[layers])


@pytest.mark.parametrize("layout", ["hf", "timm"])
def test_four_layers_in_other_layouts(tmp_path, layout):
    backbone, head = save(make("dinov2 reg", 4), tmp_path)
    found = load_pretrained(backbone, head=head, num_heads=HEADS)
    save_model(tmp_path / "ours", found.card, found.flat)
    notes = export(tmp_path / "ours", tmp_path / "out", layout=layout)
    assert any("class tokens of the last four blocks" in note for note in notes)
    again = load_pretrained(tmp_path / "out")
    assert again.card.pool == "cls4_mean"
    np.testing.assert_allclose(logits(again, images(*NATIVE)), logits(found, images(*NATIVE)), atol=1e-5)


def test_python_face(tmp_path):
    model = make("dinov2 reg", 4)
    backbone, head = save(model, tmp_path)
    ours = jaxdino.load(backbone, head=head, num_heads=HEADS)
    with torch.no_grad():
        assert_same({"logits": np.asarray(ours(channels_last(images(*WIDE))).logits)}, {"logits": model(images(*WIDE))})


def test_a_head_joins_a_hugging_face_folder(loaded, tmp_path):
    layer = nn.Linear(2 * WIDTH, CLASSES)
    torch.save(layer.state_dict(), tmp_path / "linear.pth")
    found = load_pretrained(loaded("hf dinov2").path, head=tmp_path / "linear.pth")
    assert (found.card.layout, found.card.pool) == ("hf", "cls_mean")
    assert np.array_equal(found.flat["head.kernel"].T, layer.weight.detach().numpy())


def test_refusals(tmp_path):
    model = make("dinov2", 1)
    backbone, head = save(model, tmp_path)
    with pytest.raises(UserError, match=r"nowhere\.pth: not found"):
        load_pretrained(backbone, head=tmp_path / "nowhere.pth", num_heads=HEADS)
    with pytest.raises(UserError, match="which is not a linear classification head"):
        load_pretrained(backbone, head=backbone, num_heads=HEADS)
    torch.save({"state_dict": {"module.linear.weight": torch.ones(2, 2)}}, tmp_path / "dino_linear.pth")
    with pytest.raises(UserError, match="which is not a linear classification head"):
        load_pretrained(backbone, head=tmp_path / "dino_linear.pth", num_heads=HEADS)
    torch.save(nn.Linear(3 * WIDTH, CLASSES).state_dict(), tmp_path / "odd.pth")
    with pytest.raises(UserError, match=r"mismatched head\.weight \(7, 192\)"):
        load_pretrained(backbone, head=tmp_path / "odd.pth", num_heads=HEADS)
    torch.save(model.backbone.state_dict() | {"head.weight": torch.ones(2, 64)}, tmp_path / "two.pth")
    with pytest.raises(UserError, match=r"two heads, head\.weight and linear_head\.weight"):
        load_pretrained(tmp_path / "two.pth", head=head, num_heads=HEADS)
    found = load_pretrained(backbone, head=head, num_heads=HEADS)
    save_model(tmp_path / "ours", found.card, found.flat)
    with pytest.raises(UserError, match="head cannot be given"):
        load_pretrained(tmp_path / "ours", head=head)
    for name in ("a_linear_head.pth", "a_linear4_head.pth", "a.pth"):
        (tmp_path / "several").mkdir(exist_ok=True)
        torch.save(model.linear_head.state_dict(), tmp_path / "several" / name)
    with pytest.raises(UserError, match="several heads"):
        load_pretrained(tmp_path / "several")


def test_pool_of_several_blocks_is_for_vision_transformers():
    assert get("dinov2_vits14").skeleton(1000, pool="cls4_mean").entries["head.kernel"].shape == (5 * 384, 1000)
    with pytest.raises(UserError, match="outputs of several blocks"):
        get("resnet50").skeleton(3, pool="cls4_mean")
