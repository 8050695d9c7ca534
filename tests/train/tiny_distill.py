"""A tiny run of self-distillation on the digits that `tiny` takes."""

import dataclasses

import tiny  # noqa: F401  (it registers the model)
from ml_collections import ConfigDict

from configs import common
from jaxdino.data.config import DataConfig
from jaxdino.data.recipe import View

PLAIN = dict(hflip=0.0, hue=0.0, saturation=0.0, gray_prob=0.0, blur_prob=0.0)
VIEWS = (View("global", 16, (0.5, 1.0), count=2, **PLAIN), View("local", 8, (0.2, 0.5), count=2, **PLAIN))
FROZEN, HEAD = dict(frozen=True), dict(lr=2e-3)


def stages(*epochs: int) -> tuple[ConfigDict, ...]:
    """The head, everything held to the start, adapters: as many stages as there are lengths."""
    anchored = dict(gram=1.0, anchor=1.0)
    given = (
        dict(name="head", rules=(("@head", "head"), ("@all", "frozen")), groups=dict(head=HEAD, frozen=FROZEN)),
        dict(
            name="all",
            rules=(("@head", "head"), ("@all", "backbone")),
            groups=dict(head=HEAD, backbone=dict(lr=1e-3, layer_decay=0.9)),
            objective=anchored,
        ),
        dict(
            name="lora",
            rules=((common.LORA, "lora"), ("@head", "head"), ("@all", "frozen")),
            groups=dict(head=HEAD, lora=dict(lr=1e-3, weight_decay=0.0), frozen=FROZEN),
            objective=anchored,
            lora=dict(rank=2, targets=("@attn",), dropout=0.1),
        ),
    )
    return tuple(common.distill_stage(epochs=n, **one) for n, one in zip(epochs, given, strict=False))


def config(*epochs: int, **changes) -> ConfigDict:
    """The config of a tiny run from random weights; `changes` are set by dotted path ("__" for a dot)."""
    made = common.distill_config()
    made.model.name = made.model.configured_for = "tiny"
    made.model.weights = "random"
    with made.unlocked():
        made.data = dataclasses.asdict(DataConfig(num_threads=0)) | dict(name="few_digits", batch_size=32)
        made.data.views = tuple(ConfigDict(dataclasses.asdict(view)) for view in VIEWS)
    made.projection.update(out_dim=64, hidden_dim=32, bottleneck_dim=16)
    made.evaluation.update(linear_steps=0, batch_size=90)
    made.stages = (
        common.distill_stage("all", rules=(("@all", "all"),), groups=dict(all=dict(lr=1e-3)), epochs=epochs[0]),
    )
    made.log_every = 1
    for path, value in changes.items():
        *parents, leaf = path.split("__")
        node = made
        for name in parents:
            node = node[name]
        node[leaf] = value
    return made


def continued(weights: str, *epochs: int, **changes) -> ConfigDict:
    """The three stages of a continuation, with everything that state can hold."""
    made = config(1, model__weights=weights, objective__method="dinov3", objective__centring="centre", **changes)
    made.projection.separate = True
    made.stages = stages(*epochs)
    return made
