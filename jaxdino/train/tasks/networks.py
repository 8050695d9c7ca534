"""Save the networks of a self-distillation run: teacher, student, their heads and the centres."""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from convert.load import Pretrained
from convert.store import Card
from convert.training_checkpoint import TrainingCheckpoint, save_training
from jaxdino.core import sharding
from jaxdino.core.params import Flat
from jaxdino.models.spec import ModelSpec
from jaxdino.objectives.distill_model import HEADS, DistillSpec, head_config

if TYPE_CHECKING:
    from jaxdino.train.session import Session

CENTRE_SHAPES = {"dino_head": (1, -1), "ibot_head": (1, 1, -1)}


def save_networks(
    session: "Session", card: Card, spec: DistillSpec, networks: Mapping[str, Flat], centres: Flat
) -> None:
    """Write `training/` in the run's folder, replacing an earlier one; see docs/training_checkpoints.md.

    Args:
      networks: {"teacher" or "student": all its leaves}.
    """
    parts = {role: _parts(card, spec, sharding.gather(flat)) for role, flat in networks.items()}
    shaped = {head: np.asarray(one).reshape(CENTRE_SHAPES[head]) for head, one in sharding.gather(centres).items()}
    if session.chief:
        extras = {"epoch": session.progress.epochs, "iteration": session.progress.step}
        save_training(session.folder / "training", TrainingCheckpoint(parts, shaped, extras), overwrite=True)


def _parts(card: Card, spec: DistillSpec, flat: Mapping[str, np.ndarray]) -> dict[str, Pretrained]:
    """Split a network into its backbone and heads, each as a separate model."""
    config = head_config(spec.projection, card.spec.config.width)
    cards = {"backbone": card}
    for head in HEADS:
        head_spec = ModelSpec(head, "dino_head", config)
        cards[head] = Card(head_spec, source=card.source)
    found = {}
    for name, own in cards.items():
        leaves = {path: leaf for path, leaf in flat.items() if path.startswith(f"{name}.")}
        if leaves:
            renamed = {f"backbone.{path.removeprefix(f'{name}.')}": leaf for path, leaf in leaves.items()}
            found[name] = Pretrained(dataclasses.replace(own, layout=None), renamed)
    return found
