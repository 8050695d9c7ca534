"""Parts of a CLIP-DINO-SAM that PyTorch libraries support, each as a model of its own family."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from convert.card import Card
from convert.lazy_array import LazyArray
from convert.load import Opened, open_pretrained
from convert.naming import spec_of
from convert.peft import save_adapter
from convert.tables import serving
from jaxdino.core.errors import UserError
from jaxdino.core.params import Skeleton
from jaxdino.core.rules import did_you_mean
from jaxdino.models import lora
from jaxdino.models.spec import ModelSpec

FAMILY = "clipdinosam"
PARTS = {"dino": "dino_lora", "clip": "clip_lora"}
"""{part: the configuration field with its adapters}."""
ADAPTERS = (*PARTS.values(), "decoder_lora")


def whole(opened: Opened) -> Opened:
    """Return `opened`, or raise UserError for a model that no PyTorch library has."""
    if opened.card.spec.family == FAMILY:
        raise UserError(f"a CLIP-DINO-SAM is not a single model in PyTorch: export a part, --part {' or '.join(PARTS)}")
    return opened


def part_of(opened: Opened, part: str, merge: bool = True) -> Opened:
    """Return a part of an opened model as an opened model; its leaves are read on access.

    Args:
      part: a key of `PARTS`.
      merge: merge its adapters into the kernels, which reads the whole part; otherwise the adapters stay.

    Raises:
      UserError: for a model without such parts.
    """
    if part not in PARTS:
        raise UserError(f"there is no part {part!r}; {did_you_mean(part, PARTS)}")
    if opened.card.spec.family != FAMILY:
        raise UserError(f"--part takes a CLIP-DINO-SAM apart: this is a {opened.card.spec.name}, export it as it is")
    spec, own = _spec(opened.card.spec, part), getattr(opened.card.spec.config, PARTS[part])
    inside = f"backbone.{part}."
    flat = {f"backbone.{p.removeprefix(inside)}": leaf for p, leaf in opened.flat.items() if p.startswith(inside)}
    skeleton = spec.skeleton()
    if own is not None:
        adapted = lora.adapted(skeleton, spec, own)
        flat = _merged(adapted, flat) if merge else flat
        skeleton = skeleton if merge else adapted
    card = Card(spec, spec.linear(), source={**opened.card.source, "part": part})
    return dataclasses.replace(
        opened,
        card=card,
        skeleton=skeleton,
        flat={path: flat[path] for path in skeleton.entries},
        companions=opened.companions if part == "clip" else (),
    )


def export_adapter(
    src: str | Path, out: str | Path, *, part: str, layout: str = "hf", overwrite: bool = False
) -> list[str]:
    """Write the adapters of a part in PEFT's format, for the part without adapters (see `peft.save_adapter`).

    Returns:
      Notes to the user, a line each.

    Raises:
      UserError: if the model has no such part, the part has no adapters, or `save_adapter` raises it.
    """
    with open_pretrained(src) as opened:
        found = part_of(opened, part, merge=False)
        flat = {path: jnp.asarray(np.asarray(leaf)) for path, leaf in found.flat.items()}
    if not lora.leaves(flat):
        raise UserError(f"the {part} part has no adapter, or the adapter is already merged: export the part itself")
    save_adapter(out, found.card.spec, found.skeleton, flat, layout=layout, overwrite=overwrite)
    note = "the adapter fits only the weights that the run started from"
    return [*opened.notes, note, f"wrote the adapter of {part} ({found.card.spec.name}, {layout} layout) into {out}"]


def shape_of(spec: ModelSpec) -> str:
    """Describe the shape of a model in one line; for a CLIP-DINO-SAM, its parts and adapters."""
    if spec.family != FAMILY:
        return ", ".join(f"{field} {getattr(spec.config, field)}" for field in serving()[spec.family].shape)
    parts = [f"{part}: {shape_of(_spec(spec, part))}" for part in PARTS]
    found = {name.removesuffix("_lora"): getattr(spec.config, name) for name in ADAPTERS}
    parts += [f"adapter of {name}: rank {own.rank}, on {', '.join(own.targets)}" for name, own in found.items() if own]
    return "; ".join(parts)


def _spec(whole: ModelSpec, part: str) -> ModelSpec:
    """Return the spec of the part: the published model of its shape, or a custom one of its family."""
    name, config = ("clip", whole.config.text) if part == "clip" else (whole.config.image_family, whole.config.image)
    spec = spec_of(config, name, "", serving()[name], whole.preprocess.mean)
    preprocess = whole.preprocess if part == "dino" else spec.preprocess
    return dataclasses.replace(spec, config=config, preprocess=preprocess)


def _merged(skeleton: Skeleton, flat: Mapping[str, LazyArray]) -> dict[str, np.ndarray]:
    arrays = lora.merged(skeleton, {path: jnp.asarray(np.asarray(leaf)) for path, leaf in flat.items()})
    return {path: np.asarray(array) for path, array in arrays.items()}
