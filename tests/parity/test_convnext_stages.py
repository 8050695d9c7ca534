"""What is special to ConvNeXts: outputs of single stages, feature maps on a ViT's grid, the norm under two names."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from convert.export import export
from convert.load import load_pretrained
from jaxdino.core.errors import UserError
from jaxdino.core.params import bind
from jaxdino.models.published.convnext import SPECS
from tests.parity.convnext_cases import INPUTS, MetaConvNeXt, build_hf, save_hf, save_meta
from tests.parity.drawing import channels_last, draw
from tests.parity.ours import assert_same


def reference(model: MetaConvNeXt, images: torch.Tensor, patch_size: int | None) -> dict[str, torch.Tensor]:
    """Each stage's pooled and last map as Meta's `get_intermediate_layers` describes them: the last alone is normed."""
    found, x = {}, images
    size = patch_size and (images.shape[2] // patch_size, images.shape[3] // patch_size)
    for s, (downsample, stage) in enumerate(zip(model.downsample_layers, model.stages, strict=True)):
        x = stage(downsample(x))
        norm = model.norm if s == 3 else torch.nn.Identity()
        maps = F.interpolate(x, size=size, mode="bilinear", antialias=True) if size else x
        found |= {f"cls {s}": norm(x.mean(dim=(2, 3))), f"patches {s}": norm(maps.movedim(1, -1))}
    return found


@pytest.mark.parametrize("patch_size", [None, 16, 7])
def test_stages_and_the_grid_of_a_vit(tmp_path, patch_size):
    model = draw(MetaConvNeXt())
    ours = load_pretrained(save_meta(model, tmp_path))
    skeleton = ours.card.spec.skeleton()
    images = INPUTS["odd"]["images"]

    def run(flat, images):
        layers = bind(skeleton, flat).backbone.intermediate_layers(images, n=4, patch_size=patch_size)
        return {f"{name} {s}": getattr(out, name) for s, out in enumerate(layers) for name in ("cls", "patches")}

    found = jax.tree.map(np.asarray, jax.jit(run)(ours.flat, channels_last(images)))
    assert_same(found, reference(model, images, patch_size))


def test_stages_are_transformers_hidden_states(tmp_path):
    model = draw(build_hf())
    ours = load_pretrained(save_hf(model, tmp_path))
    images = INPUTS["wide"]["images"]
    with torch.no_grad():
        states = model(images, output_hidden_states=True).hidden_states[-4:]
    out = bind(ours.card.spec.skeleton(), ours.flat)(channels_last(images))
    found = {str(s): np.asarray(x) for s, x in enumerate(out.stages)}
    assert_same(found, {str(s): x.movedim(1, -1) for s, x in enumerate(states)})


def test_the_second_name_of_the_norm_must_agree(tmp_path):
    model = draw(MetaConvNeXt())
    state = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    state["norms.3.bias"][0] += 1
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"norms\.3\.bias is another name"):
        load_pretrained(tmp_path / "other.pth")
    del state["norms.3.bias"]
    torch.save(state, tmp_path / "half.pth")
    with pytest.raises(UserError, match=r"missing norms\.3\.bias"):
        load_pretrained(tmp_path / "half.pth")


def test_another_epsilon_goes_to_timm_and_is_told_where_it_cannot_go(tmp_path):
    save_hf(build_hf(), tmp_path / "hf")
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    (tmp_path / "hf" / "config.json").write_text(json.dumps(config | {"layer_norm_eps": 1e-3}))
    notes = {layout: export(tmp_path / "hf", tmp_path / layout, layout=layout) for layout in ("timm", "meta")}
    assert any("norm_eps = 1e-06, this model 0.001" in note for note in notes["meta"])
    assert not any("norm_eps" in note for note in notes["timm"])
    found = [load_pretrained(tmp_path / layout).card.spec.config.norm_eps for layout in ("hf", "timm", "meta")]
    assert found == [1e-3, 1e-3, 1e-6]


def test_published_shapes_have_their_names():
    from convert.recognise import recognise
    from convert.tables import FAMILIES

    assert any("convnext" in family.names for family in FAMILIES)
    for spec in SPECS:
        with torch.device("meta"):
            config = dataclasses.asdict(spec.config)
            shapes = _shapes(config["depths"], config["widths"])
        found = recognise(shapes)
        published = dataclasses.replace(spec, config=dataclasses.replace(spec.config, norm_twice=False))
        assert (found.spec, found.layout, found.num_classes) == (published, "meta", 0)


def _shapes(depths: tuple[int, ...], widths: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """The keys that a shape is told from."""
    blocks = [(s, i) for s, depth in enumerate(depths) for i in range(depth)]
    convolutions = {f"stages.{s}.{i}.dwconv.weight": (widths[s], 1, 7, 7) for s, i in blocks}
    return {"downsample_layers.0.0.weight": (widths[0], 3, 4, 4), **convolutions}
