"""The PyTorch modules in docs/torch_heads.md give the numbers of our heads from the exported state dict."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from convert.card import Card
from convert.export import export
from convert.load import load_pretrained
from convert.store import save_model
from convert.tables.own_heads import PREFIX
from jaxdino.core.errors import UserError
from jaxdino.core.params import bind, split
from jaxdino.models.heads.decoders import DPTHeadConfig, FPNHeadConfig, MLPHeadConfig
from jaxdino.models.heads.detr import DETRHeadConfig
from jaxdino.models.heads.fcos import FCOSHeadConfig
from jaxdino.models.heads.mask_queries import MaskQueriesHeadConfig
from jaxdino.models.heads.patches import PatchesHeadConfig
from jaxdino.models.output import Output
from jaxdino.models.published import vit
from jaxdino.models.resnet import ResNetConfig
from jaxdino.models.spec import ModelSpec, Preprocess
from jaxdino.models.vit import ViTConfig

PAGE = Path(__file__).parents[2] / "docs" / "torch_heads.md"
CHANNELS = (8, 16, 32, 64)
RESNET = ModelSpec(
    "resnet_custom", "resnet", ResNetConfig(False, (1, 1, 1, 1), CHANNELS, 1, 8), Preprocess(size=(64, 96))
)
VIT = ModelSpec("dinov3_custom", "dinov3", ViTConfig(4, 32, 4, 2, 64, **vit.DINOV3), Preprocess(size=(32, 48)))
CASES = {
    "fcos": (RESNET, FCOSHeadConfig(3, width=16, convs=1), dict(width=16, convs=1, channels=CHANNELS[1:])),
    "fcos on patches": (
        VIT,
        FCOSHeadConfig(3, 2, "patches", (2, 4, 8, 16), width=16, convs=2),
        dict(width=16, channels=(16, 64, 64), doubled=64),
    ),
    "detr": (
        RESNET,
        DETRHeadConfig(3, queries=9, layers=2, width=16),
        dict(queries=9, layers=2, width=16, channels=CHANNELS[1:]),
    ),
    "detr on patches": (VIT, DETRHeadConfig(3, 1, "patches", 9, 2, 16), dict(queries=9, layers=2, width=16, simple=32)),
    "mlp": (RESNET, MLPHeadConfig(3, 1, "stages", width=8), dict(width=8, channels=CHANNELS)),
    "mlp on blocks": (VIT, MLPHeadConfig(3, (0, 1, 2, 3), width=8), dict(width=8, channels=(32,) * 4)),
    "fpn": (RESNET, FPNHeadConfig(3, 1, "stages", width=8), dict(width=8, channels=CHANNELS)),
    "fpn on patches": (VIT, FPNHeadConfig(3, width=8), dict(width=8, simple=32)),
    "linear on stages": (RESNET, PatchesHeadConfig(3, stages=3), None),
    "masks": (
        RESNET,
        MaskQueriesHeadConfig(3, 7, "stages", layers=4, width=16),
        dict(queries=7, width=16, layers=4, channels=CHANNELS),
    ),
    "masks in blocks": (VIT, MaskQueriesHeadConfig(3, 7, "tokens", 2, upscale=1), None),
    "dpt on stages": (RESNET, DPTHeadConfig(3, 1, "stages", width=8, readout=False), None),
}
CLASSES = {"fcos": "FCOS", "mlp": "MLP", "fpn": "FPN", "mask_queries": "Masks", "detr": "DETR"}


def published() -> dict:
    """What the page defines; its first example, of loading, is not run."""
    names: dict = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)[1:]:
        exec(block, names)
    return names


def drawn(spec, head):
    """Our model with parameters that all matter."""
    rng = np.random.default_rng(3)
    _, flat = split(spec.build(head=head, rngs=nnx.Rngs(0)))
    found = {}
    for path, array in flat.items():
        leaf, shape = path.rpartition(".")[2], array.shape
        if leaf in ("scale", "var", "scales"):
            value = rng.uniform(0.5, 1.5, shape)
        elif leaf == "kernel" or len(shape) == 4:
            value = rng.normal(0, 1 / np.sqrt(np.prod(shape[:-1])), shape)
        else:
            value = rng.normal(0, 0.3, shape)
        found[path] = value.astype(array.dtype)
    return found


def outputs(head, grid=(5, 7)):
    """What a backbone gives the head: feature maps, whose sides do not all double, or patch tokens."""
    rng = np.random.default_rng(1)
    none = jnp.zeros((2, 0, 1))
    if "stages" in (getattr(head, name, "") for name in ("source", "pyramid", "form")):
        sizes = [(20, 28), (10, 14), (5, 7), (3, 4)]
        maps = tuple(
            jnp.asarray(rng.normal(size=(2, *s, c)), jnp.float32) for s, c in zip(sizes, CHANNELS, strict=True)
        )
        return [Output(none, maps[-1], none, none, maps)]
    count = len(head.blocks) if isinstance(head.blocks, tuple) else head.blocks
    maps = [jnp.asarray(rng.normal(size=(2, *grid, 32)), jnp.float32) for _ in range(count)]
    return [Output(none, one, none, none) for one in maps]


def compared(name, tmp_path, flat):
    """Ours and the published module's outputs, from an export of these parameters."""
    spec, head, how = CASES[name]
    outs = outputs(head)
    net = bind(spec.skeleton(head=head), flat)
    ours = jax.jit(lambda: net.head(outs))()
    (file,) = tmp_path.glob("*_head.pth")
    module = published()[CLASSES[head.name]](3, **how).eval()
    module.load_state_dict({key.removeprefix(PREFIX): value for key, value in torch.load(file).items()})
    stages = outs[-1].stages[-3:] if head.name in ("fcos", "detr") else outs[-1].stages
    maps = [torch.tensor(np.asarray(x)).permute(0, 3, 1, 2) for x in stages or [out.patches for out in outs]]
    given = torch.cat(maps, 1) if name.endswith("on patches") else maps
    with torch.no_grad():
        theirs = module(given)
    if head.name in ("mlp", "fpn"):
        return [(ours["logits"], theirs.permute(0, 2, 3, 1))]
    names = {"fcos": ("logits", "distances", "centerness"), "detr": ("logits", "boxes")}.get(
        head.name, ("logits", "masks")
    )
    return list(zip((ours[one] for one in names), theirs, strict=True))


def written(name, folder):
    """Save and export a model; its parameters."""
    spec, head, _ = CASES[name]
    flat = drawn(spec, head)
    save_model(folder / "ours", Card(spec, head, tuple("abc"), "meta" if spec is VIT else "torchvision"), flat)
    export(folder / "ours", folder / "out")
    return flat


@pytest.mark.parametrize("name", CASES)
def test_the_module_of_the_page_and_the_round_trip(tmp_path, name):
    flat = written(name, tmp_path)
    if CASES[name][2] is not None:
        for ours, theirs in compared(name, tmp_path / "out", flat):
            worst = np.abs(np.asarray(ours) - theirs.numpy()).max() / np.abs(theirs.numpy()).max()
            assert worst < 1e-4, worst
    again = load_pretrained(tmp_path / "out")
    assert again.card.head == CASES[name][1] and again.card.class_names == ("a", "b", "c")
    assert all(np.array_equal(again.flat[path], flat[path]) for path in flat)


def test_a_head_without_our_notes_is_named(tmp_path):
    written("fcos", tmp_path)
    (tmp_path / "out" / "jaxdino.json").unlink()
    with pytest.raises(UserError, match=r"a head of ours, whose shape is in the jaxdino\.json"):
        load_pretrained(tmp_path / "out")
