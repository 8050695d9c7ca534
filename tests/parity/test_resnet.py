"""What is special to ResNets: training mode against torch, and networks that are not the plain one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import nn

from convert.export import export
from convert.head_keys import bound_table
from convert.load import load_pretrained
from convert.recognise import Hints, recognise
from jaxdino.core.errors import UserError
from jaxdino.core.params import bind, split
from jaxdino.models.batch_norm import set_training
from jaxdino.models.published import resnet as published
from tests.parity.drawing import channels_last, draw, images
from tests.parity.ours import assert_same, worst
from tests.parity.resnet_cases import CLASSES, build_torchvision, prepare, save_dino, save_old, save_pth

IMAGES = images(40, 72)
GRADIENT_TOLERANCE = 1e-4


def drawn(*shape) -> nn.Module:
    """A tiny torchvision model, every parameter and statistic drawn."""
    model = draw(build_torchvision(*shape))
    prepare(model)
    return model


def objective(seen: dict, lib) -> object:
    """A scalar to which every place contributes with other weights."""
    size = (lambda x: x.size) if lib is jnp else (lambda x: x.numel())
    return sum((lib.sin(lib.arange(size(x))).reshape(x.shape) * x).sum() for _, x in sorted(seen.items()))


def theirs(model: nn.Module, frozen: str | None) -> tuple[dict, dict, dict]:
    """(outputs, gradients, state dict afterwards) of one step in training mode; modules named `frozen` evaluate."""
    model.train()
    for name, module in model.named_modules():
        if frozen and name.startswith(frozen):
            module.eval().requires_grad_(False)
    x, seen = model.maxpool(model.relu(model.bn1(model.conv1(IMAGES)))), {}
    for s in range(4):
        x = getattr(model, f"layer{s + 1}")(x)
        seen[f"stage {s}"] = x.movedim(1, -1)
    seen["logits"] = model.fc(x.mean(dim=(2, 3)))
    objective(seen, torch).backward()
    gradients = {name: p.grad.numpy() for name, p in model.named_parameters() if p.grad is not None}
    return {k: v.detach() for k, v in seen.items()}, gradients, {k: v.numpy() for k, v in model.state_dict().items()}


def ours(pretrained, frozen: str | None, remat: bool) -> tuple[dict, dict, dict]:
    """The same of ours, by our paths."""
    card = pretrained.card
    skeleton = card.spec.skeleton(card.num_classes, pool=card.pool, remat=remat)
    trained = [p for p in skeleton.paths("param") if not (frozen and p.startswith(f"backbone.{frozen}"))]
    params = {path: jnp.asarray(pretrained.flat[path]) for path in trained}
    others = {path: jnp.asarray(array) for path, array in pretrained.flat.items() if path not in params}

    @jax.jit
    @functools.partial(jax.grad, has_aux=True)
    def step(params):
        model = bind(skeleton, params | others)
        set_training(model, params)
        out = model(channels_last(IMAGES))
        seen = {f"stage {s}": x for s, x in enumerate(out.stages)} | {"logits": out.logits}
        flat = split(model)[1]
        return objective(seen, jnp), (seen, {path: flat[path] for path in others})

    gradients, (seen, moved) = step(params)
    return seen, gradients, others | moved | params


@pytest.mark.parametrize(
    ("bottleneck", "frozen", "remat"),
    [(False, None, False), (False, "layer2", False), (True, None, False), (True, "layer2", True)],
    ids=["basic", "basic, a stage frozen", "bottleneck", "bottleneck, a stage frozen, remat"],
)
def test_training_mode_is_torchs(tmp_path, bottleneck, frozen, remat):
    model = drawn(bottleneck, CLASSES)
    pretrained = load_pretrained(save_pth(model, tmp_path))
    seen, gradients, flat = jax.tree.map(np.asarray, ours(pretrained, frozen, remat))
    expected, expected_gradients, state = theirs(model, frozen)
    assert_same(seen, expected)
    card = pretrained.card
    table = bound_table(card.spec, card.layout, card.head)
    zeros = {path: np.zeros_like(array) for path, array in flat.items()}
    written = {tensor.key: tensor.make() for tensor in table.write(zeros | gradients)}
    shares = {k: np.abs(written[k] - g).max() / np.abs(g).max() for k, g in expected_gradients.items()}
    assert {key: share for key, share in shares.items() if not share <= GRADIENT_TOLERANCE} == {}
    after = {tensor.key: tensor.make() for tensor in table.write(flat)}
    moved = [key for key in state if key.endswith(("running_mean", "running_var"))]
    assert max(worst({k: after[k] for k in moved}, {k: torch.from_numpy(state[k]) for k in moved}).values()) <= 1e-6
    for key in state:
        if key.endswith("num_batches_tracked"):
            still = frozen is not None and key.startswith(frozen)
            assert after[key] == state[key] == 12_345 + (not still)


def test_a_mistake_in_the_statistics_would_show(tmp_path):
    pretrained = load_pretrained(save_pth(drawn(True, CLASSES), tmp_path))
    _, _, trained = ours(pretrained, None, False)
    for path, before in pretrained.flat.items():
        if path.split(".")[-1] in ("mean", "var"):
            assert np.abs(np.asarray(trained[path]) - before).max() > 1e-3 * np.abs(before).max(), path


def test_counts_come_back_as_torch_wrote_them(tmp_path):
    model = drawn(True)
    model.bn1.num_batches_tracked.fill_(2**31 - 1)
    export(save_pth(model, tmp_path), tmp_path / "out", dtype="float16")
    state = torch.load(next((tmp_path / "out").glob("*.pth")), weights_only=True)
    assert state["bn1.num_batches_tracked"].dtype == torch.int64 and state["bn1.num_batches_tracked"] == 2**31 - 1
    assert state["conv1.weight"].dtype == torch.float16
    old = load_pretrained(save_old(model, tmp_path))
    assert not any("num_batches" in path for path in old.flat)


def test_wide_bottlenecks(tmp_path):
    model = drawn(True, CLASSES, 128)
    pretrained = load_pretrained(save_pth(model, tmp_path))
    assert pretrained.card.spec.config.reduction == 2
    out = bind(pretrained.card.spec.skeleton(CLASSES, pool="mean"), pretrained.flat)(channels_last(IMAGES))
    with torch.no_grad():
        assert_same({"logits": np.asarray(out.logits)}, {"logits": model(IMAGES)})
    with pytest.raises(UserError, match="4 times narrower"):
        export(tmp_path / "resnet.pth", tmp_path / "hf", layout="hf")


def test_a_full_dino_checkpoint_gives_teacher_or_student(tmp_path):
    path = save_dino(drawn(True), tmp_path)
    for prefix, plus in ((None, 0), ("student.module.backbone", 1)):
        found = load_pretrained(path, layout="meta", prefix=prefix)
        assert found.card.spec.family == "dino_resnet"
        assert found.flat["backbone.bn1.num_batches_tracked"] == 12_345 + plus


def shapes_of(spec, num_classes: int, layout: str) -> dict[str, tuple[int, ...]]:
    """The keys and shapes that a model has in a layout."""
    table = bound_table(spec, layout, spec.linear(num_classes))
    skeleton = spec.skeleton(num_classes)
    leaves = {path: np.broadcast_to(np.zeros((), e.dtype), e.shape) for path, e in skeleton.entries.items()}
    return {tensor.key: tensor.shape for tensor in table.write(leaves)}


@pytest.mark.parametrize("spec", published.SPECS, ids=lambda spec: spec.name)
def test_published_shapes_have_their_names(spec):
    dino = spec.name.startswith("dino")
    shapes = shapes_of(spec, 0 if dino else 1000, "meta" if dino else "torchvision")
    found = recognise(shapes)
    assert (found.spec, found.layout) == (spec, "meta" if dino else "torchvision")
    assert found.num_classes == (0 if dino else 1000)
    named = recognise(shapes, hints=Hints(model="resnet50")) if dino else None
    assert named is None or (named.spec.name, named.layout) == ("resnet50", "torchvision")


def test_variants_with_the_same_keys_are_refused():
    shapes = shapes_of(published.SPECS[2], 1000, "torchvision")
    for json in ({"architecture": "resnetblur50.bt_in1k"}, {"model_type": "resnet", "downsample_in_bottleneck": True}):
        with pytest.raises(UserError, match=r"config\.json"):
            recognise(shapes, hints=Hints(json=json))
    with pytest.raises(UserError, match="FCN or DeepLab"):
        recognise({f"backbone.{key}": shape for key, shape in shapes.items()} | {"classifier.1.weight": (512,)})
    with pytest.raises(UserError, match="ResNeXt"):
        recognise(shapes | {"layer1.0.conv2.weight": (64, 2, 3, 3)})
    with pytest.raises(UserError, match="variant"):
        recognise({key: shape for key, shape in shapes.items() if key != "conv1.weight"})


CHILDREN = {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6", "layer4": "7"}


@pytest.mark.parametrize("prefix", ["", "backbone.", "model.backbone."])
def test_a_sequential_of_a_resnets_children_is_read(tmp_path, prefix):
    """lightly's backbones: nn.Sequential(*list(resnet.children())[:-1]), a projection head beside them."""
    model = drawn(False)
    torch.save({k: v for k, v in model.state_dict().items() if not k.startswith("fc.")}, tmp_path / "plain.pth")
    children = torch.nn.Sequential(*list(model.children())[:-1]).state_dict()
    assert any(key.startswith("4.0.conv1.") for key in children)
    state = {prefix + key: tensor for key, tensor in children.items()}
    torch.save({"state_dict": {**state, "projection_head.layers.0.weight": torch.zeros(4, 20)}}, tmp_path / "c.ckpt")
    found, plain = load_pretrained(tmp_path / "c.ckpt"), load_pretrained(tmp_path / "plain.pth")
    assert found.card.digest == plain.card.digest and found.card.spec == plain.card.spec
    assert any("nn.Sequential(*resnet.children())" in note for note in found.notes)
    whole = {f"{CHILDREN.get(key.split('.')[0], 'fc')}.{key.partition('.')[2]}" for key in model.state_dict()}
    assert set(children) <= whole


@pytest.mark.parametrize(
    ("more", "prefix", "family"),
    [
        ({}, "", "dino_resnet"),
        ({}, "teacher.backbone.", "dino_resnet"),
        ({"fc.0.weight": (128, 2048)}, "", "resnet"),  # MoCo v2
        ({"projection_head.0.weight": (128, 2048)}, "", "resnet"),  # SwAV
        ({"prototypes.weight": (3000, 128)}, "", "resnet"),
        ({"fc.weight": (1000, 2048), "fc.bias": (1000,)}, "", "resnet"),
        ({}, "module.base_encoder.", "resnet"),
    ],
)
def test_dinos_resnet_is_one_without_any_head(more, prefix, family):
    """DINO's images are resized bicubically, everyone else's bilinearly."""
    shapes = shapes_of(published.SPECS[-1], 0, "meta") | more
    found = recognise({prefix + key: shape for key, shape in shapes.items()})
    assert found.spec.family == family
    assert found.spec.preprocess.interpolation == ("bicubic" if family == "dino_resnet" else "bilinear")
    assert any("DINO's ResNet-50" in line for line in found.assumed) == (family == "dino_resnet")
