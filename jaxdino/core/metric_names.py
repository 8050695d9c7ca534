"""Metric names: a split and a quantity, such as "val/accuracy". Names of earlier versions are still read."""

import re
from typing import Any

CLASSES = "accuracy|balanced_accuracy|macro_f1|loss|top5_accuracy|most_frequent_class|per_class"
MASKS = "miou|dice|iou|iou_50|iou_75|iou_90|precision|recall|loss|per_prompt"
OLD = (
    (re.compile(rf"(val|test)_({CLASSES})"), r"\1/\2"),
    (re.compile(rf"(val|test)\.({MASKS})"), r"\1/\2"),
    (re.compile(r"(knn\d*_accuracy)"), r"val/\1"),
)
"""(pattern of an earlier name, the current name)."""

ERRORS = ("loss", "abs_rel", "sq_rel", "rmse", "rmse_log", "log10", "silog")
"""Ends of the names of metrics that are better the lower they are."""


def falls(name: str) -> bool:
    """Return whether a lower value of a metric is better."""
    return name.endswith(ERRORS)


def present(name: str) -> str:
    """Return the current name of a metric, given that or an earlier one; other words are unchanged."""
    for pattern, new in OLD:
        if found := pattern.fullmatch(name):
            return found.expand(new)
    return name


def renamed(tree: Any) -> Any:
    """Return the data of a run, nested dicts and lists, with current metric names as keys and as monitors."""
    if isinstance(tree, list):
        return [renamed(one) for one in tree]
    if not isinstance(tree, dict):
        return tree
    found = {present(key): renamed(value) for key, value in tree.items()}
    if isinstance(found.get("monitor"), str):
        found["monitor"] = present(found["monitor"])
    return found
