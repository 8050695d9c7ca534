"""The settings of a run that are not declared elsewhere, with their defaults and descriptions.

The settings of a stage, a group, the data or an objective are declared in their own classes (`jaxdino.stage`, ...).
"""

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Run:
    """Settings of the whole run.

    Attributes:
      seed: seed of all random numbers.
      stages: the stages to train, in order.
      skip_optional: leave the optional stages out.
      rates: "public": the stages' own learning rates, which suit strong published weights. "own": those of `own_rates`
        instead. "auto": "own" for random weights and for weights of a run that began with random ones, else "public".
      own_rates: {group: its learning rate in every stage that trains it} for rates=own.
      precision: precision of the computation: float32, bfloat16 or float16; the weights are float32.
      log_every: number of steps between lines of metrics.jsonl.
      writers: where metrics are written beside metrics.jsonl: tensorboard, wandb, mlflow, with commas between them;
        "none": nowhere.
      time_limit: save and exit after this time: 2h, 90m, 45s, 1h30m, or a number of seconds; None: no limit.
    """

    seed: int = 0
    stages: tuple[Any, ...] = ()
    skip_optional: bool = False
    rates: str = "auto"
    own_rates: Mapping[str, float] = dataclasses.field(default_factory=dict)
    precision: str = "float32"
    log_every: int = 10
    writers: str = "tensorboard"
    time_limit: str | None = None


@dataclasses.dataclass(frozen=True)
class Model:
    """The backbone, and where its weights come from.

    Attributes:
      name: a published name; without one after the config's colon, inferred from the weights.
      configured_for: the model that lengths and rates of the config were chosen for; do not set it.
      weights: file, folder, workdir of a run, hub name, or "random"; None: the model's published weights.
      shape: random weights of another size: '{"depths": [1, 1, 1, 1], ...}', fields of the model's configuration.
      num_classes: number of classes of the head; None: as many as the data has.
      pool: pooling before the head; None: as in the weights' own head, or the model's family.
      in_channels: number of image channels; three-channel weights are adapted to it; None: as in the weights.
      layout: layout of the weights' keys (hf, meta, timm, ...); None: recognised.
      prefix: network to load from a checkpoint, as the prefix of its keys ("teacher"); None: the one for evaluation.
      num_heads: number of attention heads, for weights that do not say it; None: recognised.
      pos_grid: (height, width) of a ViT's position table in patches; None: recognised.
      drop_head: drop the classification head of the weights, and train a new one.
      attention: xla, or cudnn: flash attention, on an NVIDIA GPU in half precision.
      remat: none, blocks or dots: keep all activations for the backward pass; those between blocks alone, and compute
        the others again; also the results of matrix products, which are most of the work.
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
    remat: str = "none"


@dataclasses.dataclass(frozen=True)
class Objective:
    """The task and its losses.

    Attributes:
      name: the task, set by the config: classify, depth, detect, distill, instances, knowledge_distillation,
        multilabel, segment or semantic.
      method: published method of self-distillation, with its losses and settings: dino, dinov2 or dinov3.
    """

    name: str
    method: str = "dino"


@dataclasses.dataclass(frozen=True)
class Views:
    """The views of self-distillation.

    Attributes:
      views: the crops of an image; see the settings of a view.
    """

    views: tuple[Any, ...] = ()


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """How self-distillation evaluates its features, with labels that it never trains on.

    Attributes:
      root: a folder of labelled images; None: the training data's own labels, if it has any.
      every_epochs: number of epochs between evaluations.
      k: numbers of neighbours of the k-NN accuracy; the largest is the one reported.
      image_size: image size in pixels, 224 or 192x256 (height x width); None: that of the global views.
      pool: features to use: cls, mean, cls_mean, cls4_mean or grid.
      batch_size: images per batch.
      linear_steps: number of steps of the linear probe at the run's end; 0 disables it.
    """

    root: str | None = None
    every_epochs: int = 1
    k: tuple[int, ...] = (10, 20)
    image_size: Any = None
    pool: str = "cls"
    batch_size: int = 64
    linear_steps: int = 2500


@dataclasses.dataclass(frozen=True)
class Alarms:
    """What to do when self-distillation has collapsed.

    Attributes:
      stop: end the run when it has collapsed.
    """

    stop: bool = True


@dataclasses.dataclass(frozen=True)
class Mesh:
    """The number of devices along each axis; -1: all remaining devices.

    Attributes:
      data: devices that a batch is divided over.
      fsdp: devices that parameters, optimiser state and averages are divided over as well.
      tensor: devices that attention heads and hidden channels are divided over.
      rules: ((pattern, axes), ...): sharding of parameters, applied before the default rules.
    """

    data: int = -1
    fsdp: int = 1
    tensor: int = 1
    rules: tuple[Any, ...] = ()


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """When checkpoints are saved.

    Attributes:
      every_epochs: number of epochs between checkpoints.
      every_steps: number of steps between additional checkpoints; None: only at the ends of epochs.
      keep: number of checkpoints to keep.
      stage_models: also keep the model that the run starts from and the best one of each stage, in stages/.
    """

    every_epochs: int = 1
    every_steps: int | None = None
    keep: int = 2
    stage_models: bool = False


@dataclasses.dataclass(frozen=True)
class Tracking:
    """How the run is written to Weights & Biases and MLflow (writers=wandb,mlflow).

    Attributes:
      project: W&B's project, MLflow's experiment; None: WANDB_PROJECT or MLFLOW_EXPERIMENT_NAME, else "jaxdino".
      name: name of the run there; None: that of its folder.
      mode: offline: nothing is sent; online: to the server; None: WANDB_MODE and MLFLOW_TRACKING_URI decide; without
        them nothing is sent.
      uri: where MLflow writes: a folder, or the address of a server; None: MLFLOW_TRACKING_URI, else the run's folder.
      artefacts: also upload report.html at the end.
    """

    project: str | None = None
    name: str | None = None
    mode: str | None = None
    uri: str | None = None
    artefacts: bool = False


@dataclasses.dataclass(frozen=True)
class Debug:
    """Looking for faults.

    Attributes:
      nan: check every step, and stop at the first value that is not finite: name the step, its images and the layer,
        and save a folder that replays it.
    """

    nan: bool = False


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
      stage: number of the only stage to train, from the run of the previous stage (model.weights); None: all.
    """

    stage: int | None = None
