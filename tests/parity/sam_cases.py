"""Tiny SAMs of both layouts: transformers' own class, and the parameters that Meta's checkpoints hold.

What Meta's layout computes is restated once, in `convert.references.sam`, which needs no table of ours.
"""

import itertools
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from convert.references.sam import ours as places
from convert.references.sam import run_meta, run_transformers
from jaxdino.models.sam import SamConfig
from tests.parity.drawing import images
from tests.parity.family_case import FamilyCase
from tests.torchvision_stub import import_torchvision

TINY = SamConfig(
    image_size=64,
    patch_size=8,
    encoder_width=24,
    depth=3,
    num_heads=3,
    mlp_dim=40,
    window_size=3,
    global_attn_indexes=(1,),
    width=32,
    decoder_mlp_dim=40,
    iou_hidden_dim=24,
)
"""8 x 8 patches in windows of 3, so that windows are padded; Meta's decoder has 8 heads, whatever its width."""


def prompts(height: int, width: int, patch: int = TINY.patch_size) -> dict[str, torch.Tensor]:
    """Three prompts for each of two images: points of every label, boxes, and a mask for all three."""
    generator = torch.Generator().manual_seed(3)
    side = torch.tensor([width, height])
    labels = torch.tensor([[1, 0], [1, -1], [0, 1]], dtype=torch.int32).expand(2, 3, 2).contiguous()
    corners = torch.rand(2, 3, 2, 2, generator=generator).sort(dim=2).values * side
    return {
        "points": torch.rand(2, 3, 2, 2, generator=generator) * side,
        "labels": labels,
        "boxes": corners.flatten(2),
        "masks": torch.randn(2, 1, 4 * height // patch, 4 * width // patch, generator=generator),
    }


def _inputs(*sizes: tuple[int, int]) -> dict[str, dict[str, torch.Tensor]]:
    named = {f"{height}x{width}": (height, width) for height, width in sizes}
    return {name: {"images": images(*size), **prompts(*size)} for name, size in named.items()}


class Norm(nn.LayerNorm):
    """The weight and bias of a layer norm over channels, under the names of Meta's LayerNorm2d."""


class Attention(nn.Module):
    """Four projections."""

    def __init__(self, width: int, inner: int):
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(width, inner) for _ in range(3))
        self.out_proj = nn.Linear(inner, width)


def _mlp(*widths: int) -> nn.Module:
    pairs = itertools.pairwise(widths)
    return nn.ModuleDict({"layers": nn.ModuleList(nn.Linear(a, b) for a, b in pairs)})


def _block_mlp(width: int, hidden: int) -> nn.Module:
    return nn.ModuleDict({"lin1": nn.Linear(width, hidden), "lin2": nn.Linear(hidden, width)})


class Table(nn.Module):
    """A bare tensor under a name."""

    def __init__(self, name: str, *shape: int, buffer: bool = False):
        super().__init__()
        if buffer:
            self.register_buffer(name, torch.zeros(shape))
        else:
            self.register_parameter(name, nn.Parameter(torch.zeros(shape)))


class RelativeAttention(nn.Module):
    """The image encoder's attention."""

    def __init__(self, c: SamConfig, side: int):
        super().__init__()
        d = c.encoder_width // c.num_heads
        self.qkv, self.proj = nn.Linear(c.encoder_width, 3 * c.encoder_width), nn.Linear(*(c.encoder_width,) * 2)
        self.rel_pos_h, self.rel_pos_w = (nn.Parameter(torch.zeros(2 * side - 1, d)) for _ in "hw")


class MetaSam(nn.Module):
    """The parameters of a SAM under Meta's names; the forward pass is `convert.references.sam.run_meta`."""

    def __init__(self, c: SamConfig = TINY):
        super().__init__()
        self.config = c
        encoder = Table("pos_embed", 1, c.grid, c.grid, c.encoder_width)
        encoder.patch_embed = nn.ModuleDict(
            {"proj": nn.Conv2d(c.in_channels, c.encoder_width, c.patch_size, c.patch_size)}
        )
        encoder.blocks = nn.ModuleList(_encoder_block(c, i) for i in range(c.depth))
        encoder.neck = nn.Sequential(
            nn.Conv2d(c.encoder_width, c.width, 1, bias=False),
            Norm(c.width),
            nn.Conv2d(c.width, c.width, 3, padding=1, bias=False),
            Norm(c.width),
        )
        self.image_encoder, self.prompt_encoder, self.mask_decoder = encoder, _prompt_encoder(c), _mask_decoder(c)


def _encoder_block(c: SamConfig, i: int) -> nn.Module:
    side = c.grid if i in c.global_attn_indexes else c.window_size
    parts = {"norm1": nn.LayerNorm(c.encoder_width), "attn": RelativeAttention(c, side)}
    parts |= {"norm2": nn.LayerNorm(c.encoder_width), "mlp": _block_mlp(c.encoder_width, c.mlp_dim)}
    return nn.ModuleDict(parts)


def _prompt_encoder(c: SamConfig) -> nn.Module:
    fewer = c.mask_channels // 4
    down = [nn.Conv2d(1, fewer, 2, 2), Norm(fewer), nn.GELU(), nn.Conv2d(fewer, c.mask_channels, 2, 2)]
    down += [Norm(c.mask_channels), nn.GELU(), nn.Conv2d(c.mask_channels, c.width, 1)]
    return nn.ModuleDict(
        {
            "pe_layer": Table("positional_encoding_gaussian_matrix", 2, c.width // 2, buffer=True),
            "point_embeddings": nn.ModuleList(nn.Embedding(1, c.width) for _ in range(4)),
            "not_a_point_embed": nn.Embedding(1, c.width),
            "no_mask_embed": nn.Embedding(1, c.width),
            "mask_downscaling": nn.Sequential(*down),
        }
    )


def _mask_decoder(c: SamConfig) -> nn.Module:
    inner, count = c.width // c.attention_downsample_rate, c.num_multimask_outputs + 1
    layers = []
    for _ in range(c.decoder_depth):
        parts: dict[str, nn.Module] = {f"norm{n}": nn.LayerNorm(c.width) for n in range(1, 5)}
        parts |= {"self_attn": Attention(c.width, c.width), "mlp": _block_mlp(c.width, c.decoder_mlp_dim)}
        parts |= {f"cross_attn_{way}": Attention(c.width, inner) for way in ("token_to_image", "image_to_token")}
        layers.append(nn.ModuleDict(parts))
    transformer = {
        "layers": nn.ModuleList(layers),
        "final_attn_token_to_image": Attention(c.width, inner),
        "norm_final_attn": nn.LayerNorm(c.width),
    }
    quarter, eighth = c.width // 4, c.width // 8
    up = [nn.ConvTranspose2d(c.width, quarter, 2, 2), Norm(quarter), nn.GELU()]
    up += [nn.ConvTranspose2d(quarter, eighth, 2, 2), nn.GELU()]
    return nn.ModuleDict(
        {
            "transformer": nn.ModuleDict(transformer),
            "iou_token": nn.Embedding(1, c.width),
            "mask_tokens": nn.Embedding(count, c.width),
            "output_upscaling": nn.Sequential(*up),
            "output_hypernetworks_mlps": nn.ModuleList(_mlp(c.width, c.width, c.width, eighth) for _ in range(count)),
            "iou_prediction_head": _mlp(c.width, c.iou_hidden_dim, c.iou_hidden_dim, count),
        }
    )


def build_hf(c: SamConfig = TINY) -> nn.Module:
    """transformers' class; it takes images of its own size alone.

    Its matrix of positions is made a buffer, as in Meta's code and ours: it was drawn once and is never trained.
    """
    import_torchvision()
    import transformers as hf

    frame = {"image_size": c.image_size, "patch_size": c.patch_size}
    vision = {"hidden_size": c.encoder_width, "output_channels": c.width, "num_hidden_layers": c.depth}
    vision |= {"num_attention_heads": c.num_heads, "mlp_dim": c.mlp_dim, "window_size": c.window_size}
    vision |= {"global_attn_indexes": list(c.global_attn_indexes), "num_pos_feats": c.width // 2}
    model = hf.SamModel(
        hf.SamConfig(
            vision_config=vision | frame,
            prompt_encoder_config={"hidden_size": c.width, "mask_input_channels": c.mask_channels, **frame},
            mask_decoder_config={
                "hidden_size": c.width,
                "mlp_dim": c.decoder_mlp_dim,
                "iou_head_hidden_dim": c.iou_hidden_dim,
            },
        )
    )
    matrix = model.shared_image_embedding.positional_embedding.data
    for module in (model.shared_image_embedding, model.prompt_encoder.shared_embedding):
        del module.positional_embedding
        module.register_buffer("positional_embedding", matrix)
    return model


def save_hf(model: nn.Module, folder: Path) -> Path:
    """As transformers saves it now: the matrix of the positions under one of its names."""
    model.save_pretrained(folder)
    return folder


def save_hf_twice(model: nn.Module, folder: Path) -> Path:
    """As the published checkpoints are: the matrix under both names."""
    model.save_pretrained(folder, state_dict={key: value.clone() for key, value in model.state_dict().items()})
    return folder


def save_meta(model: nn.Module, folder: Path) -> Path:
    """A bare state dict by torch.save."""
    torch.save(model.state_dict(), folder / "sam.pth")
    return folder / "sam.pth"


HIDDEN = ("layers.0.bias", "layers.1.bias", "proj_in.bias")
"""Of the decoder's MLPs."""


@torch.no_grad()
def prepare(model: nn.Module) -> None:
    """Draws embeddings as large as what they are added to, and the matrix of positions.

    Hidden units are mostly positive (there are few tokens behind them, and a unit at zero shows nothing), and the
    decoder's attention is sharper.
    """
    generator = torch.Generator().manual_seed(11)
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            module.weight.normal_(generator=generator)
    for buffer in model.buffers():
        buffer.normal_(generator=generator)
    for name, parameter in model.named_parameters():
        if name.endswith(HIDDEN):
            parameter.add_(2.5)
        if "hypernetworks" in name and name.endswith("weight"):
            parameter.mul_(0.5)
        if name.endswith("q_proj.weight"):
            parameter.mul_(3)


def _given(tensors: Mapping) -> dict:
    return {("pixels" if name == "images" else name): value for name, value in tensors.items()}


def ours(model, given) -> dict:
    """Our values at the places of `convert.references.sam`."""
    return places(model, _given(given))


def theirs_meta(model: nn.Module, given: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The places from the parameters."""
    state = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return run_meta(state, model.config, _given(given))


def theirs_hf(model: nn.Module, given: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The places from transformers' class."""
    return run_transformers(model, _given(given))


SILENT = ("*.k_proj.bias", "*.attn.qkv.bias[k]")
"""A bias of the keys adds the same to all scores of a query, which softmax takes away again."""

SAM_CASES = {
    "sam meta": FamilyCase(
        "sam",
        "meta",
        MetaSam,
        save_meta,
        _inputs((64, 64), (48, 80), (32, 32)),
        theirs_meta,
        ours,
        silent=SILENT,
        prepare=prepare,
    ),
    "sam hf": FamilyCase(
        "sam", "hf", build_hf, save_hf, _inputs((64, 64)), theirs_hf, ours, silent=SILENT, prepare=prepare
    ),
    "sam hf twice": FamilyCase(
        "sam",
        "hf",
        build_hf,
        save_hf_twice,
        _inputs((64, 64)),
        theirs_hf,
        ours,
        silent=SILENT,
        prepare=prepare,
        thorough=False,
    ),
}
"""name -> case. Sizes other than 64 x 64 resample the positions."""
