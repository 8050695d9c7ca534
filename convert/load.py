"""Load weights from a file, a folder, a hub name, a model in our own format or a training run's workdir."""

import dataclasses
import functools
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from flax import nnx

from convert import assumptions, eomt
from convert.channels import fit_channels
from convert.describe import card_of, recognise_source
from convert.head_keys import bound_table, unsupported
from convert.hub import find
from convert.lazy_array import LazyArray
from convert.readers import Source, open_source
from convert.recognise import CHUNK, Recognised
from convert.resized import Size, resized
from convert.seal import is_sealed
from convert.store import Card, companions_of, is_model, open_model
from convert.table import BoundTable
from convert.tables import eomt as eomt_names
from convert.tables import layouts
from jaxdino.core.errors import UserError
from jaxdino.core.params import Digest, Skeleton, split
from jaxdino.models.heads import Blocks, HeadConfig
from jaxdino.models.spec import ModelSpec

UNSEALED = (
    "{} has no seal.json: it was saved by an earlier version, or the seal was deleted; changes in it, such as swapped "
    "class names, cannot be noticed"
)
GROUP = re.compile(r"((state_dict|model|module|_orig_mod)\.)*[^.]+")
"""The part of a key before its second dot, wrappers not counted."""


@dataclasses.dataclass(frozen=True)
class Opened:
    """Weights that were recognised and checked from their header and are read leaf by leaf.

    Attributes:
      card: description of the weights; its digest is "" if it would need a full read.
      flat: every parameter and buffer by path, in natural order, each read on access.
      notes: a line for each thing that was left out or assumed and, after reading, for weights that are not finite.
      companions: files that are copied with the model, for example its tokenizer's.
    """

    card: Card
    skeleton: Skeleton
    flat: dict[str, LazyArray]
    notes: list[str]
    companions: tuple[Path, ...] = ()

    def watched(self) -> "Opened":
        """Return the same weights; each leaf that is not finite adds a note when it is read."""

        def read(path: str, leaf: LazyArray) -> np.ndarray:
            array = np.asarray(leaf)
            note = f"warning: NaN or infinity in {path}"
            if not _finite(array) and note not in self.notes:
                self.notes.append(note)
            return array

        flat = {
            path: LazyArray(leaf.shape, leaf.dtype, functools.partial(read, path, leaf))
            for path, leaf in self.flat.items()
        }
        return dataclasses.replace(self, flat=flat)


def _finite(array: np.ndarray, block: int = 1 << 20) -> bool:
    """Return whether all numbers are finite; the answers for a large array are not in memory at once."""
    flat = array.reshape(-1)
    return all(np.isfinite(flat[at : at + block]).all() for at in range(0, flat.size, block))


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """Weights in memory and their card.

    Attributes:
      flat: every parameter and buffer by path, numpy, in the dtype of the source.
      notes: a line for each thing that was left out, and for weights that are not finite.
    """

    card: Card
    flat: dict[str, np.ndarray]
    notes: tuple[str, ...] = ()


def load_pretrained(src: str | Path, **overrules) -> Pretrained:
    """Load all weights: every key is used or explicitly left out, every leaf is filled, all shapes agree.

    Args:
      src, overrules: as `open_pretrained` takes them.

    Raises:
      UserError: with the missing, unexpected and mismatched keys and the nearest names. There is no partial load.
    """
    with open_pretrained(src, **overrules) as opened:
        flat, digest = {}, Digest()
        for path, leaf in opened.flat.items():
            flat[path] = np.asarray(leaf)
            digest.add(path, flat[path])
    return Pretrained(dataclasses.replace(opened.card, digest=digest.value()), flat, tuple(opened.notes))


@contextmanager
def open_pretrained(
    src: str | Path,
    *,
    model: str | None = None,
    layout: str | None = None,
    prefix: str | None = None,
    num_heads: int | None = None,
    pos_grid: tuple[int, int] | None = None,
    pool: str | None = None,
    head_blocks: Blocks | None = None,
    image_size: Size | None = None,
    head: str | Path | None = None,
    drop_head: bool = False,
    in_channels: int | None = None,
) -> Iterator[Opened]:
    """Open weights: recognise and check them by reading only headers.

    Args:
      src: a file, a folder, a hub name, a model saved by `convert import`, or a workdir (its best model).
      model, layout, prefix, num_heads: override what the keys and shapes show.
      pos_grid: (height, width) of a ViT's position table in patches; overrides as well.
      pool: pooling of a classification head (`jaxdino.models.heads.linear.POOLS`).
      head_blocks: the blocks that a segmentation head reads (`jaxdino.models.heads.patches`).
      image_size: (height, width) of the images in pixels, or one number for both.
      head: a file with a linear head for these weights, as DINOv2 and DINOv3 publish them.
      drop_head: leave out a head in the source.
      in_channels: channels of the images; the first convolution is adapted, see `convert.channels`.

    Raises:
      UserError: if the source cannot be found or read, or does not fit the model completely.
    """
    path = find(src)
    if is_model(path):
        overrules = {"layout": layout, "prefix": prefix, "num_heads": num_heads, "pos_grid": pos_grid, "head": head}
        overrules |= {"head_blocks": head_blocks}
        with open_model(path) as (card, flat):
            opened = _from_store(path, card, flat, model, drop_head, overrules)
            if pool not in (None, opened.card.pool) and opened.card.num_classes:
                raise UserError(f"{path}: its head looks at {opened.card.pool!r}, which --pool {pool} cannot change")
            spec = resized(opened.card.spec, image_size)
            opened = dataclasses.replace(opened, card=dataclasses.replace(opened.card, spec=spec))
            yield fit_channels(opened, in_channels).watched()
    else:
        with open_source(path, head) as source:
            if eomt_names.holds(source.keys()):
                yield _from_eomt(source, image_size, drop_head).watched()
                return
            if (known := unsupported(source.keys())).startswith("EoMT"):  # its backbone sees the queries
                raise UserError(f"{source.origin['path']}: {known}")
            said = {"model": model, "layout": layout, "prefix": prefix, "num_heads": num_heads, "pos_grid": pos_grid}
            found = recognise_source(source, **said, image_size=image_size)
            yield fit_channels(_from_source(source, found, drop_head, pool, head_blocks), in_channels).watched()


def _from_store(path: Path, card: Card, flat: dict, model: str | None, drop_head: bool, overrules: dict) -> Opened:
    if given := [f"--{name}" for name, value in overrules.items() if value is not None]:
        raise UserError(f"{path} is a model in our own format: {', '.join(given)} cannot be given for it")
    if model is not None and model != card.spec.name:
        raise UserError(f"{path} holds a {card.spec.name}, not a {model}")
    notes = [] if is_sealed(path) else [UNSEALED.format(path)]
    if drop_head and card.num_classes:
        notes.append(f"the head of {card.num_classes} classes was left aside, as asked")
        card = card.without_head()
    skeleton = card.spec.skeleton(head=card.head)
    leaves = {name: flat[name] for name in skeleton.entries if name in flat}
    return Opened(card, skeleton, leaves, notes, companions_of(path))


def _from_source(source: Source, found: Recognised, drop_head: bool, pool: str | None, blocks: Blocks | None) -> Opened:
    card, assumed = card_of(found, source, pool, blocks, drop_head)
    notes = [*source.said, *assumptions.lines(assumed)]
    if drop_head and found.num_classes:
        notes.append(f"the head of {found.num_classes} classes was left aside, as asked")
    aside = () if card.num_classes else found.head
    keys = {key: full for key, full in found.keys.items() if key not in aside}
    skeleton = found.spec.skeleton(head=card.head)
    table = bound_table(found.spec, found.layout, card.head, found.segmentation)
    shapes = {key: source.shape(full) for key, full in keys.items()}
    dtypes = {key: source.dtype(full) for key, full in keys.items()}
    problems = table.check(shapes, skeleton, dtypes)
    if problems:
        listed = "\n  ".join(problems[:20]) + (f"\n  and {len(problems) - 20} more" if len(problems) > 20 else "")
        raise UserError(
            f"{source.origin['path']} does not fit {found.spec.name} ({found.layout} layout):\n  {listed}\n"
            f"Nothing was loaded. --model, --layout and --prefix overrule what was recognised."
        )
    leaves = table.read(lambda key: source.read(keys[key]), lambda key: source.blocks(keys[key]), dtypes, skeleton)
    place = Path(source.origin["path"])
    beside = place if place.is_dir() else place.parent
    files = (beside / name for name in layouts(found.spec)[found.layout].companions)
    notes += [*found.notes, *_aside(found, table, shapes)]
    leaves = {path: leaves[path] for path in skeleton.entries}
    return Opened(card, skeleton, leaves, notes, tuple(file for file in files if file.is_file()))


def _from_eomt(source: Source, image_size: Size | None, drop_head: bool) -> Opened:
    """Open a checkpoint of EoMT, a ViT with mask queries."""
    card, table, notes = eomt.card_and_table(source)
    if drop_head:
        raise UserError(f"{source.origin['path']}: the backbone of EoMT is published as DINOv2; load that instead")
    skeleton = card.spec.skeleton(head=card.head)
    shapes = {key: source.shape(key) for key in source.keys()}  # noqa: SIM118
    dtypes = {key: source.dtype(key) for key in shapes}
    if problems := table.check(shapes, skeleton, dtypes):
        raise UserError(f"{source.origin['path']} does not fit EoMT:\n  " + "\n  ".join(problems[:20]))
    leaves = table.read(source.read, source.blocks, dtypes, skeleton)
    card = dataclasses.replace(card, spec=resized(card.spec, image_size))
    return Opened(card, skeleton, {path: leaves[path] for path in skeleton.entries}, [*source.said, *notes])


def _aside(found: Recognised, table: BoundTable, shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    reasons: dict[str, list[str]] = {}
    for key in shapes:
        if why := table.why_dropped(key, shapes[key]):
            reasons.setdefault(why, []).append(key)
    notes = [f"left aside {_listed(keys)}: {why}" for why, keys in reasons.items()]
    if any(CHUNK.search(full.removeprefix(found.prefix)) for full in found.keys.values()):
        notes.append("the blocks come in chunks (DINOv2's block_chunks): export numbers them in one row")
    groups: dict[str, int] = {}
    for key in found.aside:
        group = GROUP.match(key)[0]
        groups[group] = groups.get(group, 0) + 1
    notes += [f"left aside {count} tensors under {group!r}" for group, count in sorted(groups.items())]
    return notes + [f"among them is {known}" for known in [unsupported(found.aside)] if known]


def _listed(keys: list[str]) -> str:
    return ", ".join(keys) if len(keys) <= 3 else f"{len(keys)} tensors, {keys[0]} to {keys[-1]}"


def new_head(spec: ModelSpec, head: HeadConfig, seed: int) -> Mapping[str, np.ndarray]:
    """Initialise a head as flat parameters."""
    _, flat = split(head.build(spec.config.width, nnx.Rngs(seed)))
    return {f"head.{path}": np.asarray(array) for path, array in flat.items()}
