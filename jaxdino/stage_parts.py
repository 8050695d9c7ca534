"""What a stage is made of: groups of parameters, the schedule, the optimiser; what they inherit, and their ranges."""

from dataclasses import dataclass

from jaxdino.core import size_text

# Paths without weight decay: biases, scales of norms, layer scale, tokens, positions, CLIP's temperature.
NO_DECAY = (
    r"(.*\.)?(bias|scale)",
    r"(.*\.)?gamma",
    r"(.*\.)?(cls_token|pos_embed|register_tokens|mask_token|embedding|rel_pos_[hw]|logit_scale)",
)
# Where the config holds the value of a field that a stage leaves open (None).
STAGE_INHERITS = {
    "patience": "early_stopping.patience",
    "min_delta": "early_stopping.min_delta",
    "monitor": "early_stopping.monitor",
    "clip_norm": "optimizer.clip_norm",
    "clip_by": "optimizer.clip_by",
    "accumulate": "optimizer.accumulate",
    "no_decay": "optimizer.no_decay",
    "label_smoothing": "objective.label_smoothing",
    "augment": "data.augment",
    "batch_size": "data.batch_size",
    "image_size": "data.image_size",
    "multi_scale": "data.multi_scale",
    "aspect_ratios": "data.aspect_ratios",
    "sampling": "data.sampling",
    "drop_path": "model.drop_path",
    "ema_decay": "ema_decay",
}
SIZES = {
    "image_size": size_text.read_schedule,
    "multi_scale": size_text.read_scales,
    "aspect_ratios": size_text.read_ratios,
}
"""Fields of a stage that say how large images are -> how they are read."""
GROUP_INHERITS = {
    "layer_decay": "optimizer.layer_decay",
    "weight_decay": "optimizer.weight_decay",
    "weight_decay_end": "optimizer.weight_decay_end",
}
# Valid ranges of the numbers in the classes below; a round bracket excludes its end.
RANGES = {
    "lr": "[0, inf)",
    "layer_decay": "(0, 1]",
    "weight_decay": "[0, inf)",
    "weight_decay_end": "[0, inf)",
    "freeze_epochs": "[0, inf)",
    "warmup_epochs": "[0, inf)",
    "warmup_steps": "[0, inf)",
    "final": "[0, 1]",
    "period_epochs": "(0, inf)",
    "period_mult": "[1, inf)",
    "factor": "(0, 1]",
    "betas": "[0, 1)",
    "eps": "(0, inf)",
    "momentum": "[0, 1)",
    "epochs": "[0, inf)",
    "steps": "[0, inf)",
    "patience": "[0, inf)",
    "min_delta": "[0, inf)",
    "clip_norm": "[0, inf)",
    "accumulate": "[1, inf)",
    "label_smoothing": "[0, 1)",
    "drop_path": "[0, 1)",
    "batch_size": "[1, inf)",
    "ema_decay": "[0, 1)",
}


@dataclass(frozen=True)
class Group:
    """How the parameters of one group are trained.

    Attributes:
      lr: peak learning rate; with layer decay, the rate of the group's topmost layer.
      layer_decay: factor on the rate per layer, from the head down; 1 disables it.
      weight_decay: weight decay of AdamW or SGD.
      weight_decay_end: weight decay at the stage's end, reached by a cosine; None: weight_decay throughout.
      freeze_epochs: number of epochs with a learning rate of 0 (DINO's last layer).
      frozen: whether the parameters are not trained.
    """

    lr: float | None = None
    layer_decay: float = 1.0
    weight_decay: float = 0.0
    weight_decay_end: float | None = None
    freeze_epochs: float = 0.0
    frozen: bool = False


@dataclass(frozen=True)
class Schedule:
    """Learning-rate schedule of a stage, as a multiplier of each group's peak rate.

    Attributes:
      name: cosine, step, cosine_restarts or constant.
      warmup_epochs: length of the linear warm-up from 0.
      warmup_steps: length of the warm-up in steps; if above 0, it replaces warmup_epochs.
      final: the multiplier at the end of a period (cosine, cosine_restarts).
      period_epochs: epochs between drops (step), or length of the first period (cosine_restarts).
      period_mult: factor on the length of each next period (cosine_restarts).
      factor: factor on the rate at each drop (step).
    """

    name: str = "cosine"
    warmup_epochs: float = 0.0
    warmup_steps: int = 0
    final: float = 0.0
    period_epochs: float = 10.0
    period_mult: int = 1
    factor: float = 0.1


@dataclass(frozen=True)
class Optimizer:
    """The update rule and its hyperparameters; names and defaults are torch's.

    Attributes:
      name: adamw or sgd.
      betas: decay rates of the two moments (adamw).
      eps: added to the root of the second moment (adamw).
      moments: float32 or bfloat16: how the two moments are stored between steps (adamw).
      momentum: momentum of the gradients (sgd).
      nesterov: whether to use Nesterov momentum (sgd).
    """

    name: str = "adamw"
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    moments: str = "float32"
    momentum: float = 0.9
    nesterov: bool = False
