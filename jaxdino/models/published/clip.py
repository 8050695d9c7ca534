"""The published CLIP models: OpenAI's, with the quick GELU, and LAION's, trained with open_clip and the exact GELU."""

from jaxdino.models.clip import CLIPConfig, TextConfig, VisionConfig
from jaxdino.models.spec import INCEPTION, ModelSpec, Preprocess

CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
"""Mean and standard deviation of the pixels in the training of OpenAI's models."""


def preprocess(size: tuple[int, int] = (224, 224), stats: tuple = CLIP) -> Preprocess:
    """Return CLIP's preprocessing: resize the shorter side to the model's size, then crop the centre."""
    return Preprocess(mean=stats[0], std=stats[1], size=size, crop_pct=1.0)


def _config(size: str, patch: int, side: int, **fields) -> CLIPConfig:
    grid = (side // patch, side // patch)
    if size == "b":
        return CLIPConfig(VisionConfig(patch, pos_grid=grid), TextConfig(), 512, **fields)
    vision = VisionConfig(patch, 1024, 24, 16, 4096, pos_grid=grid)
    return CLIPConfig(vision, TextConfig(768, 12, 12, 3072), 768, **fields)


def _openai(size: str, patch: int, side: int = 224) -> ModelSpec:
    large = "" if side == 224 else f"-{side}"
    word = {"b": "base", "l": "large"}[size]
    return ModelSpec(
        name=f"clip_vit{size}{patch}{large.replace('-', '_')}",
        family="clip",
        config=_config(size, patch, side),
        preprocess=preprocess((side, side)),
        hub=f"openai/clip-vit-{word}-patch{patch}{large}",
        page="https://github.com/openai/CLIP",
    )


def _laion(size: str, patch: int, run: str, stats: tuple = CLIP) -> ModelSpec:
    return ModelSpec(
        name=f"clip_vit{size}{patch}_laion2b",
        family="clip",
        config=_config(size, patch, 224, quick_gelu=False),
        preprocess=preprocess(stats=stats),
        hub=f"laion/CLIP-ViT-{size.upper()}-{patch}-laion2B-{run}",
        page="https://github.com/mlfoundations/open_clip",
    )


SPECS = (
    _openai("b", 32),
    _openai("b", 16),
    _openai("l", 14),
    _openai("l", 14, 336),
    _laion("b", 32, "s34B-b79K"),
    _laion("b", 16, "s34B-b88K"),
    _laion("l", 14, "s32B-b82K", INCEPTION),
)

TINY = ModelSpec(
    name="clip_tiny",
    family="clip",
    config=CLIPConfig(
        vision=VisionConfig(patch_size=4, width=64, depth=1, num_heads=1, mlp_dim=256, pos_grid=(8, 8)),
        text=TextConfig(width=64, depth=2, num_heads=1, mlp_dim=256),
        embed_dim=64,
    ),
    preprocess=preprocess((32, 32)),
)
"""A small model without published weights, with the published vocabulary, for training from random weights.

Its heads are as wide as OpenAI's, so that it can be saved in every layout.
"""
