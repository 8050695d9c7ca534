"""A CLIP-DINO-SAM of a few thousand parameters."""

import dataclasses
import functools
import math

import numpy as np

from jaxdino.core.params import Skeleton
from jaxdino.models.clip import CLIPConfig
from jaxdino.models.clip_towers import TextConfig
from jaxdino.models.clipdinosam import ClipDinoSamConfig
from jaxdino.models.published.vit import DINOV3
from jaxdino.models.sam import SamConfig
from jaxdino.models.spec import ModelSpec, Preprocess
from jaxdino.models.vit import ViTConfig

TOWER = dict(depth=2, num_heads=2, mlp_dim=48)
TEXT = TextConfig(width=16, vocab_size=50, context_length=6, **TOWER)
SAM = SamConfig(width=16, mask_channels=4, decoder_heads=2, decoder_mlp_dim=32, iou_hidden_dim=16)
CONFIG = ClipDinoSamConfig(
    image=ViTConfig(patch_size=4, width=24, **TOWER, **DINOV3),
    text=CLIPConfig(vision=None, text=TEXT, embed_dim=20),
    sam=SAM,
)


def spec_of(**fields) -> ModelSpec:
    """The model with some fields of its configuration changed."""
    config = dataclasses.replace(CONFIG, **fields)
    return ModelSpec("tiny_clipdinosam", "clipdinosam", config, Preprocess(size=(32, 32)))


@functools.cache
def start(spec: ModelSpec) -> tuple[Skeleton, dict[str, np.ndarray]]:
    """Its skeleton, and parameters that matter, drawn here since that is quicker; adapters change nothing yet.

    What two configurations have in common is the same in both, but for the magnitudes of DoRA.
    """
    skeleton = spec.skeleton()
    flat = {path: _drawn(path, entry.shape) for path, entry in skeleton.entries.items()}
    for path in [path for path in flat if path.endswith(".magnitude")]:
        kernel = flat[path.partition(".lora.")[0] + ".kernel"]
        flat[path] = np.linalg.norm(kernel, axis=0)
    return skeleton, flat


def _drawn(path: str, shape: tuple[int, ...]) -> np.ndarray:
    rng, last = np.random.default_rng(list(path.encode())), path.rpartition(".")[2]
    if ".lora." in path and last == "b":
        return np.zeros(shape, np.float32)
    if last in ("scale", "gamma", "periods"):
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    std = 1 / math.sqrt(math.prod(shape[:-1])) if last in ("kernel", "a") else 0.5
    return rng.normal(0, std, shape).astype(np.float32)
