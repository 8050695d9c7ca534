"""A projection head's original forward pass: its state dict in torch. Source: facebookresearch/dino."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import torch
import torch.nn.functional as F

from convert.readers import Source
from convert.recognise import Recognised
from convert.references import state_dict
from convert.tables.heads import SPELLINGS
from jaxdino.models.spec import ModelSpec

FEATURES = 16


def inputs(spec: ModelSpec, pixels: np.ndarray) -> dict[str, np.ndarray]:
    """Return normally distributed features (16, in_dim): a head has no pixels as input."""
    return {"features": np.random.default_rng(0).normal(size=(FEATURES, spec.config.in_dim)).astype(np.float32)}


def ours(model: Any, given: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Return our values at the bottleneck and at the output."""
    head = model.backbone
    return {"bottleneck": head.bottleneck(given["features"]), "prototypes": head(given["features"])}


def original(
    found: Recognised, source: Source, folder: Path, given: dict[str, np.ndarray]
) -> tuple[str, dict[str, np.ndarray]]:
    """Return a description of the original, and its values at the same places."""
    state, config = state_dict(found, source), found.spec.config
    step = 3 if config.use_bn else 2
    names = ["mlp"] if config.num_layers == 1 else [f"mlp.{step * n}" for n in range(config.num_layers)]
    x = torch.from_numpy(given["features"])
    for n, name in enumerate(names):
        x = F.linear(x, state[f"{name}.weight"], state.get(f"{name}.bias"))
        if n < len(names) - 1:
            x = F.gelu(_norm(state, f"mlp.{step * n + 1}", x) if config.use_bn else x)
    x = F.normalize(x, dim=-1)
    length, weight = (state.get(key) for key in SPELLINGS[config.last_layer])
    if length is not None:
        weight = torch._weight_norm(weight, length, 0)
    return "the state dict in torch", {"bottleneck": x.numpy(), "prototypes": F.linear(x, weight).numpy()}


def _norm(state: dict[str, torch.Tensor], name: str, x: torch.Tensor) -> torch.Tensor:
    statistics = (state[f"{name}.{which}"] for which in ("running_mean", "running_var", "weight", "bias"))
    return F.batch_norm(x, *statistics, eps=1e-5)
