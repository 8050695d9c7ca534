"""Set the image size of a model."""

import dataclasses

from jaxdino.core.errors import UserError
from jaxdino.core.image_sizes import whole
from jaxdino.models.spec import ModelSpec

Size = int | tuple[int, int]


def resized(spec: ModelSpec, size: Size | None) -> ModelSpec:
    """Return the spec for images of `size`, (height, width) or one number for both; None keeps the spec unchanged.

    Raises:
      UserError: if `size` is not a multiple of the patch size, or the model has a fixed size.
    """
    if size is None:
        return spec
    height, width = (size, size) if isinstance(size, int) else size
    patch, fixed = getattr(spec.config, "patch_size", 1), getattr(spec.config, "image_size", None)
    if fixed is not None and (height, width) != (fixed, fixed):
        raise UserError(f"--image_size {height}x{width}: a {spec.name} takes only images of {fixed} x {fixed}")
    if min(height, width) < patch or height % patch or width % patch:
        near = "x".join(str(whole(side, patch)) for side in (height, width))
        raise UserError(
            f"--image_size {height}x{width}: sides must be multiples of the patch size {patch}, such as {near}"
        )
    return dataclasses.replace(spec, preprocess=dataclasses.replace(spec.preprocess, size=(height, width)))
