"""A tiny run of semantic segmentation on the embedded shapes."""

import tiny
from ml_collections import ConfigDict

from configs import common, segment_linear

RULES = {
    "linear": (("@head", "head"), ("@all", "frozen")),
    "lora": ((common.LORA, "lora"), ("@head", "head"), ("@all", "frozen")),
    "last": (("@head", "head"), ("@last", "backbone"), ("@all", "frozen")),
    "full": (("@head", "head"), ("@all", "backbone")),
}
GROUPS = {
    "head": dict(lr=1e-2),
    "lora": dict(lr=1e-3),
    "backbone": dict(lr=1e-3, layer_decay=0.9),
    "frozen": dict(frozen=True),
}


def stage(name: str, steps: int) -> ConfigDict:
    """A stage of one of the strategies in `RULES`."""
    groups = {group: GROUPS[group] for _, group in RULES[name]}
    lora = dict(rank=2, alpha=4.0, targets=("@attn",)) if name == "lora" else {}
    return common.stage(name, RULES[name], groups, steps=steps, lora=lora)


def config(*names: str, steps: int = 3, **changes) -> ConfigDict:
    """The config of a run of these stages; `changes` are set by dotted path ("__" for a dot)."""
    made = segment_linear.get_config()
    made.model.name = made.model.configured_for = tiny.SPEC.name
    made.model.weights = "random"
    made.data.update(image_size=16, batch_size=32, num_threads=0)
    made.stages = tuple(stage(name, steps) for name in names or ("linear",))
    made.log_every = 1
    for path, value in changes.items():
        *parents, leaf = path.split("__")
        node = made
        for name in parents:
            node = node[name]
        node[leaf] = value
    return made
