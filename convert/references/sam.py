"""SAM's original forward pass: transformers' class, or Meta's state dict, key by key in torch.

Source: facebookresearch/segment-anything segment_anything/modeling/{image_encoder,prompt_encoder,mask_decoder,
transformer}.py.
"""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import torch
import torch.nn.functional as F

from convert.readers import Source
from convert.recognise import Recognised
from convert.references import from_folder, state_dict
from jaxdino.models.sam import SamConfig
from jaxdino.models.spec import ModelSpec

Tensors = Mapping[str, torch.Tensor]
Given = Mapping[str, Any]


def inputs(spec: ModelSpec, pixels: np.ndarray) -> dict[str, np.ndarray]:
    """Return the pixels (1, H, W, C), and two random prompts with two points, a box and a mask each."""
    rng = np.random.default_rng(0)
    _, height, width, _ = pixels.shape
    side, patch = np.array([width, height], np.float32), spec.config.patch_size
    corners = np.sort(rng.random((1, 2, 2, 2)), axis=2) * side
    return {
        "pixels": pixels,
        "points": (rng.random((1, 2, 2, 2)) * side).astype(np.float32),
        "labels": np.array([[[1, 0], [1, -1]]], np.int32),
        "boxes": corners.reshape(1, 2, 4).astype(np.float32),
        "masks": rng.normal(size=(1, 1, 4 * height // patch, 4 * width // patch)).astype(np.float32),
    }


PROMPTS = (
    ("points", ("points", "labels"), True),
    ("points, one mask", ("points", "labels"), False),
    ("boxes", ("boxes",), True),
    ("all", ("points", "labels", "boxes", "masks"), True),
)
"""Comparisons: name, the prompts given, and whether several masks are predicted."""


def chosen(given: Given) -> Iterator[tuple[str, dict[str, Any], bool]]:
    """Yield name, prompts and multimask of each comparison."""
    for name, parts, multimask in PROMPTS:
        yield name, {part: given[part] for part in parts}, multimask


def ours(model: Any, given: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Return our values after each block, the image embedding, and the masks with their predicted quality."""
    states = model.backbone.image_encoder.hidden_states(given["pixels"])
    embedding = model.backbone.encode(given["pixels"])
    seen = _named(states, embedding)
    for name, prompts, multimask in chosen(given):
        logits, iou = model.backbone.masks(embedding, **prompts, multimask=multimask)
        seen |= {f"masks ({name})": logits, f"iou ({name})": iou}
    return seen


def original(
    found: Recognised, source: Source, folder: Path, given: dict[str, np.ndarray]
) -> tuple[str, dict[str, np.ndarray]]:
    """Return a description of the original, and its values at the same places."""
    tensors = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in given.items()}
    tensors["pixels"] = tensors["pixels"].permute(0, 3, 1, 2)
    with torch.no_grad():
        if found.layout == "hf":
            what, seen = "transformers", run_transformers(from_folder(folder), tensors)
        else:
            what = "the meta state dict in torch"
            seen = run_meta(state_dict(found, source), found.spec.config, tensors)
    return what, {place: tensor.numpy() for place, tensor in seen.items()}


def _named(states: list, embedding) -> dict[str, Any]:
    blocks = {f"block {i}": state for i, state in enumerate(states[1:])}
    return {"embedding": states[0], **blocks, "image embedding": embedding}


def run_transformers(model: torch.nn.Module, given: Given) -> dict[str, torch.Tensor]:
    """Return the values at the places from transformers' SamModel; given["pixels"] is (B, C, H, W)."""
    states: list[torch.Tensor] = []
    layers = model.vision_encoder.layers
    hooks = [layers[0].register_forward_pre_hook(lambda _, args: states.append(args[0]))]
    hooks += [layer.register_forward_hook(lambda _, args, out: states.append(out)) for layer in layers]
    embedding = model.vision_encoder(given["pixels"]).last_hidden_state
    for hook in hooks:
        hook.remove()
    seen = _named(states, embedding.permute(0, 2, 3, 1))
    for name, prompts, multimask in chosen(given):
        asked = {f"input_{part}": value for part, value in prompts.items()}
        out = model(image_embeddings=embedding, multimask_output=multimask, **asked)
        seen |= {f"masks ({name})": out.pred_masks, f"iou ({name})": out.iou_scores}
    return seen


def run_meta(state: Tensors, cfg: SamConfig, given: Given) -> dict[str, torch.Tensor]:
    """Return the values at the places from a state dict in Meta's layout; given["pixels"] is (B, C, H, W)."""
    net = StateDictSam(state, cfg)
    states, embedding = net.encode(given["pixels"])
    seen = _named(states, embedding)
    for name, prompts, multimask in chosen(given):
        logits, iou = net.masks(embedding, **prompts, multimask=multimask)
        seen |= {f"masks ({name})": logits, f"iou ({name})": iou}
    return seen


class StateDictSam:
    """Run a SAM state dict in Meta's layout. Facts that no tensor holds come from `cfg`."""

    def __init__(self, state: Tensors, cfg: SamConfig):
        self.state, self.cfg = state, cfg

    def _linear(self, x: torch.Tensor, name: str) -> torch.Tensor:
        return F.linear(x, self.state[f"{name}.weight"], self.state[f"{name}.bias"])

    def _norm(self, x: torch.Tensor, name: str, eps: float) -> torch.Tensor:
        return F.layer_norm(x, x.shape[-1:], self.state[f"{name}.weight"], self.state[f"{name}.bias"], eps)

    def _norm2d(self, x: torch.Tensor, name: str) -> torch.Tensor:
        return self._norm(x.permute(0, 2, 3, 1), name, 1e-6).permute(0, 3, 1, 2)

    def _conv(self, x: torch.Tensor, name: str, **how) -> torch.Tensor:
        return F.conv2d(x, self.state[f"{name}.weight"], self.state.get(f"{name}.bias"), **how)

    def encode(self, images: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Encode images (B, C, H, W): (B, h, w, D) after the embedding and each block, and the image embedding."""
        name, cfg = "image_encoder", self.cfg
        x = self._conv(images, f"{name}.patch_embed.proj", stride=cfg.patch_size).permute(0, 2, 3, 1)
        table = self.state[f"{name}.pos_embed"]
        if table.shape[1:3] != x.shape[1:3]:
            table = F.interpolate(table.permute(0, 3, 1, 2), x.shape[1:3], mode="bicubic").permute(0, 2, 3, 1)
        states = [x + table]
        for i in range(cfg.depth):
            window = 0 if i in cfg.global_attn_indexes else cfg.window_size
            states.append(self._block(states[-1], f"{name}.blocks.{i}", window))
        x = self._norm2d(self._conv(states[-1].permute(0, 3, 1, 2), f"{name}.neck.0"), f"{name}.neck.1")
        x = self._norm2d(self._conv(x, f"{name}.neck.2", padding=1), f"{name}.neck.3")
        return states, x.permute(0, 2, 3, 1)

    def _block(self, x: torch.Tensor, name: str, window: int) -> torch.Tensor:
        attended = self._norm(x, f"{name}.norm1", self.cfg.encoder_eps)
        _, h, w, _ = x.shape
        if window:
            attended = F.pad(attended, (0, 0, 0, -w % window, 0, -h % window))
            rows = [
                torch.cat([self._attention(part, f"{name}.attn") for part in row.split(window, 2)], dim=2)
                for row in attended.split(window, 1)
            ]
            attended = torch.cat(rows, dim=1)[:, :h, :w]
        else:
            attended = self._attention(attended, f"{name}.attn")
        x = x + attended
        hidden = F.gelu(self._linear(self._norm(x, f"{name}.norm2", self.cfg.encoder_eps), f"{name}.mlp.lin1"))
        return x + self._linear(hidden, f"{name}.mlp.lin2")

    def _relative(self, name: str, n: int) -> torch.Tensor:
        """Return relative positions (n, n, d) for each query and key of an axis."""
        table = self.state[name]
        if len(table) != 2 * n - 1:
            table = F.interpolate(table.T[None], 2 * n - 1, mode="linear")[0].T
        at = torch.arange(n)
        return table[at[:, None] - at[None] + n - 1]

    def _attention(self, x: torch.Tensor, name: str) -> torch.Tensor:
        b, h, w, width = x.shape
        heads = self.cfg.num_heads
        q, k, v = self._linear(x, f"{name}.qkv").reshape(b, h * w, 3, heads, -1).permute(2, 0, 3, 1, 4)
        by_row = torch.einsum("bnhwd,hkd->bnhwk", q.unflatten(2, (h, w)), self._relative(f"{name}.rel_pos_h", h))
        by_column = torch.einsum("bnhwd,wkd->bnhwk", q.unflatten(2, (h, w)), self._relative(f"{name}.rel_pos_w", w))
        bias = (by_row[..., :, None] + by_column[..., None, :]).reshape(b, heads, h * w, h * w)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return self._linear(out.transpose(1, 2).reshape(b, h, w, width), f"{name}.proj")

    def _placed(self, xy: torch.Tensor) -> torch.Tensor:
        """Encode positions relative to the frame (..., 2) -> (..., D)."""
        matrix = self.state["prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"]
        angles = 2 * math.pi * ((2 * xy - 1).to(matrix.dtype) @ matrix)
        return torch.cat([angles.sin(), angles.cos()], dim=-1)

    def prompts(self, grid, points=None, labels=None, boxes=None, masks=None) -> tuple[torch.Tensor, torch.Tensor]:
        """Encode prompts (B, P, ...) in pixels: sparse (B, P, N, D) and dense, to be added to (B, P, h, w, D)."""
        name, tokens = "prompt_encoder", []
        size = torch.tensor([grid[1], grid[0]]) * self.cfg.patch_size
        vectors = [self.state[f"{name}.point_embeddings.{n}.weight"][0] for n in range(4)]
        if points is not None:
            if boxes is None:
                points, labels = F.pad(points, (0, 0, 0, 1)), F.pad(labels, (0, 1), value=-1)
            label = labels[..., None]
            token = torch.where(label == -1, 0.0, self._placed((points + 0.5) / size))
            token = token + (label == -1) * self.state[f"{name}.not_a_point_embed.weight"][0]
            tokens.append(token + (label == 0) * vectors[0] + (label == 1) * vectors[1])
        if boxes is not None:
            corners = self._placed((boxes.unflatten(-1, (2, 2)) + 0.5) / size)
            tokens.append(corners + torch.stack(vectors[2:]))
        if masks is None:
            return torch.cat(tokens, dim=2), self.state[f"{name}.no_mask_embed.weight"][0]
        down = f"{name}.mask_downscaling"
        x = F.gelu(self._norm2d(self._conv(masks.flatten(0, 1)[:, None], f"{down}.0", stride=2), f"{down}.1"))
        x = F.gelu(self._norm2d(self._conv(x, f"{down}.3", stride=2), f"{down}.4"))
        dense = self._conv(x, f"{down}.6").permute(0, 2, 3, 1)
        return torch.cat(tokens, dim=2), dense.unflatten(0, masks.shape[:2])

    def _attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, name: str) -> torch.Tensor:
        q, k, v = (
            self._linear(x, f"{name}.{part}_proj").unflatten(-1, (self.cfg.decoder_heads, -1)).transpose(2, 3)
            for x, part in ((q, "q"), (k, "k"), (v, "v"))
        )
        weights = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1)
        return self._linear((weights @ v).transpose(2, 3).flatten(3), f"{name}.out_proj")

    def _two_way(self, image, places, tokens) -> tuple[torch.Tensor, torch.Tensor]:
        """Run the transformer on image (B, P, h w, D), its positions, tokens (B, P, N, D); return tokens and image."""
        given, name, eps = tokens, "mask_decoder.transformer", self.cfg.decoder_eps
        for j in range(self.cfg.decoder_depth):
            layer = f"{name}.layers.{j}"
            q = tokens + given if j else tokens
            answer = self._attend(q, q, tokens, f"{layer}.self_attn")
            tokens = self._norm(tokens + answer if j else answer, f"{layer}.norm1", eps)
            answer = self._attend(tokens + given, image + places, image, f"{layer}.cross_attn_token_to_image")
            tokens = self._norm(tokens + answer, f"{layer}.norm2", eps)
            answer = self._linear(F.relu(self._linear(tokens, f"{layer}.mlp.lin1")), f"{layer}.mlp.lin2")
            tokens = self._norm(tokens + answer, f"{layer}.norm3", eps)
            answer = self._attend(image + places, tokens + given, tokens, f"{layer}.cross_attn_image_to_token")
            image = self._norm(image + answer, f"{layer}.norm4", eps)
        answer = self._attend(tokens + given, image + places, image, f"{name}.final_attn_token_to_image")
        return self._norm(tokens + answer, f"{name}.norm_final_attn", 1e-5), image

    def _mlp(self, x: torch.Tensor, name: str) -> torch.Tensor:
        x = F.relu(self._linear(F.relu(self._linear(x, f"{name}.layers.0")), f"{name}.layers.1"))
        return self._linear(x, f"{name}.layers.2")

    def masks(self, embedding: torch.Tensor, *, multimask: bool, **prompts) -> tuple[torch.Tensor, torch.Tensor]:
        """Decode embedding (B, h, w, D) into logits (B, P, M, 4 h, 4 w) and predicted IoU (B, P, M)."""
        name, (b, h, w, _) = "mask_decoder", embedding.shape
        sparse, dense = self.prompts((h, w), **prompts)
        p = sparse.shape[1]
        own = torch.cat([self.state[f"{name}.iou_token.weight"], self.state[f"{name}.mask_tokens.weight"]])
        tokens = torch.cat([own.expand(b, p, -1, -1), sparse], dim=2)
        ys, xs = (torch.arange(0.5, n) / n for n in (h, w))
        places = self._placed(torch.stack(torch.meshgrid(xs, ys, indexing="xy"), dim=-1)).flatten(0, 1)
        image = (embedding[:, None] + dense).flatten(2, 3).expand(b, p, -1, -1)
        tokens, image = self._two_way(image, places, tokens)
        x = image.unflatten(2, (h, w)).flatten(0, 1).permute(0, 3, 1, 2)
        for n, last in ((0, False), (3, True)):
            up = f"{name}.output_upscaling.{n}"
            x = F.conv_transpose2d(x, self.state[f"{up}.weight"], self.state[f"{up}.bias"], stride=2)
            x = F.gelu(x if last else self._norm2d(x, f"{name}.output_upscaling.1"))
        heads = range(1, len(own) - 1) if multimask else range(1)
        weights = [self._mlp(tokens[:, :, 1 + n], f"{name}.output_hypernetworks_mlps.{n}") for n in heads]
        logits = torch.einsum("bpmc,bpcyx->bpmyx", torch.stack(weights, dim=2), x.unflatten(0, (b, p)))
        iou = self._mlp(tokens[:, :, 0], f"{name}.iou_prediction_head")
        return logits, iou[..., 1:] if multimask else iou[..., :1]
