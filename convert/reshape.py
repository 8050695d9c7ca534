"""Change the shape of a published model, for random weights."""

import dataclasses

import jax
import jax.numpy as jnp

from convert.naming import CUSTOM
from convert.plausible import FAULTS, check_spec, understood
from jaxdino.core.errors import UserError
from jaxdino.core.json_file import parse_json
from jaxdino.core.params import bind
from jaxdino.core.rules import did_you_mean
from jaxdino.models.registry import from_json, to_json
from jaxdino.models.spec import ModelSpec


def reshaped(spec: ModelSpec, shape: str) -> ModelSpec:
    """Return `spec` with other sizes, named after its family.

    Args:
      shape: the configuration fields to change, as JSON: '{"depths": [1, 1, 1], "widths": [64, 128, 256]}'.

    Raises:
      UserError: for invalid JSON, unknown fields (with the nearest names), and an impossible shape.
    """
    what, own = f"model.shape={shape}", dataclasses.asdict(spec.config)
    fields = parse_json(shape, what)
    if not isinstance(fields, dict):
        raise UserError(f'{what}: give the fields that differ, as in {{"depths": [1, 1, 1], "widths": [64, 128, 256]}}')
    for name in fields:
        if name not in own:
            all_names = ", ".join(own)
            raise UserError(f"{what}: a {spec.name} has no {name!r}; {did_you_mean(name, own)}; all: {all_names}")
    renamed = {"name": spec.family + CUSTOM, "hub": None, "config": own | fields}
    with understood(what):
        custom = from_json(to_json(spec) | renamed)
    check_spec(custom, what)
    try:
        width = _width(custom)
    except FAULTS as err:
        raise UserError(f"{what} is not a valid {spec.family}: {type(err).__name__}: {err}") from err
    if width != custom.config.width:
        raise UserError(
            f"{what} is not a valid {spec.family}: its features would be {width} wide, not {custom.config.width}"
        )
    return custom


def _width(spec: ModelSpec) -> int:
    """Return the width of the network's features, without building it."""
    skeleton, patch = spec.skeleton(), getattr(spec.config, "patch_size", 1)
    sides = (side // patch * patch for side in spec.preprocess.size)
    images = jax.ShapeDtypeStruct((1, *sides, spec.config.in_channels), jnp.float32)
    return jax.eval_shape(lambda flat, images: bind(skeleton, flat)(images).cls, skeleton.shapes, images).shape[-1]
