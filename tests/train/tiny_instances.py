"""A tiny run of instance segmentation on the embedded shapes."""

import tiny
from ml_collections import ConfigDict

from configs import common, segment_instances

RULES = {
    "head": (("@head", "head"), ("@all", "frozen")),
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


def config(*names: str, steps: int = 2, **changes) -> ConfigDict:
    """The config of a run of these stages; `changes` are set by dotted path ("__" for a dot)."""
    made = segment_instances.get_config()
    made.model.name = made.model.configured_for = tiny.SPEC.name
    made.model.weights = "random"
    made.objective.update(queries=8, layers=1, width=8, points=16)
    made.data.update(image_size=16, batch_size=16, num_threads=0, decoder="pillow")
    lora = dict(rank=2, alpha=4.0, targets=("@attn",))
    made.stages = tuple(
        common.stage(
            name,
            RULES[name],
            {group: GROUPS[group] for _, group in RULES[name]},
            steps=steps,
            lora=lora if name == "lora" else {},
        )
        for name in names or ("head",)
    )
    made.log_every = 1
    for path, value in changes.items():
        *parents, leaf = path.split("__")
        node = made
        for name in parents:
            node = node[name]
        node[leaf] = value
    return made
