"""LoRA adapters in training: add them when a stage starts, merge them when its weights leave it."""

import dataclasses
from typing import Any

from flax import nnx

from jaxdino.core.params import Flat, Skeleton, bind, split
from jaxdino.models import lora
from jaxdino.models.spec import ModelSpec
from jaxdino.stage import Stage
from jaxdino.train.task import Part


def adapted(skeleton: Skeleton, cfg: Any, stage: Stage) -> Skeleton:
    """Return the stage's model, with adapters if the stage sets `lora`."""
    return lora.adapted(skeleton, cfg, lora.LoRA.of(stage.lora)) if stage.lora else skeleton


def put_on(flat: Flat, bare: Skeleton, cfg: Any, part: Part) -> Flat:
    """Return all leaves at a stage's start, with new adapters that do not change the output yet."""
    if not part.stage.lora:
        return flat
    _, fresh = lora.adapt(bare, flat, cfg, lora.LoRA.of(part.stage.lora), nnx.Rngs(part.seed))
    return {path: flat.get(path, leaf) for path, leaf in fresh.items()}


def refitted(before: ModelSpec, after: ModelSpec, flat: Flat, seed: int) -> Flat:
    """Change the adapters of a composite model from those of one stage to those of another; return all leaves.

    For each component: adapters that both stages share are kept; adapters that the next stage lacks or configures
    differently are merged; adapters that only the next stage has are created and do not change the output.
    """
    config, flat = before.config, dict(flat)
    old, new = ({name: one.lora for name, one in spec.components.items()} for spec in (before, after))
    changed = [name for name in old if old[name] != new[name]]
    for name in changed:
        if old[name]:
            flat = lora.merged(_of(before, config).skeleton(), flat, before.components[name].path)
            config = config.with_adapters({name: None})
    if not any(new[name] for name in changed):
        return flat
    net = bind(_of(before, config).skeleton(), flat)
    after.config.adapt(net.backbone, [name for name in changed if new[name]], nnx.Rngs(seed))
    return split(net)[1]


def _of(spec: ModelSpec, config: Any) -> ModelSpec:
    return dataclasses.replace(spec, config=config)


def merged(flat: Flat, part: Part) -> Flat:
    """Return all leaves of a stage's model with its adapters merged: an ordinary model."""
    return lora.merged(part.skeleton, flat) if part.stage.lora else flat


def kernels(paths: Any) -> set[str]:
    """Return the paths of the kernels that merging the adapters in `paths` will change."""
    return {path.split(".lora.")[0] + ".kernel" for path in lora.leaves(paths)}
