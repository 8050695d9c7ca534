"""Components of a composite model that PyTorch libraries support, each as a model of its own family."""

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
from jaxdino.models.component import Component
from jaxdino.models.spec import ModelSpec


def parts(spec: ModelSpec) -> dict[str, Component]:
    """Return the components of a model that are models of their own; {} for a model of one piece."""
    return {name: one for name, one in spec.components.items() if one.family}


def part_of(opened: Opened, part: str, merge: bool = True) -> Opened:
    """Return a part of an opened model as an opened model; its leaves are read on access.

    Args:
      part: a key of `parts`.
      merge: merge its adapters into the kernels, which reads the whole part; otherwise the adapters stay.

    Raises:
      UserError: for a model without such parts.
    """
    known = parts(opened.card.spec)
    if not known:
        raise UserError(f"--part takes a CLIP-DINO-SAM apart: this is a {opened.card.spec.name}, export it as it is")
    if part not in known:
        raise UserError(f"there is no part {part!r}; {did_you_mean(part, known)}")
    spec, own = _spec(opened.card.spec, known[part]), known[part].lora
    inside = f"{known[part].path}."
    flat = {f"backbone.{p.removeprefix(inside)}": leaf for p, leaf in opened.flat.items() if p.startswith(inside)}
    skeleton = spec.skeleton()
    if own is not None:
        adapted = lora.adapted(skeleton, spec, own)
        flat = _merged(adapted, flat) if merge else flat
        skeleton = skeleton if merge else adapted
    card = Card(spec, spec.linear(), source={**opened.card.source, "part": part})
    flat = {path: flat[path] for path in skeleton.entries}
    return dataclasses.replace(opened, card=card, skeleton=skeleton, flat=flat)


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
    """Describe the shape of a model in one line; for a composite model, its parts and adapters."""
    if not spec.components:
        return ", ".join(f"{field} {getattr(spec.config, field)}" for field in serving()[spec.family].shape)
    found = [f"{name}: {shape_of(_spec(spec, part))}" for name, part in parts(spec).items()]
    adapters = {name: one.lora for name, one in spec.components.items() if one.lora}
    found += [f"adapter of {name}: rank {own.rank}, on {', '.join(own.targets)}" for name, own in adapters.items()]
    return "; ".join(found)


def _spec(whole: ModelSpec, part: Component) -> ModelSpec:
    """Return the spec of a part: the published model of its shape, or a custom one of its family.

    The part that takes the images keeps their preprocessing.
    """
    spec = spec_of(part.config, part.family, "", serving()[part.family], whole.preprocess.mean)
    images = whole.config.input_kernel.startswith(f"{part.path}.")
    preprocess = whole.preprocess if images else spec.preprocess
    return dataclasses.replace(spec, config=part.config, preprocess=preprocess)


def _merged(skeleton: Skeleton, flat: Mapping[str, LazyArray]) -> dict[str, np.ndarray]:
    arrays = lora.merged(skeleton, {path: jnp.asarray(np.asarray(leaf)) for path, leaf in flat.items()})
    return {path: np.asarray(array) for path, array in arrays.items()}
