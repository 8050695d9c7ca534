"""A small CLIP-DINO-SAM with drawn weights and adapters that do something, saved as a run leaves it."""

import dataclasses
import math
from pathlib import Path

import numpy as np

from convert.store import Card, save_model
from jaxdino.models.clip import CLIPConfig, TextConfig
from jaxdino.models.clipdinosam import ClipDinoSamConfig
from jaxdino.models.lora import LoRA
from jaxdino.models.published.vit import DINOV3
from jaxdino.models.registry import get
from jaxdino.models.rope import rope_periods
from jaxdino.models.spec import ModelSpec, Preprocess
from jaxdino.models.vit import ViTConfig

DINO = LoRA(rank=2, alpha=3.0, targets=("q", "v", "fc1"), last_blocks=1)
DECODER = LoRA(rank=2, targets=("q_proj", "output_hypernetworks_mlps.*"))
ADAPTERS = {"dino_lora": DINO, "decoder_lora": DECODER}
PROMPTS = ("red circle", "blue square")
HABITS = {
    "dinov3": DINOV3,
    "dinov2": dict(pos_grid=(8, 8), pos_offset=0.1, layer_scale=True, mask_token=True),
    "dino": dict(pos_grid=(8, 8), pos_offset=0.1),
}


def spec(family: str = "dinov3", **fields) -> ModelSpec:
    """Patches of 4 pixels, images of 32; `fields` of the configuration."""
    config = ClipDinoSamConfig(
        image=ViTConfig(patch_size=4, width=24, depth=2, num_heads=2, mlp_dim=48, **HABITS[family]),
        text=CLIPConfig(None, TextConfig(width=32, depth=1, num_heads=2, mlp_dim=64), embed_dim=16),
        sam=dataclasses.replace(get("sam_tiny").config, width=32, decoder_mlp_dim=32, iou_hidden_dim=32),
        image_family=family,
        **fields,
    )
    return ModelSpec(f"{family}_custom", "clipdinosam", config, Preprocess(size=(32, 32), crop_pct=1.0))


def draw(made: ModelSpec) -> dict[str, np.ndarray]:
    """Parameters that all matter: kernels of a length that keeps that of their input, nothing at 0 or 1."""
    rng, flat = np.random.default_rng(1), {}
    for path, entry in made.skeleton().entries.items():
        noise = rng.normal(size=entry.shape)
        if path.endswith("rope.periods"):
            flat[path] = rope_periods(made.config.image.head_dim, made.config.image.rope_base)
        elif path.endswith((".kernel", "lora.a", "lora.b")) or ".lora." in path:
            flat[path] = noise / math.sqrt(max(math.prod(entry.shape[:-1]), 1)) * (0.5 if "lora" in path else 1)
        else:
            flat[path] = 0.3 * noise + path.endswith((".scale", ".gamma", ".magnitude", "logit_scale"))
    return {path: np.asarray(leaf, np.float32) for path, leaf in flat.items()}


def save(folder: Path, family: str = "dinov3", source: dict | None = None, companions=(), **fields) -> dict:
    """Writes `folder`/best and returns its parameters."""
    made = spec(family, **(ADAPTERS | fields))
    flat = draw(made)
    save_model(folder / "best", Card(made, class_names=PROMPTS, source=source or {}), flat, companions=companions)
    return flat
