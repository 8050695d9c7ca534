"""Names of the classes, and what config.json says of a head besides them."""

import re
from collections.abc import Mapping
from typing import Any

from convert.readers import Source
from jaxdino.core.errors import UserError


def class_names(source: Source, num_classes: int) -> tuple[tuple[str, ...], list[str]]:
    """The names of a head's classes, () where nothing says them all; and a line for what is not followed.

    transformers' `id2label` comes first, then its inverse `label2id`, timm's `label_names`, and our export's notes.

    Raises:
      UserError: if `id2label` or `label2id` does not map numbers and names.
    """
    said = _said(source.config or {})
    for field, labels in said:
        if field != "label_names" and not _numbered(labels):
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
                f"config.json: {field} does not name the head's classes 0 to {num_classes - 1} "
                f"({_short(labels)}): classes are numbered instead"
            ]
    noted = source.notes.get("class_names", [])
    names = tuple(map(str, noted))
    return (names if len(names) == num_classes else ()), []


def _said(json: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """(field, {number: name} or a list) in the order in which they count."""
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
    """The names by number, None unless there is one for each."""
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


def purpose(json: Mapping[str, Any], num_classes: int) -> list[str]:
    """A warning where the head's outputs are no logits of exclusive classes."""
    kind = json.get("problem_type")
    if not num_classes or kind in (None, "single_label_classification"):
        return []
    return [
        f"warning: config.json says problem_type={kind!r}: `predict` and training take exactly one class for an image "
        "(softmax); the logits of the model are as they were"
    ]
