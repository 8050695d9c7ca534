"""What a teacher makes of each training image, computed once and given to the batches as fields of the data."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from convert.card import Card
from jaxdino.core import sharding
from jaxdino.core.image_sizes import Size
from jaxdino.core.params import bind
from jaxdino.data import photometric, pipeline
from jaxdino.data.config import DataConfig
from jaxdino.data.fields import Number
from jaxdino.data.record import Source
from jaxdino.evals.passes import outputs

BATCH = 64  # images


def fields_of(card: Card, logits: bool, cls: bool) -> tuple[Number, ...]:
    """Return the fields of the outputs that a run needs: the scores of the classes, the class token."""
    wanted = {"teacher_logits": card.num_classes if logits else 0, "teacher_cls": card.spec.config.width if cls else 0}
    return tuple(Number(name, "float32", (count,)) for name, count in wanted.items() if count)


def with_outputs(
    source: Source,
    card: Card,
    flat: Mapping[str, Any],
    size: Size,
    fields: tuple[Number, ...],
    cfg: DataConfig,
    mesh: Mesh,
    how: Mapping[str, Any],
    tell: Callable[[str], None],
) -> Source:
    """Return the data with the teacher's outputs as fields of the training split; zeros for unreadable images.

    The teacher sees each image as in evaluation, without augmentation.

    Args:
      flat: its leaves, on the mesh. size: (height, width) of its images. how: its precision.
    """
    split, spec = source.split("train"), card.spec
    skeleton = spec.skeleton(head=card.head, **how)
    shards = sharding.batch_shards(mesh)
    statistics = spec.preprocess.mean, spec.preprocess.std

    @jax.jit
    def look(leaves: Any, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        out = bind(skeleton, leaves)(photometric.normalize(batch["image"], *statistics))
        named = {"teacher_logits": out.logits, "teacher_cls": out.cls}
        return {one.name: named[one.name].astype(jnp.float32) for one in fields} | {"weight": batch["weight"]}

    batches = pipeline.make_eval_iter(
        split,
        dataclasses.replace(cfg, sixteen_bit=spec.preprocess.sixteen_bit),
        batch_size=-(-BATCH // shards) * shards,
        image_size=size,
        fields=(),
        resize=spec.preprocess.resize,
        channels=spec.config.in_channels,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    found = list(outputs(lambda batch: look(flat, batch), batches, ("image", "weight"), mesh))
    read = np.concatenate([one["weight"] for one in found])[: len(split)] > 0
    rows = {one.name: np.concatenate([part[one.name] for part in found])[: len(split)] for one in fields}
    rows = {name: np.where(read[:, None], values, 0).astype(np.float32) for name, values in rows.items()}
    megabytes = sum(values.nbytes for values in rows.values()) / 1e6
    tell(f"teacher: the outputs of {len(split):,} images are kept in memory ({megabytes:.1f} MB)")
    train = dataclasses.replace(split, fields={**split.fields, **rows})
    return dataclasses.replace(source, splits={**source.splits, "train": train})
