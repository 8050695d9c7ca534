"""Class names in transformers' config.json, and whether an image has several of them."""

from typing import Any

from convert.card import Card

SEVERAL = "multi_label_classification"
"""`problem_type` of a head for images with several labels."""


def label_fields(card: Card) -> dict[str, Any]:
    """Return the fields of transformers' config.json that name the classes of a head, and say if several apply."""
    names = card.class_names or tuple(f"LABEL_{i}" for i in range(card.num_classes))
    found = {
        "id2label": {str(i): name for i, name in enumerate(names)},
        "label2id": {name: i for i, name in enumerate(names)},
    }
    several = card.head.choice is not None and card.head.choice.several
    return found | ({"problem_type": SEVERAL} if several else {})
