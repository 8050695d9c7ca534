"""The peer of benchmarks.segment_stages computes and trains what each stage of configs/clipdinosam.py does."""

import re
from argparse import Namespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers as hf

from benchmarks import segment_peer, segment_stages
from convert.load import load_pretrained
from jaxdino.core.params import bind
from jaxdino.data.photometric import normalize
from tests.parity.hf_models import save

ARGS = Namespace(model="dinov3_digits", text="clip_tiny", sam="sam_tiny", size=32, batch=3, dtype="float32")
STAGES = ("align", "adapt", "refine", "full")
HEADS = {".proj_in.": ".layers.0.", ".layers.0.": ".layers.1.", ".proj_out.": ".layers.2."}
PROJECTIONS = {
    "token_projection.0": "token_projection.norm",
    "token_projection.1": "token_projection.fc1",
    "token_projection.3": "token_projection.fc2",
    **{f"neck.{i}": f"token_to_mask.neck.{i}" for i in range(4)},
    "text": "token_to_mask.text",
}


@pytest.fixture(scope="module")
def setup():
    return segment_stages.setup_of(ARGS)


def peer_of(setup, part) -> segment_peer.Segmenter:
    """Return the peer of a stage, every parameter drawn."""
    torch.manual_seed(0)
    peer = segment_peer.Segmenter(setup.task.spec_of(part.stage).config, ARGS.size)
    with torch.no_grad():
        for name, x in peer.named_parameters():
            fan_in = x[0].numel() if x.ndim > 1 else 10
            x.normal_(1.0 if "norm" in name and x.ndim == 1 else 0.0, fan_in**-0.5)
        peer.positions = peer.image_positions()
    return peer


def adapter_path(name: str) -> str:
    """Return our path of a peer's adapter leaf."""
    *place, leaf, _ = name.split(".")
    place = ".".join(place)
    if found := re.fullmatch(r"dino\.model\.layer\.(\d+)\.attention\.(.)_proj", place):
        return f"backbone.dino.blocks.{found[1]}.attn.qkv.lora.{found[2]}.{leaf}"
    if "mlps." in place or "head." in place:
        place = re.sub(r"\.(proj_in|layers\.0|proj_out)\.", lambda m: HEADS[m[0]], f"{place}.")[:-1]
    return f"backbone.sam.mask_{place}.lora.{leaf}"


def kernel(weight: torch.Tensor) -> np.ndarray:
    """Return a weight in our order of axes."""
    order = {4: (2, 3, 1, 0), 2: (1, 0), 1: (0,)}
    return weight.detach().numpy().transpose(order[weight.ndim])


def flat_of(peer: segment_peer.Segmenter, folder) -> dict[str, np.ndarray]:
    """Return the peer's parameters under our paths; its adapters are taken off."""
    flat, named = {}, dict(peer.named_parameters())
    for name in [name for name in named if name.endswith((".a.weight", ".b.weight"))]:
        flat[adapter_path(name)] = kernel(named[name])
    for theirs, ours in PROJECTIONS.items():
        weight, bias = named[f"{theirs}.weight"], named.get(f"{theirs}.bias")
        flat[f"backbone.{ours}.{'scale' if weight.ndim == 1 else 'kernel'}"] = kernel(weight)
        if bias is not None:
            flat[f"backbone.{ours}.bias"] = kernel(bias)
    flat["backbone.token_to_mask.similarity"] = kernel(peer.similarity)
    for parent in list(peer.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, segment_peer.Adapted):
                parent._modules[name] = child.base
    width = peer.decoder.config.hidden_size
    vision = dict(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, global_attn_indexes=[0], patch_size=4)
    vision |= dict(image_size=ARGS.size, output_channels=width, num_pos_feats=width // 2)
    prompts = dict(hidden_size=width, image_size=ARGS.size, patch_size=4, mask_input_channels=8)
    sam = hf.SamModel(
        hf.SamConfig(
            vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=peer.decoder.config.to_dict()
        )
    )
    sam.mask_decoder, sam.prompt_encoder = peer.decoder, peer.prompts
    sam.shared_image_embedding = peer.prompts.shared_embedding
    for model, inner, outer in ((peer.dino, r"", "dino."), (sam, r"(mask_decoder|prompt_encoder)\.", "sam.")):
        for path, array in load_pretrained(save(model, folder / outer)).flat.items():
            if re.match(rf"backbone\.{inner}", path):
                flat[path.replace("backbone.", f"backbone.{outer}", 1)] = np.asarray(array)
    return flat


@pytest.mark.parametrize("name", STAGES)
def test_the_peer_trains_the_same_parameters(setup, name):
    part = setup.parts[STAGES.index(name)]
    peer = peer_of(setup, part)
    found = sum(p.numel() for group in segment_peer.trained(peer, part.plan) for p in group["params"])
    image = setup.task.spec.config.image
    no_key_bias = image.width * image.depth if name == "full" else 0  # ours has it, times zero
    assert found == part.plan.trainable_params - no_key_bias
    groups = {leaf.group for leaf in part.plan.leaves.values() if not leaf.frozen}
    assert groups == {"projections", "lora"} | ({"dino"} if name == "full" else set())


@pytest.mark.parametrize("name", ("adapt", "full"))
def test_loss_and_gradient_are_ours(setup, name, tmp_path):
    found = (stage for stage in segment_stages.stages(setup) if stage[0].stage.name == name)
    part, begun, batch, objective = next(found)
    peer, how = peer_of(setup, part), setup.task.spec.preprocess
    given = segment_peer.on_device(batch, objective.features)
    groups = segment_peer.trained(peer, part.plan)
    loss = segment_peer.losses(
        *peer(segment_peer.normaliser(how)(given["image"]), given["text"]), given, objective.settings
    )
    loss.backward()
    squares = [p.grad.square().sum() for group in groups for p in group["params"] if p.grad is not None]

    flat = {path: np.asarray(x) for path, x in (begun["moving"]["trainable"] | begun["frozen"]).items()}
    flat |= {path: np.asarray(x) for path, x in begun["moving"]["buffers"].items()}
    changed = flat_of(peer, tmp_path)
    assert set(changed) <= set(flat)
    assert {path for path in set(flat) - set(changed) if not path.startswith("backbone.clip.")} == set()
    flat |= changed
    row = {name: jnp.asarray(x) for name, x in batch.items()} | {"image": normalize(batch["image"], how.mean, how.std)}
    row["weight"] = row["weight"][:, None] * row["asked"]

    @jax.jit
    def ours(trainable, frozen):
        return objective.loss(bind(part.skeleton, frozen | trainable), row, None)[0]

    learns = {path: flat.pop(path) for path in part.plan.trainable}
    value, grads = jax.value_and_grad(ours)(learns, flat)
    norm = np.sqrt(sum(np.square(np.asarray(grad)).sum() for grad in grads.values()))
    np.testing.assert_allclose(float(value), loss.item(), rtol=1e-5)
    np.testing.assert_allclose(norm, float(sum(squares)) ** 0.5, rtol=1e-4)
