"""Names of cached features, and the inputs of a head that are made of them.

A feature is named by what it is and by its block, counted from the end as in Python: "cls-1" is the class token of the
last block, "mean-2" the mean patch of the last but one, "patches-1" the patch tokens of the last one.
"""

from collections.abc import Collection, Sequence

from jaxdino.core.errors import UserError
from jaxdino.core.rules import did_you_mean

PATCHES = "patches-1"
PARTS: dict[str, tuple[str, ...]] = {
    "cls": ("cls-1",),
    "mean": ("mean-1",),
    "cls_mean": ("cls-1", "mean-1"),
    "cls4_mean": ("cls-4", "cls-3", "cls-2", "cls-1", "mean-1"),
}
"""Pooling of a classification head (`models.heads.linear.POOLS`) -> the features that it reads, in order."""


def of_layers(layers: int, patches: bool) -> list[str]:
    """Return the names of the features of the last `layers` blocks, with the patch tokens if asked."""
    pooled = [f"{kind}-{block}" for block in range(layers, 0, -1) for kind in ("cls", "mean")]
    return pooled + [PATCHES] * patches


def parts_of(name: str, known: Collection[str]) -> tuple[str, ...]:
    """Return the features of an input: a pooling such as "cls_mean", or features joined by "+", "cls-2+cls-1".

    Args:
      known: the features of the cache.

    Raises:
      UserError: if the cache does not have one of them, with the nearest names.
    """
    parts = PARTS.get(name, tuple(name.split("+")))
    pooled = [feature for feature in known if feature != PATCHES]
    for part in parts:
        if part not in pooled:
            missing = f"{part!r} of the input {name!r}" if name in PARTS or len(parts) > 1 else repr(name)
            more = "; jaxdino extract --layers 4 keeps the last four blocks" if name == "cls4_mean" else ""
            near = did_you_mean(part, [*pooled, *available(pooled)])
            raise UserError(f"the feature {missing} is not in the cache; {near}{more}")
    return parts


def available(known: Collection[str]) -> list[str]:
    """Return the poolings whose features are all in the cache."""
    return [name for name, parts in PARTS.items() if set(parts) <= set(known)]


def pool_for(parts: Sequence[str]) -> str | None:
    """Return the smallest pooling that reads all these features, or None: others cannot be put back into a model."""
    fitting = [name for name, own in PARTS.items() if set(parts) <= set(own)]
    return min(fitting, key=lambda name: len(PARTS[name]), default=None)
