"""Class names, and other facts in config.json about a head."""

import re
from collections.abc import Mapping
from typing import Any

from convert.label_fields import SEVERAL
from convert.readers import CLASSES, NOTES, Source
from jaxdino.core.errors import UserError
from jaxdino.models import heads
from jaxdino.models.heads.calibration import Calibration
from jaxdino.models.heads.linear import LinearHeadConfig


def class_names(source: Source, num_classes: int) -> tuple[tuple[str, ...], list[str]]:
    """Return the names of a head's classes, () if they are not all known, and a line for each ignored field.

    mmsegmentation's `CLASSES` come first, then transformers' `id2label` and its inverse `label2id`, timm's
    `label_names`, and our export's notes.

    Raises:
      UserError: if `id2label` or `label2id` does not map numbers and names.
    """
    said = [(key, source.extras[key]) for key in CLASSES if key in source.extras] + _said(source.config or {})
    for field, labels in said:
        if field in ("id2label", "label2id") and not _numbered(labels):
            raise UserError(
                f"{source.origin['path']}: {field} in config.json cannot be understood: {_short(labels)} does not say "
                "the number of each name"
            )
    if not num_classes:
        return (), []
    for field, labels in said:
        if (names := _in_order(labels, num_classes)) is not None:
            return names, []
        if labels:
            return (), [
                f"{'' if field in CLASSES else 'config.json: '}{field} does not name the head's classes 0 to "
                f"{num_classes - 1} ({_short(labels)}): classes are numbered instead"
            ]
    noted = source.notes.get("class_names", [])
    names = tuple(map(str, noted))
    return (names if len(names) == num_classes else ()), []


def _said(json: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Yield (field, {number: name} or a list) in order of priority."""
    pretrained = json.get("pretrained_cfg") or {}
    inverse = json.get("label2id")
    if isinstance(inverse, dict):
        inverse = {number: name for name, number in inverse.items()}
    found = [("id2label", json.get("id2label")), ("label2id", inverse)]
    found += [("label_names", place.get("label_names")) for place in (json, pretrained)]
    return [(field, labels) for field, labels in found if labels is not None]


def _numbered(labels: Any) -> bool:
    return isinstance(labels, dict) and all(re.fullmatch(r"-?\d+", str(number)) for number in labels)


def _in_order(labels: Any, num_classes: int) -> tuple[str, ...] | None:
    """Return the names by number, or None unless each class has one."""
    if isinstance(labels, list | tuple):
        labels = dict(enumerate(labels))
    if not isinstance(labels, dict):
        return None
    numbered = {str(number): name for number, name in labels.items()}
    names = [numbered.get(str(number)) for number in range(num_classes)]
    if len(numbered) != num_classes or not all(isinstance(name, str | int) for name in names):
        return None
    return tuple(map(str, names))


def _short(labels: Any) -> str:
    text = repr(labels)
    return text if len(text) <= 60 else f"{text[:57]}..."


def thresholds(source: Source, num_classes: int) -> tuple[float, ...]:
    """Return the thresholds of a classification head for images with several labels, () for one label.

    They are those in our export's notes, or 0.5 if config.json says that images have several labels.
    """
    if "head" in source.notes:
        noted = _noted(source, num_classes)
        return noted.thresholds if noted else ()
    return (0.5,) * num_classes if (source.config or {}).get("problem_type") == SEVERAL else ()


def calibration(source: Source, num_classes: int) -> Calibration | None:
    """Return the calibration of a classification head, from our export's notes; None without one."""
    noted = _noted(source, num_classes)
    return noted.calibration if noted else None


def _noted(source: Source, num_classes: int) -> LinearHeadConfig | None:
    """Return the classification head in our export's notes, None if there is none with so many classes."""
    if "head" not in source.notes:
        return None
    noted = heads.from_json(source.notes["head"], f"{NOTES}: head")
    return noted if isinstance(noted, LinearHeadConfig) and noted.num_classes == num_classes else None


def purpose(source: Source, num_classes: int) -> list[str]:
    """Return a line if config.json says that a head's outputs are not logits of mutually exclusive classes."""
    kind = (source.config or {}).get("problem_type")
    if not num_classes or kind in (None, "single_label_classification"):
        return []
    if kind != SEVERAL:
        return [
            f"warning: config.json says problem_type={kind!r}: `predict` and training expect exactly one class per "
            "image (softmax); the logits of the model are unchanged"
        ]
    if "head" in source.notes:
        return []
    return [
        f"config.json says problem_type={kind!r}: `predict` gives all classes with a probability (sigmoid) of at "
        "least 0.5; its argument `threshold` overrules"
    ]
