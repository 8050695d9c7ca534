"""The size of the images that a model is used at, where the user says it."""

import dataclasses

from jaxdino.core.errors import UserError
from jaxdino.models.spec import ModelSpec

Size = int | tuple[int, int]


def resized(spec: ModelSpec, size: Size | None) -> ModelSpec:
    """The spec for images of `size`, (height, width) or one number for both; None leaves it as it is.

    Raises:
      UserError: if it is not made of whole patches, or the model takes one size alone.
    """
    if size is None:
        return spec
    height, width = (size, size) if isinstance(size, int) else size
    patch, fixed = getattr(spec.config, "patch_size", 1), getattr(spec.config, "image_size", None)
    if fixed is not None and (height, width) != (fixed, fixed):
        raise UserError(f"--image_size {height}x{width}: a {spec.name} takes images of {fixed} x {fixed} alone")
    if min(height, width) < patch or height % patch or width % patch:
        near = "x".join(str(max(1, round(side / patch)) * patch) for side in (height, width))
        raise UserError(f"--image_size {height}x{width}: sides are multiples of the patch size {patch}, such as {near}")
    return dataclasses.replace(spec, preprocess=dataclasses.replace(spec.preprocess, size=(height, width)))
