"""Which model and layout a checkpoint is: the network in it is found here, its family tells the rest."""

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Any

from convert.family import Family, Hints, Shapes
from convert.naming import agree, spec_of
from convert.preprocess import from_json, from_timm
from convert.tables import FAMILIES, LAYOUTS, serving
from jaxdino.core.errors import UserError
from jaxdino.core.rules import did_you_mean
from jaxdino.models.registry import get
from jaxdino.models.spec import ModelSpec

PREFERRED = ("teacher", "ema", "model_ema", "state_dict_ema", "target", "model", "state_dict", "module")
"""Of several networks in one checkpoint, the one whose prefix has the first of these in it is taken."""

LINEAR_HEAD = re.compile(r"(module\.|model\.|state_dict\.)*linear_head\.(weight|bias)")
CHUNK = re.compile(r"(?<=^blocks\.)\d+\.(?=\d+\.)")
"""DINOv2's training code may part the blocks into chunks, blocks.CHUNK.BLOCK., each block under its own number."""
NO_HINTS = Hints()


@dataclasses.dataclass(frozen=True)
class Recognised:
    """What a checkpoint was found to be.

    Attributes:
      layout: as the family names it ("hf", "meta", "timm", ...).
      keys: {key of the layout: key in the file} of the chosen network, prefix removed.
      aside: keys of the file that belong to another network, an optimiser or a projection head.
      num_classes: of the classification head, 0 without one.
    """

    spec: ModelSpec
    layout: str
    prefix: str
    keys: dict[str, str]
    aside: list[str]
    num_classes: int


def recognise(
    shapes: Shapes,
    *,
    preprocessor: Mapping[str, Any] | None = None,
    prefix: str | None = None,
    hints: Hints = NO_HINTS,
) -> Recognised:
    """Tells model, layout and network from the header of a checkpoint.

    Args:
      shapes: {key: shape} of the whole file.
      preprocessor: preprocessor_config.json, where the file has one beside it.
      prefix: of the network to take, where the file holds several.
      hints: what else is known; what the user named overrules what keys and shapes say.

    Raises:
      UserError: if there is no network in it, or it is not the model or layout that was named.
    """
    if hints.layout is not None and hints.layout not in LAYOUTS:
        raise UserError(f"there is no layout {hints.layout!r}; {did_you_mean(hints.layout, LAYOUTS)}")
    named = get(hints.model).family if hints.model else None
    family, prefix = _network(shapes, prefix, named)
    if named and named not in family.names:
        raise UserError(f"the checkpoint is one of {', '.join(family.names)}; {hints.model} is of {named}")
    keys, aside = _select(shapes, prefix, family)
    own = {key: shapes[full] for key, full in keys.items()}
    told = family.tell(own, hints)
    mean = tuple((preprocessor or {}).get("image_mean", ()))
    if hints.model:
        spec = agree(get(hints.model), told.config, family)
    else:
        spec = spec_of(told.config, told.family, told.layout, family, mean)
    how = from_json(from_timm(hints.json) or told.preprocess or spec.preprocess, preprocessor)
    spec = dataclasses.replace(spec, config=told.config, preprocess=how)
    head = head_keys(family.layouts[told.family, told.layout].head)
    keys, aside = _linear_head(head, keys, aside)
    num_classes = shapes[keys[head[0]]][0] if head and head[0] in keys else 0
    return Recognised(spec, told.layout, prefix, keys, aside, num_classes)


def _linear_head(head: list[str], keys: dict[str, str], aside: list[str]) -> tuple[dict[str, str], list[str]]:
    """The head under the layout's names where it is called `linear_head`, as beside DINOv2's and DINOv3's backbones.

    Raises:
      UserError: if there is another head.
    """
    found = {key.rpartition(".")[2]: key for key in (*keys.values(), *aside) if LINEAR_HEAD.fullmatch(key)}
    if not found or not head:
        return keys, aside
    if twice := sorted(set(head) & set(keys)):
        raise UserError(f"two heads, {twice[0]} and {found[twice[0].rpartition('.')[2]]}: only one can be kept")
    renamed = {name: found[leaf] for name in head if (leaf := name.rpartition(".")[2]) in found}
    taken = set(renamed.values())
    kept = {name: full for name, full in keys.items() if full not in taken}
    return kept | renamed, [full for full in aside if full not in taken]


def head_keys(rules: Iterable) -> list[str]:
    """The keys of a classification head, its weight first."""
    return [key for rule in rules for key in rule.keys]


def prefixes(keys: Iterable[str], family: Family) -> list[str]:
    """The prefixes under which the file holds a network of the family, the preferred one first."""
    found = {key[: -len(anchor)] for key in keys for anchor in family.anchors if key.endswith(anchor)}
    # "a.b.patch_embed..." must end at a dot, or be empty
    found = {prefix for prefix in found if not prefix or prefix.endswith(".")}

    def rank(prefix: str) -> tuple:
        found = [PREFERRED.index(part) for part in prefix.split(".") if part in PREFERRED]
        return min(found, default=len(PREFERRED)) if prefix else -1, prefix

    return sorted(found, key=rank)


def _network(keys: Shapes, prefix: str | None, named: str | None) -> tuple[Family, str]:
    """The family and prefix of the network to take: the named family's if there is one, else the first that fits."""
    found = {family: prefixes(keys, family) for family in sorted(FAMILIES, key=lambda f: named not in f.names)}
    found = {family: places for family, places in found.items() if places}
    if not found:
        raise UserError(
            f"no network that we know in this file of {len(keys)} keys, which begins with "
            f"{', '.join(sorted(keys)[:5]) or 'nothing'}; known families: {', '.join(serving())}"
        )
    if prefix is None:
        return next((family, places[0]) for family, places in found.items())
    prefix = prefix if not prefix or prefix.endswith(".") else prefix + "."
    for family, places in found.items():
        if prefix in places:
            return family, prefix
    places = ", ".join(map(repr, next(iter(found.values()))))
    raise UserError(f"there is no network under {prefix!r}; found under: {places}")


def _select(keys: Shapes, prefix: str, family: Family) -> tuple[dict[str, str], list[str]]:
    """The network's keys without their prefix; a classification head may stand outside (as in transformers)."""
    chosen = {CHUNK.sub("", key[len(prefix) :]): key for key in keys if key.startswith(prefix)}
    outer = re.sub(r"[^.]+\.$", "", prefix)
    for name in {key for layout in family.layouts.values() for key in head_keys(layout.head)}:
        if name not in chosen and outer + name in keys:
            chosen[name] = outer + name
    taken = set(chosen.values())
    return chosen, [key for key in keys if key not in taken]
