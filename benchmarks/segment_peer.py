"""Contenders: the training step and the prediction of CLIP-DINO-SAM as a plain PyTorch loop.

The networks are transformers' DINOv3ViTModel, and SamMaskDecoder with SamPromptEncoder; the projections between them
are those of jaxdino/models/token_masks.py. Prompt features are constants, since no stage trains the text encoder.
"""

import contextlib
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.harness import Contender, allow_torchvision
from benchmarks.peers import MODES, autocast, device, wait

TRAINABLE = ("projections", "lora", "dino")
IGNORED = 255


class Adapted(nn.Module):
    """A frozen linear layer with a LoRA adapter: y = base(x) + scale b(a(x))."""

    def __init__(self, base: nn.Linear, rank: int, scale: float):
        super().__init__()
        self.base, self.scale = base, scale
        self.a = nn.Linear(base.in_features, rank, bias=False)
        self.b = nn.Linear(rank, base.out_features, bias=False)
        nn.init.uniform_(self.a.weight, -1 / math.sqrt(base.in_features), 1 / math.sqrt(base.in_features))
        nn.init.zeros_(self.b.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., in) -> (..., out)."""
        return self.base(x) + self.scale * self.b(self.a(x))


def adapt(module: nn.Module, lora: Any, wanted: Callable[[str], bool] = lambda name: True) -> None:
    """Add adapters to the linear layers whose last name is wanted, in place."""
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Linear) and wanted(name):
                whole = isinstance(parent, (nn.ModuleList, nn.Sequential))
                made = Adapted(child, lora.rank, lora.scale)
                parent.__setitem__(int(name), made) if whole else setattr(parent, name, made)


def dino(cfg: Any, size: int) -> nn.Module:
    """Return transformers' DINOv3 in the shape of our `ViTConfig`.

    Raises:
      SystemExit: for a model that DINOv3ViTModel cannot be.
    """
    fits = cfg.positions == "rope" and cfg.layer_scale and cfg.mask_k_bias and cfg.qkv_bias and not cfg.swiglu
    if not fits or cfg.local_cls_norm or cfg.pooler:
        raise SystemExit(
            "the peer is transformers' DINOv3ViTModel, which has rotary positions, layer scale and plain feed-forward "
            "layers, and --model has not: give a model such as dinov3_digits or dinov3_vits16"
        )
    from transformers import DINOv3ViTConfig, DINOv3ViTModel

    return DINOv3ViTModel(
        DINOv3ViTConfig(
            image_size=size,
            patch_size=cfg.patch_size,
            hidden_size=cfg.width,
            intermediate_size=cfg.mlp_dim,
            num_hidden_layers=cfg.depth,
            num_attention_heads=cfg.num_heads,
            num_register_tokens=cfg.num_registers,
            layer_norm_eps=cfg.norm_eps,
            rope_theta=cfg.rope_base,
            pos_embed_rescale=None,  # else positions are augmented in training, which ours does not do
            key_bias=False,
        )
    )


def sam(cfg: Any, size: int, patch: int) -> tuple[nn.Module, nn.Module]:
    """Return transformers' prompt encoder and mask decoder in the shape of our `SamConfig`."""
    from transformers import SamConfig, SamMaskDecoderConfig, SamPromptEncoderConfig, SamVisionConfig
    from transformers.models.sam.modeling_sam import SamMaskDecoder, SamPromptEncoder

    decoder = SamMaskDecoderConfig(
        hidden_size=cfg.width,
        mlp_dim=cfg.decoder_mlp_dim,
        num_hidden_layers=cfg.decoder_depth,
        num_attention_heads=cfg.decoder_heads,
        attention_downsample_rate=cfg.attention_downsample_rate,
        num_multimask_outputs=cfg.num_multimask_outputs,
        iou_head_hidden_dim=cfg.iou_hidden_dim,
        layer_norm_eps=cfg.decoder_eps,
    )
    decoder._attn_implementation = "sdpa"  # as SamModel chooses
    prompts = SamPromptEncoderConfig(
        hidden_size=cfg.width, image_size=size, patch_size=patch, mask_input_channels=cfg.mask_channels
    )
    whole = SamConfig(vision_config=SamVisionConfig(num_pos_feats=cfg.width // 2), prompt_encoder_config=prompts)
    return SamPromptEncoder(whole), SamMaskDecoder(decoder)


class Segmenter(nn.Module):
    """Masks from images and prompt features; `cfg` is our `ClipDinoSamConfig` with its adapters."""

    def __init__(self, cfg: Any, size: int):
        super().__init__()
        allow_torchvision()
        from transformers.models.sam.modeling_sam import SamLayerNorm

        width, out, hidden = cfg.width, cfg.sam.width, cfg.hidden or 2 * cfg.width
        norm = dict(eps=1e-6, data_format="channels_first")
        self.dino = dino(cfg.image, size)
        self.prompts, self.decoder = sam(cfg.sam, size, cfg.image.patch_size)
        self.requires_grad_(False)
        if cfg.decoder_lora:
            adapt(self.decoder, cfg.decoder_lora)
        if cfg.dino_lora:
            names = tuple(f"{target}_proj" for target in cfg.dino_lora.targets)
            blocks = self.dino.model.layer
            adapt(blocks[len(blocks) - (cfg.dino_lora.last_blocks or len(blocks)) :], cfg.dino_lora, names.__contains__)
        self.token_projection = nn.Sequential(
            nn.LayerNorm(cfg.image.width, 1e-6), nn.Linear(cfg.image.width, hidden), nn.GELU(), nn.Linear(hidden, width)
        )
        self.neck = nn.Sequential(
            nn.Conv2d(width, out, 1, bias=False),
            SamLayerNorm(out, **norm),
            nn.Conv2d(out, out, 3, padding=1, bias=False),
            SamLayerNorm(out, **norm),
        )
        self.similarity = nn.Parameter(0.02 * torch.randn(out))
        self.text = nn.Linear(width, out)
        self.grid, self.first = size // cfg.image.patch_size, 1 + cfg.image.num_registers
        self.register_buffer("positions", self.image_positions(), persistent=False)

    @torch.no_grad()
    def image_positions(self) -> torch.Tensor:
        """Return the positions of the cells' centres, (1, E, h, w); see SamModel.get_image_wide_positional_embeddings.

        They are computed once here.
        """
        centres = (torch.arange(self.grid) + 0.5) / self.grid
        y, x = torch.meshgrid(centres, centres, indexing="ij")
        return self.prompts.shared_embedding(torch.stack([x, y], dim=-1)).permute(2, 0, 1)[None]

    def tokens(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W), normalised -> (B, h w, T)."""
        learns = any(p.requires_grad for p in self.dino.parameters())
        with contextlib.nullcontext() if learns else torch.no_grad():
            patches = self.dino(images).last_hidden_state[:, self.first :]
        return self.token_projection(patches)

    def forward(self, images: torch.Tensor, text: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Predict one mask for each of P prompts of each image.

        Args:
          images: (B, 3, H, W), normalised. text: (B, P, T) of unit length.

        Returns:
          logits (B P, H, W) and predicted IoU (B P,), float32.
        """
        tokens = self.tokens(images)
        b, p, h, w = *text.shape[:2], self.grid, self.grid
        image = self.neck(tokens.transpose(1, 2).reshape(b, -1, h, w)).repeat_interleave(p, 0)
        cosines = (text @ F.normalize(tokens, dim=-1).transpose(1, 2)).reshape(b * p, 1, h, w)
        dense = self.prompts.no_mask_embed.weight[..., None, None] + cosines * self.similarity[:, None, None]
        nothing = self.prompts.not_a_point_embed.weight.expand(b * p, 1, 1, -1)
        sparse = torch.cat([self.text(text).reshape(b * p, 1, 1, -1), nothing], dim=2)
        logits, iou = self.decoder(image, self.positions, sparse, dense, multimask_output=False)
        large = F.interpolate(logits[:, 0].float(), images.shape[2:], mode="bilinear", align_corners=False)
        return large[:, 0], iou[:, 0, 0].float()


def losses(logits: torch.Tensor, iou: torch.Tensor, batch: Mapping[str, torch.Tensor], how: Any) -> torch.Tensor:
    """Compute the weighted sum of Dice, cross entropy and IoU regression, as `objectives.segment.Segment.loss`.

    Args:
      logits: (N, H, W). iou: (N,). batch: mask (N, H, W) uint8, share (N,). how: our `Segmenting`.

    Raises:
      SystemExit: for losses that the peer does not have.
    """
    if how.align or how.ssl:
        raise SystemExit("the peer has no loss `align` or `ssl`: leave both at 0")
    mask = batch["mask"].flatten(1)
    x, truth, valid = logits.flatten(1), (mask == 1).float(), (mask != IGNORED).float()
    share, p, total = batch["share"], x.sigmoid() * valid, torch.zeros((), device=x.device)
    if how.dice:
        both = 2 * (p * truth).sum(1) + how.smooth
        total += how.dice * (share * (1 - both / (p.sum(1) + truth.sum(1) + how.smooth))).sum()
    if how.bce:
        each = F.binary_cross_entropy_with_logits(x, truth, reduction="none")
        total += how.bce * (share * (each * valid).sum(1) / valid.sum(1).clamp(min=1)).sum()
    if how.iou:
        with torch.no_grad():
            found = (x > 0) * valid
            both = (found * truth).sum(1)
            either = found.sum(1) + truth.sum(1) - both
            actual = torch.where(either > 0, both / either.clamp(min=1), 1.0)
        total += how.iou * (share * (iou - actual).square()).sum()
    return total


def trained(model: Segmenter, plan: Any) -> list[dict[str, Any]]:
    """Let the groups of our plan learn, and return the parameter groups of AdamW, of which each has one rate.

    Raises:
      SystemExit: if the peer's trained parameters are not as many as ours, or the plan trains other groups.
    """
    leaves = [plan.leaves[path] for path in plan.trainable]
    rates = {leaf.group: max(each.lr for each in leaves if each.group == leaf.group) for leaf in leaves}
    if other := sorted(set(rates) - set(TRAINABLE)):
        raise SystemExit(
            f"stage {plan.stage}: ours trains {', '.join(other)}, and the peer only {', '.join(TRAINABLE)}"
        )
    if "dino" in rates:
        model.dino.requires_grad_(True)
    groups: dict[tuple[str, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            adapter = name.endswith((".a.weight", ".b.weight"))
            group = "lora" if adapter else "dino" if name.startswith("dino.") else "projections"
            groups.setdefault((group, parameter.ndim > 1 and not adapter), []).append(parameter)
    ours, theirs = plan.trainable_params, sum(p.numel() for each in groups.values() for p in each)
    if abs(theirs - ours) > 0.01 * ours:
        raise SystemExit(f"stage {plan.stage}: ours trains {ours:,} parameters, and the peer {theirs:,}")
    decay = max(leaf.weight_decay for leaf in leaves)
    return [
        dict(params=found, lr=rates[group], weight_decay=decay if decays else 0.0)
        for (group, decays), found in groups.items()
    ]


def on_device(batch: Mapping[str, np.ndarray], features: np.ndarray) -> dict[str, torch.Tensor]:
    """Return a batch of ours for the peer: image (B, 3, H, W) uint8, mask (B P, H, W), share (B P,), text (B, P, T).

    The share is that of a pair in the loss, 0 without a mask.

    Args:
      features: (n, T), of all prompts.
    """
    image = torch.from_numpy(np.array(batch["image"])).permute(0, 3, 1, 2).contiguous()
    weight = np.asarray(batch["weight"])[:, None] * np.asarray(batch["asked"])
    share = weight * np.asarray(batch["masked"]) / max(weight.sum(), 1e-12)
    found = {
        "image": image,
        "mask": torch.from_numpy(np.array(batch["mask"])).flatten(0, 1),
        "share": torch.from_numpy(share.astype(np.float32)).flatten(),
        "text": torch.from_numpy(np.array(features[np.asarray(batch["label"])], np.float32)),
    }
    return {name: tensor.to(device()) for name, tensor in found.items()}


def normaliser(how: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return a function (B, 3, H, W) uint8 -> float, with the mean and deviation of our `Preprocess`."""
    mean, std = (255 * torch.tensor(x, device=device())[:, None, None] for x in (how.mean, how.std))
    return lambda image: image.float().sub_(mean).div_(std)


def training(model: Segmenter, mode: str, part: Any, how: Any, preprocess: Any, batch: dict, dtype: str) -> Contender:
    """The step of a stage: normalise, forward under autocast, losses, backward, clipping, fused AdamW.

    Args:
      mode: of `peers.MODES`. part: our `Part`. how: its `Segmenting`. preprocess: our `Preprocess`.
      batch: of `on_device`.
    """
    model = model.to(device()).train()
    call = MODES[mode](model)
    groups = trained(model, part.plan)
    parameters = [p for group in groups for p in group["params"]]
    optimizer, normalised = torch.optim.AdamW(groups, fused=True), normaliser(preprocess)

    def run() -> None:
        with autocast(dtype):
            logits, iou = call(normalised(batch["image"]), batch["text"])
        losses(logits, iou, batch, how).backward()
        if part.stage.clip_norm:
            nn.utils.clip_grad_norm_(parameters, part.stage.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        wait()

    return Contender(f"PyTorch {mode} {dtype}", run, len(batch["image"]))


def forward(model: Segmenter, mode: str, preprocess: Any, batch: dict, dtype: str) -> Contender:
    """The prediction: normalise, masks at the image's size; arguments as `training`."""
    call, normalised = MODES[mode](model.to(device()).eval()), normaliser(preprocess)

    def run() -> None:
        with torch.inference_mode(), autocast(dtype):
            call(normalised(batch["image"]), batch["text"])
        wait()

    return Contender(f"PyTorch {mode} {dtype}", run, len(batch["image"]))
