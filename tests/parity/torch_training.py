"""A fine-tuning loop in plain PyTorch: what a trajectory of ours is held against. It knows nothing of our code."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import cross_entropy

BARE = ("norm", "lambda1", "token", "position_embeddings")
"""Parameters with one of these in their names have no weight decay, and neither has any bias."""


@dataclass(frozen=True)
class Phase:
    """A stage: how long it lasts, what it trains and how fast.

    Attributes:
      steps: its length. warmup: how many of them the rate rises, from 0.
      backbone, norm, stem: the peak rates of those parts; 0 is frozen.
      blocks: how many of the last blocks are trained, at the peak rate `backbone`.
      decay: factor of the rate from layer to layer, downwards.
    """

    steps: int
    warmup: int = 0
    head: float = 0.0
    norm: float = 0.0
    backbone: float = 0.0
    stem: float = 0.0
    blocks: float = 0
    decay: float = 1.0


@dataclass(frozen=True)
class Recipe:
    """A whole run. `forget` and `decay_all` are mistakes, to see whether a comparison would notice them."""

    phases: tuple[Phase, ...]
    optimizer: type[torch.optim.Optimizer] = torch.optim.AdamW
    weight_decay: float = 0.1
    clip_norm: float = 1.0
    smoothing: float = 0.1
    accumulate: int = 1
    forget: tuple[str, ...] = ()  # parts of the optimiser's state that are zeroed at each change of phase
    decay_all: bool = False  # weight decay on everything


def multiplier(step: int, phase: Phase) -> float:
    """Of the peak rate: linear warm-up, then half a cosine down to 0."""
    if step < phase.warmup:
        return step / phase.warmup
    return (1 + math.cos(math.pi * (step - phase.warmup) / (phase.steps - phase.warmup))) / 2


def peak(name: str, phase: Phase, depth: int) -> float:
    """The peak rate of a parameter of a transformers model, told from its name; 0 is frozen."""
    if name.startswith("classifier."):
        return phase.head
    if block := re.search(r"\blayer\.(\d+)\.", name):
        above = depth - int(block[1])  # 1 for the last block
        return phase.backbone * phase.decay**above if above <= phase.blocks else 0.0
    if "embeddings." in name:
        return phase.stem * phase.decay ** (depth + 1)
    return phase.norm


def groups(model: nn.Module, recipe: Recipe) -> list[dict]:
    """A parameter group for each parameter."""
    found = []
    for name, parameter in model.named_parameters():
        bare = name.endswith("bias") or any(word in name for word in BARE)
        weight_decay = 0.0 if bare and not recipe.decay_all else recipe.weight_decay
        found.append({"params": [parameter], "name": name, "weight_decay": weight_decay})
    return found


def train(model: nn.Module, depth: int, recipe: Recipe, batches: Sequence[tuple[torch.Tensor, ...]]) -> list[float]:
    """Trains a model in place, in eval mode, and gives the loss before each step.

    One optimiser lives through all phases. Parameters that are frozen have no gradient and are passed over, so that
    they begin with zero moments when they are unfrozen, and the others go on with theirs.

    Args:
      model: normalised images (B, 3, H, W) -> logits.
      depth: its number of blocks.
      batches: (images, labels) of each step.
    """
    optimizer = recipe.optimizer(groups(model, recipe))
    losses, batches = [], iter(batches)
    for phase in recipe.phases:
        for state in optimizer.state.values():
            for part in recipe.forget:
                state[part].zero_()
        peaks = {group["name"]: peak(group["name"], phase, depth) for group in optimizer.param_groups}
        for group in optimizer.param_groups:
            group["params"][0].requires_grad_(peaks[group["name"]] > 0)
        for step in range(phase.steps):
            for group in optimizer.param_groups:
                group["lr"] = peaks[group["name"]] * multiplier(step, phase)
            losses.append(_step(model, optimizer, recipe, *next(batches)))
    return losses


def _step(model: nn.Module, optimizer: torch.optim.Optimizer, recipe: Recipe, images, labels) -> float:
    optimizer.zero_grad(set_to_none=True)
    total = 0.0
    for part, label in zip(images.chunk(recipe.accumulate), labels.chunk(recipe.accumulate), strict=True):
        loss = cross_entropy(model(part), label, label_smoothing=recipe.smoothing) / recipe.accumulate
        loss.backward()
        total += loss.item()
    nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)
    optimizer.step()
    return total
