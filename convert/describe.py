"""Describe an open checkpoint as a card, from its header, the JSON files beside it and the user's flags."""

import dataclasses
from pathlib import Path
from typing import Any

from convert.assumptions import assume
from convert.card import Card
from convert.channels import seen_as
from convert.dense_heads import decoder_head
from convert.family import POOL_WORDS, Hints
from convert.head_keys import OWN
from convert.hub import find
from convert.labels import calibration, class_names, purpose, thresholds
from convert.networks import Undecided
from convert.plausible import check_spec, understood
from convert.readers import NOTES, Source, open_source
from convert.recognise import Recognised, recognise
from convert.resized import Size, resized
from convert.tables import serving
from jaxdino.core.errors import UserError
from jaxdino.models import heads
from jaxdino.models.heads import Blocks
from jaxdino.models.heads.linear import POOLS, LinearHeadConfig, pool_named
from jaxdino.models.heads.patches import PatchesHeadConfig
from jaxdino.models.registry import MODELS
from jaxdino.models.spec import Preprocess


class UnknownPool(UserError):
    """A classification head whose pooling is unknown."""


def recognise_source(
    source: Source,
    *,
    model: str | None = None,
    layout: str | None = None,
    prefix: str | None = None,
    num_heads: int | None = None,
    pos_grid: tuple[int, int] | None = None,
    image_size: Size | None = None,
) -> Recognised:
    """Recognise an open source; notes of our own export are used unless they are overridden."""
    shapes = {key: source.shape(key) for key in source.keys()}  # noqa: SIM118 (a method of ours)
    noted = source.notes.get("model")
    with understood(beside(source)):
        hints = Hints(
            json=source.config or {},
            num_heads=num_heads or source.notes.get("num_heads"),
            model=model or (noted if noted in MODELS else None),
            layout=layout or source.notes.get("layout"),
            extras=source.extras,
            pos_grid=pos_grid or _noted_grid(source),
            prepared="preprocess" in source.notes,
            sized=image_size is not None,
        )
        try:
            found = recognise(shapes, preprocessor=source.preprocessor, prefix=prefix, hints=hints)
        except Undecided as err:
            one = _one_network(source, err.places)
            if one is None:
                raise
            found = recognise(shapes, preprocessor=source.preprocessor, prefix=one, hints=hints)
            others = ", ".join(repr(place.rstrip(".")) for place in err.places if place != one)
            note = f"the file holds the same network twice: {one.rstrip('.')!r} was taken, {others} has equal tensors"
            found = dataclasses.replace(found, notes=(*found.notes, note))
        if "preprocess" in source.notes:
            preprocess = Preprocess.of(source.notes["preprocess"])
            found = dataclasses.replace(found, spec=dataclasses.replace(found.spec, preprocess=preprocess))
        more = [*class_names(source, found.num_classes)[1], *purpose(source, found.num_classes)]
        found = dataclasses.replace(found, notes=(*found.notes, *more))
    check_spec(found.spec, beside(source))
    return dataclasses.replace(found, spec=resized(seen_as(found.spec), image_size))


def _one_network(source: Source, places: tuple[str, ...]) -> str | None:
    """Return the prefix of the largest network if the others hold only equal tensors, else None."""
    own = {p: {key[len(p) :] for key in source.keys() if key.startswith(p)} for p in places}  # noqa: SIM118
    largest = max(places, key=lambda place: len(own[place]))
    pairs = [(largest + key, place + key) for place in places if place != largest for key in sorted(own[place])]
    if not all(own[place] <= own[largest] for place in places):
        return None
    if any(source.shape(a) != source.shape(b) or source.dtype(a) != source.dtype(b) for a, b in pairs):
        return None
    return largest if all(source.read(a).tobytes() == source.read(b).tobytes() for a, b in pairs) else None


def _noted_grid(source: Source) -> tuple[int, int] | None:
    """Return the grid of the position table from the notes of our export."""
    grid = source.notes.get("pos_grid")
    if grid is None:
        return None
    height, width = grid
    return int(height), int(width)


def beside(source: Source) -> str:
    """Name the source and the JSON files that were used, for an error."""
    files = {"its config": source.config, "its preprocessor_config.json": source.preprocessor, NOTES: source.notes}
    return (
        f"{source.origin['path']} ({', '.join(name for name, given in files.items() if given) or 'no JSON beside it'})"
    )


def inspect(src: str | Path, **overrules: Any) -> tuple[Card, dict, Recognised]:
    """Return the card, our export's notes and the recognised model; only headers are read of a foreign checkpoint."""
    with open_source(find(src)) as source:
        found = recognise_source(source, **overrules)
        return card_of(found, source)[0], source.notes, found


def card_of(
    found: Recognised,
    source: Source,
    pool: str | None = None,
    head_blocks: Blocks | None = None,
    drop_head: bool = False,
) -> tuple[Card, tuple[str, ...]]:
    """Build the card of a foreign checkpoint, and list the assumptions that are new.

    Args:
      pool, head_blocks: what its head reads, given by the user.
      drop_head: leave out the head; the pooling stays that of the head if it is known.

    Raises:
      UserError: if the pooling of its head is unknown (`UnknownPool`), or the given one is impossible.
    """
    with understood(beside(source)):
        if drop_head:
            head, more = LinearHeadConfig(0, _pool_without(found, source, pool)), ()
        elif found.segmentation:
            head, more = _segmentation_head(found, source, pool, head_blocks)
        else:
            pool, more = _pool(found, source, pool, head_blocks)
            count = found.num_classes
            head = LinearHeadConfig(count, pool, thresholds(source, count), calibration(source, count))
    assumed = (*found.assumed, *more)
    card = Card(
        spec=found.spec,
        head=head,
        class_names=class_names(source, head.num_classes)[0],
        layout=found.layout,
        source={"path": str(source.origin["path"]), "prefix": found.prefix}
        | ({"random": True} if source.notes.get("random") is True else {}),
        assumed=tuple(dict.fromkeys((*assumed, *_assumed_before(source)))),
    )
    return card, assumed


def described(head: heads.HeadConfig) -> str:
    """Describe a head in a line, "-" for none."""
    if not head.num_classes:
        return "-"
    if head.of == "depth":
        return f"depth ({head.name}) on {reads(head)}"
    what = {"box": "detection", "mask": "instances"}.get(head.of, "segmentation")
    on = head.pool if isinstance(head, LinearHeadConfig) else f"{reads(head)} ({what})"
    return f"{head.num_classes} classes on {on}"


def reads(head: heads.HeadConfig) -> str:
    """Describe the input of a head in words."""
    if isinstance(head, LinearHeadConfig):
        return POOL_WORDS[head.pool]
    if several := getattr(head, "stages", 0):
        return f"the last {several} feature maps"
    if "stages" in (getattr(head, name, "") for name in ("source", "pyramid", "form")):
        return "feature maps of stages"
    if isinstance(head.blocks, tuple):
        return f"patch tokens of blocks {', '.join(map(str, head.blocks))}"
    return f"patch tokens of the last {head.blocks} blocks" if head.blocks > 1 else "patch tokens"


def _assumed_before(source: Source) -> tuple[str, ...]:
    """Return the assumptions that were made before our export wrote the weights."""
    noted = source.notes.get("assumed", [])
    if not isinstance(noted, list) or not all(isinstance(line, str) for line in noted):
        raise UserError(f"{beside(source)}: assumed must be a list of lines of text")
    return tuple(noted)


def _segmentation_head(
    found: Recognised, source: Source, pool: str | None, blocks: Blocks | None
) -> tuple[heads.HeadConfig, tuple[str, ...]]:
    """Return the segmentation head and the assumptions: from the user, our export's notes, or its width."""
    if found.segmentation.startswith(("depth", "dpt", OWN)):
        return decoder_head(found, source, blocks)
    if pool is not None:
        raise UserError(f"--pool {pool} is of classification heads; the head is a segmentation head of patches")
    noted = source.notes.get("head")
    if noted is not None and blocks is None:
        head = heads.from_json(noted, f"{NOTES}: head")
        if not isinstance(head, PatchesHeadConfig):
            raise UserError(f"{beside(source)}: the head is a segmentation head of patches, not {head}")
        return head, ()
    features, width = source.shape(found.keys[found.head[0]])[1], found.spec.config.width
    widths, assumed = max(1, features // width), ()
    published = (found.segmentation, found.spec.family) == ("mmseg", "dinov2")
    if blocks is None and widths > 1 and not published:
        what = f"a segmentation head on the last {widths} blocks"
        assumed = (assume(what, f"its width is {widths} x {width}; blocks at intervals are as wide", "head_blocks"),)
    return PatchesHeadConfig(found.num_classes, widths if blocks is None else blocks), assumed


def _pool_without(found: Recognised, source: Source, given: str | None) -> str:
    """Return the pooling for a new head: the user's, or that of the classification head that is left out."""
    if given or found.segmentation:
        return given or found.spec.pool
    try:
        return _pool(found, source, None)[0]
    except UnknownPool:
        return found.spec.pool


def _pool(
    found: Recognised, source: Source, given: str | None, blocks: Blocks | None = None
) -> tuple[str, tuple[str, ...]]:
    """Return the pooling of the head and the assumptions: from the user, our export's notes, or the family."""
    if blocks is not None:
        raise UserError(f"--head_blocks {blocks} is of segmentation heads, and these weights have none")
    if given is not None:
        pool_named(given)
    if not found.num_classes:
        return given or found.spec.pool, ()
    key = next(key for key in found.head if key in found.keys)
    features, width = source.shape(found.keys[key])[1], found.spec.config.width
    if given is not None:
        if POOLS[given].widths * width != features:
            fit = ", ".join(name for name, pool in POOLS.items() if pool.widths * width == features) or "none that fits"
            raise UserError(
                f"--pool {given} gives {POOLS[given].widths * width} features, and the head takes {features}: {fit}"
            )
        return given, ()
    if "pool" in source.notes:
        return str(source.notes["pool"]), ()
    hints = Hints(json=source.config or {}, extras=source.extras)
    pool, assumed = serving()[found.spec.family].pool(found.spec, found.layout, features // width, hints)
    if pool is None:
        raise UnknownPool(
            f"{source.origin['path']}: the head of {found.num_classes} classes looks at the {POOL_WORDS['cls']} or at "
            f"the {POOL_WORDS['mean']}, and nothing in the file or beside it says which: --pool=cls or --pool=mean "
            "does, --drop_head leaves the head aside"
        )
    return pool, assumed
