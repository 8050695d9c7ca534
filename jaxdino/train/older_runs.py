"""Configs of older runs: the settings that they lack, with the values that match how they behaved."""

import dataclasses
from typing import Any

from jaxdino.core.metric_names import present
from jaxdino.data.config import DataConfig
from jaxdino.data.recipe import View
from jaxdino.data.sampling import UNIFORM
from jaxdino.train.recorded import plain

ADDED: dict[str, dict[str, Any]] = {
    "data": dataclasses.asdict(DataConfig()) | {"sampling": UNIFORM, "decoder": "pillow"},
    "prompts": {"per_image": 1},
}
MONITORS = {"classify": "val/accuracy", "multilabel": "val/map", "segment": "val/miou", "semantic": "val/miou"}
"""Tasks of older runs -> the metric that their configs named, which is now the default (None)."""
ADDED_TO_VIEWS = ("warp", "noise", "mixup", "cutmix", "mix_prob", "switch_prob")
ADDED_TO_VIEWS += ("erase_prob", "erase_area", "erase_ratio")
ADDED_TO_VIEWS += ("shear", "shift", "zoom", "perspective", "grid", "quarter")
ADDED_TO_VIEWS += ("affine_prob", "perspective_prob", "distort_prob")


def completed(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Return the config of an older run with the settings that it lacks and that a new one has."""
    for part, values in ADDED.items():
        if isinstance(old.get(part), dict):
            there = new.get(part) or {}
            old[part] = {name: value for name, value in values.items() if name in there} | old[part]
    stopping, task = old.get("early_stopping") or {}, (old.get("objective") or {}).get("name")
    open_now = (new.get("early_stopping") or {}).get("monitor", "") is None
    if open_now and present(stopping.get("monitor") or "") == MONITORS.get(task):
        stopping["monitor"] = None
    if views := (old.get("data") or {}).get("views"):
        default = View()
        added = plain({name: getattr(default, name) for name in ADDED_TO_VIEWS})
        old["data"]["views"] = [added | view for view in views]
    return old
