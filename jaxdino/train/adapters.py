"""LoRA as part of a stage: put on at its start, merged wherever its weights leave it."""

from typing import Any

from flax import nnx

from jaxdino.core.params import Flat, Skeleton
from jaxdino.models import lora
from jaxdino.stage import Stage
from jaxdino.train.task import Part


def adapted(skeleton: Skeleton, cfg: Any, stage: Stage) -> Skeleton:
    """The stage's model: with the adapters that it asks for."""
    return lora.adapted(skeleton, cfg, lora.LoRA.of(stage.lora)) if stage.lora else skeleton


def put_on(flat: Flat, bare: Skeleton, cfg: Any, part: Part) -> Flat:
    """All leaves at a stage's start: with fresh adapters, which change nothing yet."""
    if not part.stage.lora:
        return flat
    _, fresh = lora.adapt(bare, flat, cfg, lora.LoRA.of(part.stage.lora), nnx.Rngs(part.seed))
    return {path: flat.get(path, leaf) for path, leaf in fresh.items()}


def merged(flat: Flat, part: Part) -> Flat:
    """All leaves of a stage's model without adapters: what leaves the stage is an ordinary model."""
    return lora.merged(part.skeleton, flat) if part.stage.lora else flat


def kernels(paths: Any) -> set[str]:
    """The kernels that the adapters among these trained leaves will change when they are merged."""
    return {path.split(".lora.")[0] + ".kernel" for path in lora.leaves(paths)}
