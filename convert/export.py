"""Export our parameters to PyTorch: a folder for transformers, timm or open_clip, or the original's `.pth`."""

import dataclasses
import json
import re
import shutil
from collections import ChainMap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from convert.atomic import atomic_folder, refuse_occupied
from convert.card import Card
from convert.describe import reads
from convert.dtypes import FLOATS
from convert.family import POOL_WORDS, Layout
from convert.head_keys import bound_table, keys_of, rules_of
from convert.load import open_pretrained
from convert.parts import part_of, parts
from convert.preprocess import unlike
from convert.readers import HEAD, NOTES
from convert.table import BoundTable
from convert.tables import FAMILIES, layouts, own_heads, serving
from convert.tables.patches import naming_of
from convert.tensors import Tensor
from convert.writers import MAX_SHARD_BYTES, write_pth, write_safetensors
from jaxdino.core.errors import UserError
from jaxdino.core.rules import did_you_mean
from jaxdino.core.words import few
from jaxdino.models import heads
from jaxdino.models.heads.decoders import DPTHeadConfig
from jaxdino.models.heads.depth import DepthDPTHeadConfig, DepthLinearHeadConfig
from jaxdino.models.heads.maps import count
from jaxdino.models.heads.patches import PatchesHeadConfig
from jaxdino.models.registry import MODELS

_KINDS = {"patch": "segmentation", "depth": "depth", "box": "detection", "mask": "instances"}
_NAMES_OF_OWN = {"mask_queries": "masks"}
UNUSED = re.compile(r"backbone\.(mask_token|local_cls_norm\..*|pooler\..*)|.*\.num_batches_tracked")
"""Leaves that no features depend on: a layout may leave them out."""


def export(
    src: str | Path,
    out: str | Path,
    *,
    layout: str | None = None,
    dtype: str | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    overwrite: bool = False,
    source_layout: str | None = None,
    part: str | None = None,
    **overrules,
) -> list[str]:
    """Write the model at SRC, backbone and head, into the folder `out`; the write is atomic.

    The weights are processed leaf by leaf: memory holds one leaf, or one part of our own model format, at a time.

    Args:
      layout: one of the family's layouts; by default the layout of the original weights.
      dtype: cast to "float32", "bfloat16" or "float16"; by default each tensor keeps its own.
      part: part of a composite model, see `convert.parts`; its adapters are merged, so the whole part is read.
      source_layout, overrules: options for SRC, as in `open_pretrained` (there `layout`, `model`, ...).

    Returns:
      Lines for the user: the files written, and what the layout cannot store.

    Raises:
      UserError: on an unknown layout or dtype, if the target exists, or holds files that no export writes.
    """
    out = Path(out)
    if out.suffix in (".pth", ".pt", ".safetensors"):
        raise UserError(f"--out takes a folder; {out} looks like a file")
    if dtype is not None and dtype not in FLOATS:
        raise UserError(f"there is no dtype {dtype!r}; {did_you_mean(dtype, FLOATS)}")
    refuse_occupied(out, overwrite, _exported)
    with atomic_folder(out) as beside, open_pretrained(src, layout=source_layout, **overrules) as opened:
        opened = part_of(opened, part) if part else opened
        card, known = opened.card, layouts(opened.card.spec)
        if not known:
            raise UserError(
                f"a {card.spec.family} is not a single model in PyTorch: export a part, --part "
                + " or ".join(parts(card.spec))
            )
        layout = layout or (card.layout if card.layout in known else next(iter(known)))
        if layout not in known:
            raise UserError(f"there is no {card.spec.family} layout {layout!r}; {did_you_mean(layout, known)}")
        fitted, flat, notes = card, opened.flat, []
        if layout != card.layout:
            fitted, changes, more = serving()[card.spec.family].fit(card, flat, layout)
            flat, notes = ChainMap(changes, flat), more
        notes += _write(fitted, flat, layout, beside, _cast(dtype, notes), max_shard_bytes)
        _write_json(beside / NOTES, _notes(fitted, layout))
        for file in opened.companions:
            if file.name in known[layout].companions:
                shutil.copyfile(file, beside / file.name)
    return [*opened.notes, *notes, f"wrote {', '.join(sorted(path.name for path in out.iterdir()))} into {out}"]


def _write(card: Card, flat, layout: str, folder: Path, cast: Callable, max_shard_bytes: int) -> list[str]:
    """Write the weights and their JSON files; return notes on what the layout cannot store."""
    how = layouts(card.spec)[layout]
    table = bound_table(card.spec, layout, card.head)
    notes = _left_out(card, table, flat, layout)
    of_head = keys_of(rules_of(card.spec, layout, card.head))
    tensors = [cast(t) for t in table.write(flat)]
    backbone, head = ([t for t in tensors if (t.key in of_head) == wanted] for wanted in (False, True))
    if name := _segmentation_file(card):
        write_pth(folder / name, head)
        naming, features = naming_of(card.spec), reads(card.head)
        words = f"named as in {naming}: logits = conv(batch_norm({features}))"
        if not isinstance(card.head, PatchesHeadConfig):
            like = "in docs/torch_heads.md" if isinstance(card.head, own_heads.HEADS) else "DINOv2's decode heads"
            words = f"named as {like}: it reads {features}"
        notes.append(f"the {_KINDS[card.head.of]} head is in {name}, {words}")
        card, head = card.without_head(), []
    notes += how.notes(card)
    prefix = how.prefix(card) if head else ""
    if prefix is None:
        write_safetensors(folder / HEAD, head)
        notes.append(
            f"{layout} has no classification class for {card.spec.family} with pool {card.pool!r}: the head is in "
            f"{HEAD}, logits = {of_head[0].removesuffix('.weight')}({POOL_WORDS[card.pool]})"
        )
        head = []
    elif head and (name := how.head_file(card)):
        write_pth(folder / name, [t._replace(key=t.key.rpartition(".")[2]) for t in head])
        notes.append(f"the head is in {name}: logits = linear_head({POOL_WORDS[card.pool]})")
        head = []
    _write_weights(
        how, card, folder, [t._replace(key=f"{prefix or ''}{t.key}") for t in backbone] + head, max_shard_bytes
    )
    apart = card.num_classes and not head  # the layout's classes have no head in this case
    shown = card.without_head() if apart else card
    return notes + export_json(shown, layout, str(backbone[0].dtype), folder)


def _segmentation_file(card: Card) -> str | None:
    """Return the name of the file of a head of patches, depth, boxes or masks; None for another head."""
    head = card.head
    if isinstance(head, DepthLinearHeadConfig):
        return f"{card.spec.name}_depth_linear{count(head.blocks) if head.blocks != 1 else ''}_head.pth"
    if isinstance(head, DepthDPTHeadConfig | DPTHeadConfig):
        return f"{card.spec.name}_{_KINDS[head.of]}_dpt_head.pth"
    if isinstance(head, own_heads.HEADS):
        return f"{card.spec.name}_{_KINDS[head.of]}_{_NAMES_OF_OWN.get(head.name, head.name)}_head.pth"
    if not isinstance(head, PatchesHeadConfig):
        return None
    return f"{card.spec.name}_segmentation_linear{head.widths if head.widths > 1 else ''}_head.pth"


def _left_out(card: Card, table: BoundTable, flat, layout: str) -> list[str]:
    """Return a line for each leaf that the layout cannot store.

    Raises:
      UserError: if the outputs depend on one of them, or the layout needs a leaf that the model does not have.
    """
    lost = [path for path in table.lost(flat) if flat[path] is not None]
    needed = [r.path for r in table.rules if r.path not in flat]
    if broken := [path for path in lost if not UNUSED.fullmatch(path)] + needed:
        listed = few(broken, 3)
        other = ", ".join(name for name in layouts(card.spec) if name != layout) or "none"
        raise UserError(
            f"the {layout} layout of {card.spec.family} cannot store this model: it has no place for, or requires, "
            f"{listed}. Nothing was written. Other layouts: {other}"
        )
    return [f"the {layout} layout has no place for {path}: left out" for path in lost]


def export_json(card: Card, layout: str, dtype: str, folder: Path) -> list[str]:
    """Write the JSON files for a layout's weights; return a line for each fact that they cannot express."""
    files = layouts(card.spec)[layout].files(card, dtype)
    for name, content in files.items():
        _write_json(folder / name, content)
    return unlike(card.spec.preprocess, files)


def _write_weights(how: Layout, card: Card, folder: Path, tensors: list[Tensor], max_shard_bytes: int) -> None:
    target = folder / how.weights.format(name=card.spec.name)
    if target.suffix != ".safetensors":
        write_pth(target, tensors)
    else:
        write_safetensors(folder if how.sharded else target, tensors, max_shard_bytes=max_shard_bytes)


def _exported(name: str) -> bool:
    """Return whether an export writes a file of this name."""
    return bool(re.fullmatch("|".join(_FILES), name))


_NAMES = "|".join(re.escape(name) for name in [*MODELS, *(f"{name}_custom" for name in serving())])
_FILES = (
    r"(open_clip_)?model\.safetensors",
    r"model\.safetensors\.index\.json",
    r"model-\d+-of-\d+\.safetensors",
    rf"({_NAMES})(_segmentation|_depth|_detection|_instances)?(_(linear\d*|dpt|mlp|fpn|fcos|detr|masks)_head)?\.pth",
    r"(open_clip_)?config\.json",
    *map(re.escape, ("preprocessor_config.json", HEAD, NOTES)),
    *{re.escape(name) for family in FAMILIES for how in family.layouts.values() for name in how.companions},
)


def _cast(dtype: str | None, notes: list[str]) -> Callable[[Tensor], Tensor]:
    """Return a function that casts a tensor; it adds a note if values are too large for the dtype."""
    if dtype is None:
        return lambda tensor: tensor
    to = FLOATS[dtype]

    def made(tensor: Tensor) -> np.ndarray:
        array = tensor.make()
        with np.errstate(over="ignore"):
            cast = array.astype(to)
        if np.isinf(cast).sum() > np.isinf(array).sum():
            notes.append(f"warning: values of {tensor.key} are too large for {dtype} and became infinity")
        return cast

    return lambda t: t._replace(dtype=to, make=lambda: made(t)) if t.dtype in FLOATS.values() else t


def _notes(card: Card, layout: str) -> dict[str, Any]:
    """Collect the facts that a user of the exported weights, and our own import, need beside the weights."""
    how = layouts(card.spec)[layout]
    weights = how.weights
    return {
        "model": card.spec.name,
        "layout": layout,
        "file": weights.format(name=card.spec.name) if not weights.endswith(".safetensors") else None,
        "head": heads.to_json(card.head),
        "head_file": _segmentation_file(card) or (how.head_file(card) if card.num_classes else None),
        "num_heads": getattr(card.spec.config, "num_heads", None),
        "pos_grid": _pos_grid(card),
        "pool": card.pool,
        "class_names": list(card.class_names),
        "preprocess": dataclasses.asdict(card.spec.preprocess),
        "assumed": list(card.assumed),
        "random": card.began_at_random,
    }


def _pos_grid(card: Card) -> list[int] | None:
    """Return the (height, width) of a ViT's position table in patches, or None; its shape does not show it."""
    config = card.spec.config
    return list(config.pos_grid) if getattr(config, "positions", None) == "learned" else None


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, default=str) + "\n")
