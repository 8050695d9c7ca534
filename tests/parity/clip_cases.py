"""Tiny CLIPs of every layout: transformers' classes, and plain torch modules with OpenAI's and open_clip's names."""

import functools
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import torch
import transformers as hf
from safetensors.torch import save_file
from torch import nn

from tests.parity import clip_modules
from tests.parity.family_case import FamilyCase

PATCH, SIDE, EOT = 4, 16, 98

HF_VISION = dict(
    hidden_size=128,
    intermediate_size=512,
    num_hidden_layers=3,
    num_attention_heads=2,
    patch_size=PATCH,
    image_size=SIDE,
    projection_dim=48,
)
HF_TEXT = dict(
    hidden_size=64,
    intermediate_size=256,
    num_hidden_layers=2,
    num_attention_heads=1,
    vocab_size=EOT + 1,
    max_position_embeddings=12,
    projection_dim=48,
    bos_token_id=97,
    eos_token_id=EOT,
)


def ids(length: int, pad: int = 0) -> torch.Tensor:
    """Eight texts with their marks, of different lengths, padded; the first has the id in the middle of the table."""
    rows = [[97, 5, 17, 49, EOT], [97, 61, EOT]]
    rows += [[97, *((7 * n + 11 * k) % 90 + 1 for k in range(1 + n % 3)), EOT] for n in range(6)]
    return torch.tensor([row + [pad] * (length - len(row)) for row in rows])


def _pixels(height: int, width: int) -> torch.Tensor:
    return torch.randn(4, 3, height, width, generator=torch.Generator().manual_seed(1))


def _inputs(towers: str, pad: int) -> dict[str, dict[str, torch.Tensor]]:
    sizes = {"native": (SIDE, SIDE, 12), "wide": (8, 32, 7), "large": (24, 20, 5)}
    every = {name: {"images": _pixels(h, w), "ids": ids(length, pad)} for name, (h, w, length) in sizes.items()}
    keep = {"both": ("images", "ids"), "image": ("images",), "text": ("ids",)}[towers]
    return {name: {key: given[key] for key in keep} for name, given in every.items()}


# theirs: blocks are watched from outside


def _watched(blocks: nn.ModuleList, run: Callable[[], Any]) -> tuple[dict[str, torch.Tensor], Any]:
    states = {}
    hooks = [
        blocks[0].register_forward_pre_hook(lambda _, args: states.update(embedding=args[0])),
        blocks[0].register_forward_hook(lambda _, args, out: states.update({"block 0": out})),
        blocks[-1].register_forward_hook(lambda _, args, out: states.update({"last block": out})),
    ]
    result = run()
    for hook in hooks:
        hook.remove()
    return states, result


def _hf_image(tower: nn.Module, projection: nn.Module | None, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    seen, out = _watched(tower.encoder.layers, lambda: tower(pixels, interpolate_pos_encoding=True))
    seen["tokens"] = tower.post_layernorm(seen["last block"])
    seen["features"] = projection(out.pooler_output) if projection else out.pooler_output
    return {f"image {name}": value for name, value in seen.items()}


def _hf_text(tower: nn.Module, projection: nn.Module | None, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
    seen, out = _watched(tower.encoder.layers, lambda: tower(tokens))
    seen["features"] = projection(out.pooler_output) if projection else out.pooler_output
    return {f"text {name}": value for name, value in seen.items()}


def _hf_theirs(model: nn.Module, given: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    seen = {}
    if "images" in given:
        tower = getattr(model, "vision_model", model)
        seen |= _hf_image(tower, getattr(model, "visual_projection", None), given["images"])
    if "ids" in given:
        seen |= _hf_text(getattr(model, "text_model", model), getattr(model, "text_projection", None), given["ids"])
    if len(given) == 2:
        out = model(input_ids=given["ids"], pixel_values=given["images"], interpolate_pos_encoding=True)
        seen["logits per image"] = out.logits_per_image
    return seen


def _openai_theirs(model: nn.Module, given: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    seen = {}
    if "images" in given:
        image, out = _watched(model.visual.transformer.resblocks, lambda: model.visual(given["images"]))
        image |= {"tokens": out, "features": model.visual.embed(out)}
        seen |= {f"image {name}": value for name, value in image.items()}
    if "ids" in given:
        text = getattr(model, "text", model)
        states, out = _watched(text.transformer.resblocks, lambda: model.encode_text(given["ids"]))
        seen |= {f"text {name}": value for name, value in states.items()} | {"text features": out}
    if len(given) == 2:
        seen["logits per image"] = model(given["images"], given["ids"])
    return seen


# ours


def _ours(model: Any, given: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    backbone, seen = model.backbone, {}
    if "images" in given:
        states, _ = backbone.hidden_states(given["images"])
        out = model(given["images"])
        patches = out.patches.reshape(out.patches.shape[0], -1, out.patches.shape[-1])
        seen["image embedding"], seen["image block 0"], seen["image last block"] = states[0], states[1], states[-1]
        seen["image tokens"] = jax.numpy.concatenate([out.cls[:, None], patches], axis=1)
        seen["image features"] = out.pooled
    if "ids" in given:
        states = backbone.text_states(given["ids"])
        seen["text embedding"], seen["text block 0"], seen["text last block"] = states[0], states[1], states[-1]
        seen["text features"] = backbone.encode_text(given["ids"])
    if len(given) == 2:
        wide = (seen[f"{tower} features"].astype(jax.numpy.float32) for tower in ("image", "text"))
        image, text = (x / jax.numpy.linalg.norm(x, axis=-1, keepdims=True) for x in wide)
        seen["logits per image"] = jax.numpy.exp(backbone.logit_scale[...]) * (image @ text.T)
    return seen


# building, drawing and saving


@torch.no_grad()
def prepare(model: nn.Module) -> None:
    """Matrices that `draw` does not know by name, as it draws weights; the temperature as it is published."""
    generator = torch.Generator().manual_seed(7)
    for name, parameter in model.named_parameters():
        leaf = name.split(".")[-1]
        if leaf == "in_proj_weight":
            parameter.normal_(0.0, 1 / math.sqrt(parameter.shape[1]), generator=generator)
        elif leaf in ("proj", "text_projection"):
            parameter.normal_(0.0, 1 / math.sqrt(parameter.shape[0]), generator=generator)
        elif leaf == "logit_scale":
            parameter.fill_(1.7)


def _hf_save(model: nn.Module, folder: Path) -> Path:
    model.save_pretrained(folder)
    return folder


def _prefixed_save(model: nn.Module, folder: Path) -> Path:
    """As transformers 4 wrote a tower alone: keys begin with its name, and positions are counted in a buffer."""
    name = "text_model." if "Text" in type(model).__name__ else "vision_model."
    state = {f"{name}{key}": value.contiguous() for key, value in model.state_dict().items()}
    rows = model.embeddings.position_embedding.weight.shape[0]
    state[f"{name}embeddings.position_ids"] = torch.arange(rows)[None]
    model.config.save_pretrained(folder)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def _pt_save(model: nn.Module, folder: Path) -> Path:
    torch.save(model.state_dict(), folder / "clip.pt")
    return folder / "clip.pt"


def _visual_save(model: nn.Module, folder: Path) -> Path:
    """The image tower alone, with the keys it has in the whole."""
    torch.save({f"visual.{key}": value for key, value in model.visual.state_dict().items()}, folder / "visual.pt")
    return folder / "visual.pt"


def open_clip_json(quick: bool) -> dict[str, Any]:
    """open_clip_config.json of the tiny shape."""
    vision = {"image_size": SIDE, "layers": 3, "width": 128, "patch_size": PATCH}
    text = {"context_length": 12, "vocab_size": EOT + 1, "width": 64, "heads": 1, "layers": 2}
    model = {"embed_dim": 48, "vision_cfg": vision, "text_cfg": text} | ({"quick_gelu": True} if quick else {})
    return {"model_cfg": model, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.25] * 3, "resize_mode": "shortest"}}


def _open_clip_save(model: nn.Module, folder: Path, *, quick: bool, binary: bool = False) -> Path:
    (folder / "open_clip_config.json").write_text(json.dumps(open_clip_json(quick)))
    if binary:
        torch.save(model.state_dict(), folder / "open_clip_pytorch_model.bin")
    else:
        save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return folder


SILENT = ("*.attn.qkv.bias[k]",)  # the same for all keys: softmax takes it away


def _hf_case(name: str, towers: str, save=_hf_save, pad: int = 0, text=None, vision=None, **more) -> FamilyCase:
    def build() -> nn.Module:
        fields = {"text": HF_TEXT | (text or {}), "vision": HF_VISION | (vision or {})}
        if towers == "both":
            config = hf.CLIPConfig(text_config=fields["text"], vision_config=fields["vision"], projection_dim=48)
        else:
            config = (
                hf.CLIPTextConfig(**fields["text"]) if towers == "text" else hf.CLIPVisionConfig(**fields["vision"])
            )
        return getattr(hf, name)(config)

    given = _inputs(towers, pad)
    return FamilyCase("clip", "hf", build, save, given, _hf_theirs, _ours, silent=SILENT, prepare=prepare, **more)


def _torch_case(layout: str, build: Callable[[], nn.Module], save, towers: str = "both", **more) -> FamilyCase:
    given = _inputs(towers, 0)
    return FamilyCase("clip", layout, build, save, given, _openai_theirs, _ours, silent=SILENT, prepare=prepare, **more)


def _clip(**fields) -> Callable[[], nn.Module]:
    return functools.partial(clip_modules.CLIP, **fields)


GELU = {"hidden_act": "gelu"}
NARROW = GELU | {"intermediate_size": 160, "num_attention_heads": 2, "eos_token_id": 2}
EPS = {"layer_norm_eps": 1e-3}
NO_OPENAI = {"refused": ("openai",)}
LIGHT = {"thorough": False}
NAMED = LIGHT | {"overrules": {"layout": "openai"}}

CLIP_CASES = {
    "clip hf": _hf_case("CLIPModel", "both"),
    "clip hf gelu old eos": _hf_case("CLIPModel", "both", text=NARROW, vision=GELU, **NO_OPENAI),
    "clip hf eps": _hf_case("CLIPModel", "both", text=EPS, vision=EPS, refused=("openai", "open_clip"), **LIGHT),
    "clip hf first eos": _hf_case(
        "CLIPTextModel", "text", pad=17, text={"eos_token_id": 17}, refused=("openai", "open_clip"), **LIGHT
    ),
    "clip hf text": _hf_case("CLIPTextModel", "text", pad=EOT),
    "clip hf text before 5": _hf_case("CLIPTextModel", "text", save=_prefixed_save, **LIGHT),
    "clip hf text projected": _hf_case("CLIPTextModelWithProjection", "text"),
    "clip hf vision": _hf_case("CLIPVisionModel", "image"),
    "clip hf vision before 5": _hf_case("CLIPVisionModel", "image", save=_prefixed_save, **LIGHT),
    "clip hf vision projected": _hf_case("CLIPVisionModelWithProjection", "image"),
    "clip openai": _torch_case("openai", _clip(scalars=True), _pt_save),
    "clip openai state dict": _torch_case("openai", _clip(), _pt_save, **NAMED),
    "clip openai image": _torch_case("openai", _clip(), _visual_save, "image", **NAMED),
    "clip open_clip": _torch_case(
        "open_clip", _clip(quick=False), functools.partial(_open_clip_save, quick=False), **NO_OPENAI
    ),
    "clip open_clip quick": _torch_case(
        "open_clip", _clip(), functools.partial(_open_clip_save, quick=True, binary=True), **LIGHT
    ),
    "clip open_clip custom text": _torch_case(
        "open_clip",
        functools.partial(clip_modules.CustomTextCLIP, quick=False),
        functools.partial(_open_clip_save, quick=False),
        **NO_OPENAI,
    ),
}
"""name -> case."""
