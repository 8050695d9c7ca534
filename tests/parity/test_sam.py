"""What only SAM has: prompts alone and together, other image sizes, two names for one matrix, what is recognised."""

import dataclasses
import itertools
from collections import Counter

import jax
import numpy as np
import pytest
import torch
from flax import nnx
from safetensors.torch import load_file, save_file

from convert.load import load_pretrained
from jaxdino.core.errors import UserError
from jaxdino.core.params import bind
from jaxdino.models.layers import LayerNorm
from jaxdino.models.published import sam as published
from jaxdino.models.registry import get
from tests.parity import sam_cases
from tests.parity.drawing import channels_last, draw, images
from tests.parity.ours import assert_same
from tests.torchvision_stub import import_torchvision

PARTS = (("points", "labels"), ("boxes",), ("masks",))
TOGETHER = [sum(parts, ()) for n in (1, 2, 3) for parts in itertools.combinations(PARTS, n)]
MATRICES = ("shared_image_embedding.positional_embedding", "prompt_encoder.shared_embedding.positional_embedding")


@pytest.fixture(scope="module")
def hf(tmp_path_factory):
    """transformers' model, its folder, and ours."""
    model = draw(sam_cases.build_hf())
    sam_cases.prepare(model)
    folder = sam_cases.save_hf(model, tmp_path_factory.mktemp("hf"))
    return model, folder, load_pretrained(folder)


def masks(pretrained, embedding: torch.Tensor, prompts) -> dict[str, np.ndarray]:
    """Ours, several masks and one."""
    skeleton = pretrained.card.spec.skeleton()

    def run(flat, embedding, prompts):
        backbone = bind(skeleton, flat).backbone
        several, one = (backbone.masks(embedding, **prompts, multimask=multimask) for multimask in (True, False))
        return {"masks": several[0], "iou": several[1], "one mask": one[0], "one iou": one[1]}

    arrays = {name: tensor.numpy() for name, tensor in prompts.items()}
    seen = jax.jit(run)(pretrained.flat, embedding.permute(0, 2, 3, 1).numpy(), arrays)
    return {name: np.asarray(value) for name, value in seen.items()}


def theirs(model, embedding: torch.Tensor, prompts) -> dict[str, torch.Tensor]:
    """transformers', several masks and one."""
    given = {f"input_{name}": tensor for name, tensor in prompts.items()}
    with torch.no_grad():
        several, one = (model(image_embeddings=embedding, multimask_output=m, **given) for m in (True, False))
    return {
        "masks": several.pred_masks,
        "iou": several.iou_scores,
        "one mask": one.pred_masks,
        "one iou": one.iou_scores,
    }


@pytest.mark.parametrize("parts", TOGETHER, ids="+".join)
def test_prompts_alone_and_together(hf, parts):
    model, _, ours = hf
    embedding = torch.randn(2, 32, 8, 8, generator=torch.Generator().manual_seed(2))
    prompts = {name: value for name, value in sam_cases.prompts(64, 64).items() if name in parts}
    assert_same(masks(ours, embedding, prompts), theirs(model, embedding, prompts))


@pytest.mark.parametrize("label", [-1, -10])
def test_points_that_are_none(hf, label):
    """-1 is a learned vector, -10 is transformers' own: zeros."""
    model, _, ours = hf
    embedding = torch.randn(2, 32, 8, 8, generator=torch.Generator().manual_seed(4))
    prompts = {name: value.clone() for name, value in sam_cases.prompts(64, 64).items() if name in PARTS[0]}
    prompts["labels"][:, :, 1] = label
    assert_same(masks(ours, embedding, prompts), theirs(model, embedding, prompts))


@pytest.mark.parametrize("size", [48, 112])
def test_a_model_built_for_another_size(tmp_path, size):
    """Of 48 pixels a side the windows are as large as half the image, of 112 they are padded."""
    config = dataclasses.replace(sam_cases.TINY, image_size=size)
    model = draw(sam_cases.build_hf(config))
    sam_cases.prepare(model)
    ours = load_pretrained(sam_cases.save_hf(model, tmp_path))
    own = ours.card.spec
    assert own.config == dataclasses.replace(config, decoder_eps=1e-6, position_names="image")
    assert own.preprocess.size == (size, size)
    pixels, skeleton = images(size, size), own.skeleton()
    out = jax.jit(lambda flat, x: bind(skeleton, flat)(x))(ours.flat, channels_last(pixels))
    with torch.no_grad():
        embedding = model.get_image_embeddings(pixels)
    assert_same({"embedding": np.asarray(out.patches)}, {"embedding": embedding.permute(0, 2, 3, 1)})
    np.testing.assert_allclose(out.pooled, out.patches.mean(axis=(1, 2)), atol=1e-6)
    assert out.registers.shape == (2, 0, 32) and out.stages == ()


@pytest.mark.parametrize(("kept", "names"), [(0, "image"), (1, "prompt")])
def test_either_name_of_the_matrix_is_enough(hf, tmp_path, kept, names):
    _, folder, ours = hf
    state = load_file(folder / "model.safetensors")
    state[MATRICES[kept]] = state.pop(MATRICES[0])
    save_file(state, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    again = load_pretrained(tmp_path)
    assert again.card.spec.config.position_names == names
    assert again.card.digest == ours.card.digest


def test_two_matrices_that_differ_are_refused(hf, tmp_path):
    _, folder, _ = hf
    state = load_file(folder / "model.safetensors")
    state[MATRICES[1]] = state[MATRICES[0]] + 1
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="another name"):
        load_pretrained(tmp_path)


def test_what_no_published_sam_does_is_refused(hf, tmp_path):
    _, folder, _ = hf
    for name in ("model.safetensors", "config.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    text = (folder / "config.json").read_text()
    (tmp_path / "config.json").write_text(text.replace('"hidden_act": "relu"', '"hidden_act": "gelu"'))
    with pytest.raises(UserError, match="hidden_act"):
        load_pretrained(tmp_path)
    with pytest.raises(UserError, match="3 attention heads, not for 4"):
        load_pretrained(folder, num_heads=4)


@pytest.mark.parametrize("spec", published.SPECS, ids=lambda spec: spec.name)
def test_published_sizes(spec):
    import_torchvision()
    import transformers

    c = spec.config
    vision = {"hidden_size": c.encoder_width, "num_hidden_layers": c.depth, "num_attention_heads": c.num_heads}
    vision |= {"mlp_dim": c.mlp_dim, "global_attn_indexes": list(c.global_attn_indexes)}
    with torch.device("meta"):
        model = transformers.SamModel(transformers.SamConfig(vision_config=vision))
    matrix = model.shared_image_embedding.positional_embedding.numel()
    counts = sum(parameter.numel() for parameter in model.parameters())
    assert get(spec.name).skeleton().num_params == counts - matrix
    config = dataclasses.replace(c, decoder_eps=1e-6)  # transformers' own
    ours = nnx.eval_shape(lambda: config.build(rngs=nnx.Rngs(0)))
    epsilons = Counter(part.eps for _, part in nnx.iter_modules(ours) if isinstance(part, LayerNorm))
    assert epsilons == Counter(part.eps for part in model.modules() if hasattr(part, "eps"))


def test_masked_patches_are_refused():
    skeleton = dataclasses.replace(published.SPECS[0], config=sam_cases.TINY).skeleton()
    flat = {path: np.zeros(entry.shape, np.float32) for path, entry in skeleton.entries.items()}
    with pytest.raises(UserError, match="mask token"):
        bind(skeleton, flat)(np.zeros((1, 64, 64, 3), np.float32), mask=np.zeros((1, 8, 8), bool))
