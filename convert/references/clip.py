"""CLIP's original forward pass: transformers' classes, or a state dict of OpenAI's or open_clip's, key by key in torch.

Sources: openai/CLIP clip/model.py; mlfoundations/open_clip src/open_clip/{model,transformer}.py.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F

from convert.readers import Source
from convert.recognise import Recognised
from convert.references import from_folder, state_dict
from jaxdino.models.clip import CLIPConfig
from jaxdino.models.spec import ModelSpec

Seen = dict[str, Any]


def inputs(spec: ModelSpec, pixels: np.ndarray) -> dict[str, np.ndarray]:
    """Return the pixels (1, H, W, C), and ids (2, L) of two texts of different lengths, for the existing towers."""
    given: dict[str, np.ndarray] = {}
    if spec.config.vision:
        given["pixels"] = pixels
    if spec.config.text:
        given["ids"] = _ids(spec.config)
    return given


def _ids(config: CLIPConfig) -> np.ndarray:
    c = config.text
    eot = c.vocab_size - 1 if c.eot is None or c.eot >= c.vocab_size else c.eot
    ids = np.random.default_rng(0).integers(0, min(c.vocab_size - 1, eot), (2, c.context_length))
    for row, length in zip(ids, (c.context_length, c.context_length // 2), strict=True):
        row[length - 1], row[length:] = eot, 0
    return ids


def ours(model: Any, given: Mapping[str, jax.Array]) -> Seen:
    """Return our tokens after the embeddings and each block, the towers' features, and the logits per image."""
    backbone, seen = model.backbone, {}
    if "pixels" in given:
        states, grid = backbone.hidden_states(given["pixels"])
        seen |= _named("image", states) | {"image features": backbone.visual.finish(states[-1], grid).pooled}
    if "ids" in given:
        states = backbone.text_states(given["ids"])
        seen |= _named("text", states) | {"text features": backbone.text.finish(states[-1], given["ids"])}
    if len(given) == 2 and backbone.cfg.logit_scale:
        image, text = (
            x / jnp.linalg.norm(x, axis=-1, keepdims=True) for x in (seen["image features"], seen["text features"])
        )
        seen["logits"] = jnp.exp(backbone.logit_scale[...]) * (image @ text.T)
    return seen


def shared(found: Recognised) -> str:
    """List the values that `_StateDict` takes from our configuration, since a state dict does not hold them."""
    c = found.spec.config
    heads = [f"{tower.num_heads} heads" for tower in (c.vision, c.text) if tower]
    return f"{' and '.join(heads)}, the {'quick' if c.quick_gelu else 'exact'} GELU"


def _named(tower: str, states: list) -> Seen:
    places = ["embedding", *(f"block {i}" for i in range(len(states) - 1))]
    return {f"{tower} {place}": state for place, state in zip(places, states, strict=True)}


@torch.no_grad()
def original(found: Recognised, source: Source, folder: Path, given: Mapping[str, np.ndarray]) -> tuple[str, Seen]:
    """Return a description of the original, and its values at the same places."""
    config = found.spec.config
    pixels = torch.from_numpy(given["pixels"].transpose(0, 3, 1, 2).copy()) if "pixels" in given else None
    ids = torch.from_numpy(given["ids"]) if "ids" in given else None
    if found.layout == "hf":
        what, run = "transformers", _Transformers(folder, config)
    else:
        what, run = f"the {found.layout} state dict in torch", _StateDict(state_dict(found, source), config)
    seen: Seen = {}
    if pixels is not None:
        states, features = run.image(pixels)
        seen |= _named("image", states) | {"image features": features}
    if ids is not None:
        states, features = run.text(ids)
        seen |= _named("text", states) | {"text features": features}
    if len(given) == 2 and config.logit_scale:
        image, text = (F.normalize(seen[f"{tower} features"], dim=-1) for tower in ("image", "text"))
        seen["logits"] = run.logit_scale.exp() * image @ text.T
    return what, {name: value.numpy() for name, value in seen.items()}


class _Transformers:
    """transformers' class for the existing towers; hooks record the blocks."""

    def __init__(self, folder: Path, config: CLIPConfig):
        name = "CLIPModel" if config.vision and config.text else "CLIPVisionModel" if config.vision else "CLIPTextModel"
        projected = config.embed_dim is not None and name != "CLIPModel"
        self.model = from_folder(folder, f"{name}WithProjection" if projected else name)
        self.logit_scale = getattr(self.model, "logit_scale", None)

    def image(self, pixels: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        tower = getattr(self.model, "vision_model", self.model)
        return self._run(tower, "visual_projection", lambda: tower(pixels, interpolate_pos_encoding=True))

    def text(self, ids: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        tower = getattr(self.model, "text_model", self.model)
        return self._run(tower, "text_projection", lambda: tower(ids))

    def _run(self, tower, projection: str, call) -> tuple[list[torch.Tensor], torch.Tensor]:
        states: list[torch.Tensor] = []
        hooks = [block.register_forward_hook(lambda _, args, out: states.append(out)) for block in tower.encoder.layers]
        first = tower.encoder.layers[0].register_forward_pre_hook(lambda _, args: states.append(args[0]))
        pooled = call().pooler_output
        for hook in (*hooks, first):
            hook.remove()
        return states, getattr(self.model, projection, torch.nn.Identity())(pooled)


class _StateDict:
    """Run OpenAI's and open_clip's modules from their tensors; other values come from the configuration."""

    def __init__(self, state: Mapping[str, torch.Tensor], config: CLIPConfig):
        self.state, self.config = state, config
        self.top = "text." if "text.ln_final.weight" in state else ""
        self.logit_scale = state.get("logit_scale")

    def _norm(self, x: torch.Tensor, name: str) -> torch.Tensor:
        return F.layer_norm(x, x.shape[-1:], self.state[f"{name}.weight"], self.state[f"{name}.bias"], 1e-5)

    def _linear(self, x: torch.Tensor, name: str) -> torch.Tensor:
        return F.linear(x, self.state[f"{name}.weight"], self.state[f"{name}.bias"])

    def _act(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.sigmoid(1.702 * x) if self.config.quick_gelu else F.gelu(x)

    def _blocks(self, x: torch.Tensor, prefix: str, tower: Any, causal: bool) -> list[torch.Tensor]:
        states = [x]
        for i in range(tower.depth):
            name = f"{prefix}transformer.resblocks.{i}"
            y = self._norm(x, f"{name}.ln_1")
            qkv = F.linear(y, self.state[f"{name}.attn.in_proj_weight"], self.state[f"{name}.attn.in_proj_bias"])
            q, k, v = (part.unflatten(-1, (tower.num_heads, -1)).transpose(1, 2) for part in qkv.chunk(3, dim=-1))
            y = F.scaled_dot_product_attention(q, k, v, is_causal=causal).transpose(1, 2).flatten(2)
            x = x + self._linear(y, f"{name}.attn.out_proj")
            y = self._act(self._linear(self._norm(x, f"{name}.ln_2"), f"{name}.mlp.c_fc"))
            x = x + self._linear(y, f"{name}.mlp.c_proj")
            states.append(x)
        return states

    def image(self, pixels: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Images (1, C, H, W) -> states and features."""
        kernel, tower = self.state["visual.conv1.weight"], self.config.vision
        maps = F.conv2d(pixels, kernel, stride=kernel.shape[-1])
        table = self.state["visual.positional_embedding"]
        grid = table[1:].reshape(1, *tower.pos_grid, -1).permute(0, 3, 1, 2)
        if maps.shape[2:] != grid.shape[2:]:
            grid = F.interpolate(grid, maps.shape[2:], mode="bicubic", antialias=True, align_corners=False)
        cls = (self.state["visual.class_embedding"] + table[0]).expand(maps.shape[0], 1, -1)
        x = torch.cat([cls, (maps + grid).flatten(2).transpose(1, 2)], dim=1)
        states = self._blocks(self._norm(x, "visual.ln_pre"), "visual.", tower, causal=False)
        feature = self._norm(states[-1][:, 0], "visual.ln_post")
        return states, feature @ self.state["visual.proj"] if "visual.proj" in self.state else feature

    def text(self, ids: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Ids (B, L) -> states and features."""
        x = self.state[f"{self.top}token_embedding.weight"][ids]
        x = x + self.state[f"{self.top}positional_embedding"][: ids.shape[1]]
        states = self._blocks(x, self.top, self.config.text, causal=True)
        feature = self._norm(states[-1], f"{self.top}ln_final")[torch.arange(ids.shape[0]), ids.argmax(dim=-1)]
        name = f"{self.top}text_projection"
        return states, feature @ self.state[name] if name in self.state else feature
