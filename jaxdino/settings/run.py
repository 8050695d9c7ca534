"""The settings of a run that are not declared elsewhere, with their defaults and a line each.

What a stage, a group, the data or an objective may set is declared in classes of their own (`jaxdino.stage`, ...).
"""

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Run:
    """Settings of the whole run.

    Attributes:
      seed: of everything that is drawn at random.
      stages: what is trained, in which order, for how long.
      skip_optional: leave the optional stages out.
      rates: "public": the stages' own learning rates, which suit strong published weights. "own": those of `own_rates`
        instead. "auto": own for random weights and for those that a run of ours began from random ones.
      own_rates: {group: its learning rate in every stage that trains it} for rates=own.
      precision: of the computation: float32, bfloat16 or float16; the weights are float32.
      log_every: steps from one line of metrics.jsonl to the next.
      time_limit: save and exit after this time: 2h, 90m, 45s, 1h30m, or a number of seconds; None: no limit.
    """

    seed: int = 0
    stages: tuple[Any, ...] = ()
    skip_optional: bool = False
    rates: str = "auto"
    own_rates: Mapping[str, float] = dataclasses.field(default_factory=dict)
    precision: str = "float32"
    log_every: int = 10
    time_limit: str | None = None


@dataclasses.dataclass(frozen=True)
class Model:
    """The backbone, and where its weights come from.

    Attributes:
      name: a published name; without one after the config's colon, what the weights are.
      configured_for: the model that lengths and rates of the config were chosen for; not to be set.
      weights: file, folder, workdir of a run, hub name, or "random"; None: the model's published weights.
      shape: random weights of another size: '{"depths": [1, 1, 1, 1], ...}', fields of the model's configuration.
      num_classes: of the head; None: as many as the data has.
      pool: what the head looks at; None: as the weights' own head, or the model's family.
      in_channels: of the images; three-channel weights are adapted to another number; None: as the weights take.
      layout: of the weights' keys (hf, meta, timm, ...); None: as they are recognised.
      prefix: which network of a checkpoint, by what stands before its keys ("teacher"); None: as evaluation takes it.
      num_heads: attention heads of weights that do not say them; None: as they are recognised.
      pos_grid: (height, width) of a ViT's position table in patches; None: as it is recognised.
      drop_head: drop the classification head that the weights have, for a new one.
      attention: xla, or cudnn: flash attention, on an NVIDIA GPU in half precision.
      remat: compute activations again in the backward pass: less memory, more time.
    """

    name: str
    configured_for: str
    weights: str | None = None
    shape: str | None = None
    num_classes: int | None = None
    pool: str | None = None
    in_channels: int | None = None
    layout: str | None = None
    prefix: str | None = None
    num_heads: int | None = None
    pos_grid: tuple[int, int] | None = None
    drop_head: bool = False
    attention: str = "xla"
    remat: bool = False


@dataclasses.dataclass(frozen=True)
class Objective:
    """What a run minimises.

    Attributes:
      name: the task: classify, distill or segment; belongs to the config.
      method: combination of losses and their settings: dino, dinov2 or dinov3.
    """

    name: str
    method: str = "dino"


@dataclasses.dataclass(frozen=True)
class Views:
    """What self-distillation makes of an image.

    Attributes:
      views: the crops of an image; see the settings of a view.
    """

    views: tuple[Any, ...] = ()


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """How self-distillation measures its features by labels that it never trains on.

    Attributes:
      root: a folder of labelled images; None: the training data's own labels, if it has any.
      every_epochs: epochs from one measurement to the next.
      k: numbers of neighbours of the k-NN accuracy; the largest counts.
      image_size: pixels; None: the global views'.
      pool: what is taken as features: cls, mean, cls_mean, cls4_mean or grid.
      batch_size: images at a time.
      linear_steps: steps of the linear probe at the run's end; 0 is none.
    """

    root: str | None = None
    every_epochs: int = 1
    k: tuple[int, ...] = (10, 20)
    image_size: int | None = None
    pool: str = "cls"
    batch_size: int = 64
    linear_steps: int = 2500


@dataclasses.dataclass(frozen=True)
class Alarms:
    """When self-distillation has collapsed.

    Attributes:
      stop: end the run when it has collapsed.
    """

    stop: bool = True


@dataclasses.dataclass(frozen=True)
class Mesh:
    """The devices along each axis; -1: all that are left.

    Attributes:
      data: devices that share out a batch.
      fsdp: devices that share out parameters, optimiser state and averages too.
      rules: ((pattern, axes), ...): how parameters are laid out, before the default rules.
    """

    data: int = -1
    fsdp: int = 1
    rules: tuple[Any, ...] = ()


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """What a run is resumed from.

    Attributes:
      every_epochs: epochs from one checkpoint to the next.
      every_steps: steps from one to the next besides; None: only at the epochs' ends.
      keep: how many are kept.
    """

    every_epochs: int = 1
    every_steps: int | None = None
    keep: int = 2


@dataclasses.dataclass(frozen=True)
class Part:
    """A published model that is part of a segmenter.

    Attributes:
      name: its published name.
      weights: file, folder, hub name, or "random"; None: the published ones.
    """

    name: str
    weights: str | None = None


@dataclasses.dataclass(frozen=True)
class OneStage:
    """Runs that train a single stage.

    Attributes:
      stage: number of the one stage to train, from the run of the one before (model.weights); None: all.
    """

    stage: int | None = None
