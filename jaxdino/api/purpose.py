"""What a model is for: the command and the method that use it."""

from typing import Any

from convert.card import Card
from jaxdino.core.command import program


def purpose(card: Card, face: Any) -> str:
    """Say what uses a model, for errors of commands that cannot: "`jaxdino detect` and `model.detect` find objects".

    Args:
      face: the loaded model, or its class.
    """
    if hasattr(face, "detect"):
        return f"`{program('detect')}` and `model.detect` find its objects"
    if hasattr(face, "depth"):
        return f"`{program('depth')}` and `model.depth` give its depth maps"
    if hasattr(face, "masks"):
        return f"`{program('segment')}` and `model.masks` find its objects"
    if hasattr(face, "segment"):
        return f"`{program('segment')}` and `model.segment` give its masks"
    if card.num_classes:
        return f"`{program('predict')}` and `model.predict` give classes of images"
    return f"it has no head; `{program('evaluate')} --weights DIR --root DATA` measures its features"
