"""Weights from anywhere: a file, a folder, a hub name, a model of ours or a training run's workdir."""

import dataclasses
from pathlib import Path

import numpy as np
from flax import nnx

from convert.hub import find
from convert.readers import Source, open_source
from convert.recognise import Recognised, recognise
from convert.store import Card, is_model, load_model
from convert.table import BoundTable
from convert.tables.vit import HEADS, TABLES
from jaxdino.core.errors import UserError
from jaxdino.core.params import digest, split
from jaxdino.models.layers import Linear
from jaxdino.models.registry import MODELS, ModelSpec, Preprocess


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """Weights and what they are.

    Attributes:
      flat: every parameter and buffer by path, numpy, in the dtype of the source.
      notes: what was left aside on the way, and weights that are not finite, a line each.
    """

    card: Card
    flat: dict[str, np.ndarray]
    notes: tuple[str, ...] = ()


def bound_table(spec: ModelSpec, layout: str, head: bool) -> BoundTable:
    """The table of a family and layout, filled in for one model."""
    table = TABLES[spec.family, layout] + (HEADS[layout] if head else [])
    return BoundTable(table, spec.config)


def load_pretrained(
    src: str | Path,
    *,
    model: str | None = None,
    layout: str | None = None,
    prefix: str | None = None,
    num_heads: int | None = None,
    drop_head: bool = False,
) -> Pretrained:
    """Reads weights whole: every key consumed or knowingly left aside, every leaf filled, shapes agreeing.

    Args:
      src: a file, a folder, a hub name, a model saved by `convert import`, or a workdir (its best model).
      model, layout, prefix, num_heads: overrule what the keys and shapes say.
      drop_head: leave a classification head in the source aside.

    Raises:
      UserError: with the missing, unexpected and mismatched keys and the nearest names. Nothing is loaded in part.
    """
    path = find(src)
    if is_model(path):
        return _from_store(path, model, drop_head, {"layout": layout, "prefix": prefix, "num_heads": num_heads})
    with open_source(path) as source:
        return _from_source(source, model, layout, prefix, num_heads, drop_head)


def _from_store(path: Path, model: str | None, drop_head: bool, overrules: dict) -> Pretrained:
    if given := [name for name, value in overrules.items() if value is not None]:
        raise UserError(
            f"{path} is a model of ours, which knows what it is: {', '.join(given)} can only overrule others"
        )
    card, flat = load_model(path)
    if model is not None and model != card.spec.name:
        raise UserError(f"{path} holds a {card.spec.name}, not a {model}")
    if drop_head and card.num_classes:
        flat = {key: value for key, value in flat.items() if not key.startswith("head.")}
        note = f"the head of {card.num_classes} classes was left aside, as asked"
        return Pretrained(dataclasses.replace(card, num_classes=0, class_names=()), flat, (note,))
    return Pretrained(card, flat)


def recognise_source(source: Source, *, model=None, layout=None, prefix=None, num_heads=None) -> Recognised:
    """What an open source holds; what our own export noted beside it counts unless it is overruled."""
    shapes = {key: source.shape(key) for key in source.keys()}  # noqa: SIM118 (a method of ours)
    noted = source.notes.get("model")
    found = recognise(
        shapes,
        json=source.config,
        preprocessor=source.preprocessor,
        model=model or (noted if noted in MODELS else None),
        layout=layout or source.notes.get("layout"),
        prefix=prefix,
        num_heads=num_heads or source.notes.get("num_heads"),
    )
    if "preprocess" not in source.notes:
        return found
    preprocess = Preprocess.of(source.notes["preprocess"])
    return dataclasses.replace(found, spec=dataclasses.replace(found.spec, preprocess=preprocess))


def inspect(src: str | Path, **overrules) -> tuple[Card, dict, Recognised]:
    """Card, notes of our own export, and what was recognised: from the header of a foreign checkpoint alone."""
    with open_source(find(src)) as source:
        found = recognise_source(source, **overrules)
        return card_of(found, source), source.notes, found


def card_of(found: Recognised, source: Source) -> Card:
    """The card of a foreign checkpoint."""
    labels = (source.config or {}).get("id2label") or {}
    names = [labels[key] for key in sorted(labels, key=int)] or source.notes.get("class_names", [])
    return Card(
        spec=found.spec,
        num_classes=found.num_classes,
        pool=_pool(found, source),
        class_names=tuple(names) if len(names) == found.num_classes else (),
        layout=found.layout,
        source={"path": str(source.origin["path"]), "prefix": found.prefix},
    )


def _pool(found: Recognised, source: Source) -> str:
    """What the head looks at: noted by our export, or told from its input width and timm's config.json."""
    if not found.num_classes:
        return found.spec.pool
    if "pool" in source.notes:
        return source.notes["pool"]
    key = next(found.keys[name] for name in ("classifier.weight", "head.weight") if name in found.keys)
    if source.shape(key)[1] == 2 * found.spec.config.width:
        return "cls_mean"
    return "mean" if (source.config or {}).get("global_pool") == "avg" else "cls"


def _from_source(source: Source, model, layout, prefix, num_heads, drop_head: bool) -> Pretrained:
    found = recognise_source(source, model=model, layout=layout, prefix=prefix, num_heads=num_heads)
    card, notes = card_of(found, source), []
    if drop_head and card.num_classes:
        notes.append(f"the head of {card.num_classes} classes was left aside, as asked")
        card = dataclasses.replace(card, num_classes=0, class_names=())
    head = card.num_classes > 0
    keys = {k: full for k, full in found.keys.items() if head or not k.startswith(("head.", "classifier."))}
    skeleton = found.spec.skeleton(card.num_classes, pool=card.pool)
    table = bound_table(found.spec, found.layout, head)
    shapes = {key: source.shape(full) for key, full in keys.items()}
    problems = table.check(shapes, skeleton, {key: source.dtype(full) for key, full in keys.items()})
    if problems:
        listed = "\n  ".join(problems[:20]) + (f"\n  and {len(problems) - 20} more" if len(problems) > 20 else "")
        raise UserError(
            f"{source.origin['path']} does not fit {found.spec.name} ({found.layout} layout):\n  {listed}\n"
            f"Nothing was loaded. --model, --layout and --prefix overrule what was recognised."
        )
    notes += _aside(found, table)
    flat = {}
    for leaf, array in table.read(lambda key: source.read(keys[key]), keys, skeleton):
        flat[leaf] = array
        if not np.isfinite(array).all():
            notes.append(f"warning: NaN or infinity in {leaf}")
    flat = {path: flat[path] for path in skeleton.entries}
    return Pretrained(dataclasses.replace(card, digest=digest(flat)), flat, tuple(notes))


def _aside(found: Recognised, table: BoundTable) -> list[str]:
    notes = [f"left aside {key}: {why}" for key in found.keys if (why := table.why_dropped(key))]
    groups: dict[str, int] = {}
    for key in found.aside:
        group = key.split(".")[0]
        groups[group] = groups.get(group, 0) + 1
    return notes + [f"left aside {count} tensors under {group!r}" for group, count in sorted(groups.items())]


def new_head(spec: ModelSpec, num_classes: int, pool: str, seed: int) -> dict[str, np.ndarray]:
    """A fresh classification head as flat parameters: small random kernel, zero bias."""
    width = spec.config.width * (2 if pool == "cls_mean" else 1)
    _, flat = split(Linear(width, num_classes, rngs=nnx.Rngs(seed)))
    return {f"head.{path}": np.asarray(array) for path, array in flat.items()}
