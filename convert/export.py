"""From our parameters back to PyTorch: a Hugging Face folder, Meta's `.pth`, or a folder that timm loads."""

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from convert import hf_config, preprocess, timm_config
from convert.adapt import fit
from convert.dtypes import FLOATS
from convert.load import bound_table, load_pretrained
from convert.readers import HEAD, NOTES
from convert.recognise import LAYOUTS
from convert.store import Card
from convert.swap import refuse_occupied, whole_folder
from convert.table import Tensor
from convert.tables.vit import TABLES
from convert.writers import MAX_SHARD_BYTES, write_pth, write_safetensors
from jaxdino.core.errors import UserError
from jaxdino.core.rules import did_you_mean
from jaxdino.models.registry import MODELS


def export(
    src: str | Path,
    out: str | Path,
    *,
    layout: str | None = None,
    dtype: str | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    overwrite: bool = False,
    source_layout: str | None = None,
    **overrules,
) -> list[str]:
    """Writes the model found at SRC into the folder `out`, backbone and head, whole or not at all.

    Args:
      layout: "hf", "meta" or "timm"; by default the layout that the weights came from.
      dtype: cast to "float32", "bfloat16" or "float16"; by default each tensor keeps its own.
      source_layout, overrules: of SRC, as `load_pretrained` takes them (there as `layout`, `model`, ...).

    Returns:
      What a user should know, a line each: files, and what the layout cannot hold.

    Raises:
      UserError: on an unknown layout or dtype, if the target is there already, or holds files that no export writes.
    """
    found = load_pretrained(src, layout=source_layout, **overrules)
    layout = layout or found.card.layout or "hf"
    family = found.card.spec.family
    layouts = [name for name in LAYOUTS if (family, name) in TABLES]
    for value, known, what in ((layout, layouts, f"{family} layout"), (dtype or "float32", FLOATS, "dtype")):
        if value not in known:
            raise UserError(f"there is no {what} {value!r}; {did_you_mean(value, known)}")
    card, flat, notes = fit(found.card, found.flat, layout)
    out = Path(out)
    if out.suffix in (".pth", ".safetensors"):
        raise UserError(f"--out takes a folder; {out} looks like a file")
    refuse_occupied(out, overwrite, _exported)
    writer = {"hf": _write_hf, "meta": _write_meta, "timm": _write_timm}[layout]
    with whole_folder(out) as beside:
        notes += writer(card, flat, beside, _cast(dtype), max_shard_bytes)
        _write_json(beside / NOTES, _notes(card, layout))
    return [*notes, f"wrote {', '.join(sorted(path.name for path in out.iterdir()))} into {out}"]


def _exported(name: str) -> bool:
    """Whether an export writes a file of this name."""
    return bool(re.fullmatch("|".join(_FILES), name))


_NAMES = "|".join(
    map(re.escape, [*MODELS, *(f"{family}_custom" for family in {spec.family for spec in MODELS.values()})])
)
_FILES = (
    r"model\.safetensors",
    r"model\.safetensors\.index\.json",
    r"model-\d+-of-\d+\.safetensors",
    rf"({_NAMES})\.pth",
    *map(re.escape, ("config.json", "preprocessor_config.json", HEAD, NOTES)),
)


def tensors(card: Card, flat: dict[str, Any], layout: str, *, head: bool) -> list[Tensor]:
    """The state dict of a layout, ready to be written."""
    return bound_table(card.spec, layout, head and card.num_classes > 0).write(flat)


def _cast(dtype: str | None) -> Callable[[Tensor], Tensor]:
    if dtype is None:
        return lambda tensor: tensor
    to = FLOATS[dtype]
    return lambda t: Tensor(t.key, t.shape, to, lambda: t.make().astype(to)) if t.dtype in FLOATS.values() else t


def _write_hf(card: Card, flat, out: Path, cast, max_shard_bytes: int) -> list[str]:
    """config.json, preprocessor_config.json and safetensors, as `from_pretrained` reads them."""
    joined = hf_config.head_class(card) is not None
    backbone = [cast(t) for t in tensors(card, flat, "hf", head=False)]
    head = [cast(t) for t in tensors(card, flat, "hf", head=True) if t.key.startswith("classifier.")]
    if joined:
        prefix = hf_config.PREFIXES[hf_config.model_type(card)]
        backbone = [t._replace(key=f"{prefix}.{t.key}") for t in backbone] + head
    write_safetensors(out, backbone, max_shard_bytes=max_shard_bytes)
    notes = []
    if head and not joined:
        write_safetensors(out / HEAD, head)
        notes.append(
            f"transformers has no classification class for {card.spec.family} with pool {card.pool!r}: the head is "
            f"in {HEAD}, logits = classifier({_POOL_WORDS[card.pool]})"
        )
    _write_json(out / "config.json", hf_config.config(card, str(backbone[0].dtype)))
    _write_json(out / "preprocessor_config.json", preprocess.to_json(card.spec.preprocess))
    return notes


_POOL_WORDS = {
    "cls": "class token",
    "mean": "mean of the patch tokens",
    "cls_mean": "class token and mean of the patch tokens, side by side",
}


def _write_meta(card: Card, flat, out: Path, cast, max_shard_bytes: int) -> list[str]:
    """One .pth with the original repository's keys; the head, if any, as its `head`."""
    target = out / f"{card.spec.name}.pth"
    write_pth(target, [cast(t) for t in tensors(card, flat, "meta", head=True)])
    return []


def _write_timm(card: Card, flat, out: Path, cast, max_shard_bytes: int) -> list[str]:
    """model.safetensors and a config.json that `timm.create_model("local-dir:...")` reads."""
    state = [cast(t) for t in tensors(card, flat, "timm", head=True)]
    write_safetensors(out / "model.safetensors", state)
    _write_json(out / "config.json", timm_config.config(card))
    if card.num_classes and card.pool == "cls_mean":
        return [f"timm has no such pooling: logits = head({_POOL_WORDS['cls_mean']})"]
    return []


def _notes(card: Card, layout: str) -> dict[str, Any]:
    """What a user of the exported weights, and our own import, must know besides them."""
    return {
        "model": card.spec.name,
        "layout": layout,
        "file": f"{card.spec.name}.pth" if layout == "meta" else None,
        "num_heads": card.spec.config.num_heads,
        "pool": card.pool,
        "class_names": list(card.class_names),
        "preprocess": dataclasses.asdict(card.spec.preprocess),
    }


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, default=str) + "\n")
