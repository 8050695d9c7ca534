"""Recognise the model and layout of a checkpoint: find the network here, then ask its family."""

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Any

from convert import networks, timm_args
from convert.assumptions import assume
from convert.family import Family, Hints, Shapes, Told
from convert.head_keys import OWN, keys_of, with_linear_head, with_segmentation_head
from convert.naming import CUSTOM, agree, rivals, spec_of
from convert.preprocess import from_json, from_timm
from convert.tables import FAMILIES, LAYOUTS, heads, layouts, own_heads, serving
from convert.tables.patches import TABLES
from jaxdino.core.errors import UserError
from jaxdino.core.rules import did_you_mean
from jaxdino.models.registry import get
from jaxdino.models.spec import ModelSpec

CHUNK = re.compile(r"(?<=^blocks\.)\d+\.(?=\d+\.)")
"""DINOv2's training code may group blocks into chunks, blocks.CHUNK.BLOCK.; each block keeps its own number."""
NO_HINTS = Hints()


@dataclasses.dataclass(frozen=True)
class Recognised:
    """Result of recognising a checkpoint.

    Attributes:
      layout: the family's name for it ("hf", "meta", "timm", ...).
      keys: {key of the layout: key in the file} of the chosen network, prefix removed.
      aside: keys of the file that belong to another network, an optimiser or a projection head.
      num_classes: of the head, 0 without one.
      segmentation: naming of a head of patches, boxes or masks (see `tables.patches`; "own": `tables.own_heads`), ""
        if it is a classification head or none.
      assumed: facts that are neither in the file nor beside it, a line each.
      notes: settings in the files beside it that were ignored, a line each.
    """

    spec: ModelSpec
    layout: str
    prefix: str
    keys: dict[str, str]
    aside: list[str]
    num_classes: int
    segmentation: str = ""
    assumed: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def head(self) -> list[str]:
        """Return the keys of a head in this layout, the weight first; `keys` has them if there is a head."""
        if self.segmentation == OWN:
            return [key for key in self.keys if key.startswith(own_heads.PREFIX)]
        return keys_of(TABLES[self.segmentation] if self.segmentation else layouts(self.spec)[self.layout].head)

    def without_segmentation_head(self) -> "Recognised":
        """Return the network alone, if the head is a segmentation head, which no layout's classes include."""
        if not self.segmentation:
            return self
        keys = {key: full for key, full in self.keys.items() if key not in self.head}
        return dataclasses.replace(self, keys=keys, num_classes=0, segmentation="")


def recognise(
    shapes: Shapes,
    *,
    preprocessor: Mapping[str, Any] | None = None,
    prefix: str | None = None,
    hints: Hints = NO_HINTS,
) -> Recognised:
    """Recognise model, layout and network from the header of a checkpoint.

    Args:
      shapes: {key: shape} of the whole file.
      preprocessor: preprocessor_config.json, if there is one beside the file.
      prefix: of the network to take, if the file holds several.
      hints: other known facts; the user's choices override what keys and shapes show.

    Raises:
      UserError: if it contains no network, or is not the given model or layout.
    """
    if hints.layout is not None and hints.layout not in LAYOUTS:
        raise UserError(f"there is no layout {hints.layout!r}; {did_you_mean(hints.layout, LAYOUTS)}")
    named = get(hints.model).family if hints.model else None
    family, prefix, which = _network(shapes, prefix, named)
    if named and named not in family.names:
        raise UserError(f"the checkpoint is one of {', '.join(family.names)}; {hints.model} is of {named}")
    keys, aside = _select(shapes, prefix, family)
    own = {key: shapes[full] for key, full in keys.items()}
    told = family.detect(own, hints._replace(prefix=prefix))
    if hints.pos_grid and getattr(told.config, "positions", "") != "learned":
        raise UserError(
            f"--pos_grid is for plain ViTs with a position table; a {told.family} checkpoint does not need it"
        )
    mean = _mean(preprocessor)
    if hints.model:
        spec = agree(get(hints.model), told.config, family)
    else:
        spec = spec_of(told.config, told.family, told.layout, family, mean)
    base, (timm, notes) = told.preprocess or spec.preprocess, from_timm(hints.json)
    assumed = (*which, *told.assumed)
    if not (timm or preprocessor or hints.prepared):
        assumed += _unsaid(spec, told, family, hints)
    base = dataclasses.replace(base, size=told.size[0]) if told.size else base
    notes += timm_args.check(told.family, told.config, hints)
    how, more = from_json(timm or base, preprocessor)
    spec = dataclasses.replace(spec, config=told.config, preprocess=how)
    head = keys_of(family.layouts[told.family, told.layout].head)
    keys, aside = with_linear_head(head, keys, aside)
    if networks.PROJECTING & set(prefix.split(".")):
        projection = [keys.pop(key) for key in head if key in keys]
        notes += [f"left aside {key}: the projection of MoCo's pre-training, no classifier" for key in projection]
    naming, keys, aside = with_segmentation_head(head, keys, aside)
    head = keys_of(TABLES[naming]) if naming in TABLES else head
    num_classes = shapes[keys[head[0]]][0] if head and head[0] in keys else 0
    num_classes = own_heads.classes(shapes) if naming == OWN else num_classes
    num_classes = 1 if naming.startswith("depth") else num_classes  # its outputs are bins
    return Recognised(spec, told.layout, prefix, keys, aside, num_classes, naming, assumed, (*notes, *more))


def _unsaid(spec: ModelSpec, told: Told, family: Family, hints: Hints) -> tuple[str, ...]:
    """Return the assumptions about the images, if no file describes the preprocessing."""
    lines = list(told.unsaid)
    if others := [] if hints.model else rivals(spec, told.config, family, told.layout):
        what = f"the weights of {spec.name}, not of {' or '.join(others)}, which has another mean and deviation"
        lines.append(assume(what, "the shapes are the same", "model"))
    custom = spec.name.endswith(CUSTOM) and told.preprocess is None
    size, why = told.size or (spec.preprocess.size, f"as the published models of {spec.family}")
    if not hints.sized and (custom if told.size is None else size != spec.preprocess.size):
        lines.append(assume("images of {} x {} pixels".format(*size), why, "image_size"))
    return tuple(lines)


def _mean(preprocessor: Mapping[str, Any] | None) -> tuple[float, ...]:
    """Return the mean in a processor file, () if there is none."""
    mean = (preprocessor or {}).get("image_mean") or ()
    return (mean,) * 3 if isinstance(mean, int | float) else tuple(mean)


def prefixes(keys: Iterable[str], family: Family) -> list[str]:
    """Return the prefixes of the family's networks in the file, the preferred one first."""
    found = {key[: -len(anchor)] for key in keys for anchor in family.anchors if _ends(key, anchor)}
    return sorted(found, key=lambda prefix: (prefix != "", networks.rank(prefix, found), prefix))


def _ends(key: str, anchor: str) -> bool:
    """Return whether the part of a key before the anchor is empty or ends with a dot."""
    return key == anchor or key.endswith("." + anchor)


def _found(shapes: Shapes, families: Iterable[Family]) -> dict[Family, dict[str, tuple[int, ...]]]:
    """Return {family: {prefix: shape of its first kernel}}; a key counts for the first family and longest anchor."""
    found: dict[Family, dict[str, tuple[int, ...]]] = {}
    for key, shape in shapes.items():
        for family in families:
            if own := [anchor for anchor in family.anchors if _ends(key, anchor)]:
                found.setdefault(family, {}).setdefault(key[: -len(max(own, key=len))], shape)
                break
    return found


def _network(shapes: Shapes, prefix: str | None, named: str | None) -> tuple[Family, str, tuple[str, ...]]:
    """Choose the network: return its family, its prefix and the assumptions.

    Networks of a given family come first; projection heads are taken only if there is no other network, or by name.
    """
    found = _found(shapes, FAMILIES)
    wanted = [family for family in found if named in family.names] if named else []
    wanted = wanted or [family for family in found if family is not heads.FAMILY] or list(found)
    if not wanted:
        raise UserError(
            f"no known network in this file of {len(shapes)} keys, which begins with "
            f"{', '.join(sorted(shapes)[:5]) or 'nothing'}; known families: {', '.join(serving())}"
        )
    if prefix is None:
        places = {place: shape for family in wanted for place, shape in found[family].items()}
        prefix, left = networks.choose(places)
        return next(f for f in wanted if prefix in found[f]), prefix, networks.taken(prefix, left)
    prefix = prefix if not prefix or prefix.endswith(".") else prefix + "."
    for family in (*wanted, *FAMILIES):
        if prefix in prefixes(shapes, family):
            return family, prefix, ()
    places = ", ".join(repr(place) for family in wanted for place in prefixes(shapes, family))
    raise UserError(f"there is no network under {prefix!r}; found under: {places}")


def _select(keys: Shapes, prefix: str, family: Family) -> tuple[dict[str, str], list[str]]:
    """Return the network's keys without prefix; a classification head may be outside it (as in transformers)."""
    chosen = {CHUNK.sub("", key[len(prefix) :]): key for key in keys if key.startswith(prefix)}
    outer = re.sub(r"[^.]+\.$", "", prefix)
    for name in {key for layout in family.layouts.values() for key in keys_of(layout.head)}:
        if name not in chosen and outer + name in keys:
            chosen[name] = outer + name
    taken = set(chosen.values())
    return chosen, [key for key in keys if key not in taken]
