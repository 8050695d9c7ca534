"""The image sizes of a stage for its model and data: checked, and with the images of each group counted."""

import dataclasses
import math
import time
from typing import Any

import numpy as np

from jaxdino.core import size_text
from jaxdino.core.errors import UserError
from jaxdino.core.image_sizes import Size, Sizes, distinct, fitted, whole, words
from jaxdino.data.aspect import EpochOrder, groups_of
from jaxdino.data.dimensions import dimensions
from jaxdino.data.record import Split
from jaxdino.models.spec import ModelSpec
from jaxdino.stage import Stage

STEP = 8  # pixels: without patches, the sides of the groups' sizes are multiples of it, if those of image_size are


def sizes_of(stage: Stage, spec: ModelSpec) -> Sizes:
    """Return the image sizes of a stage; without image_size, the model's own.

    Raises:
      UserError: for a size that is not a whole number of the model's patches, naming the nearest ones, and for
        aspect ratios that all have the same size.
    """
    patch, where = getattr(spec.config, "patch_size", 1), f"stage {stage.name!r}"
    schedule = stage.image_size or ((0, spec.preprocess.size),)
    found = Sizes(schedule, stage.multi_scale)
    given = {"image_size": tuple(size for _, size in stage.image_size or ()), "multi_scale": stage.multi_scale}
    check_patches(given, patch, where)
    if not stage.aspect_ratios:
        return found
    bases = found.all_bases()
    unit = patch if patch > 1 else math.gcd(STEP, *(side for base in bases for side in base))
    ratios = distinct(stage.aspect_ratios, bases, unit)
    if len(ratios) < 2:
        same = words(fitted(bases[0], ratios[0], unit))
        raise UserError(
            f"{where}: aspect_ratios: all of them become {same} at this size, in whole multiples of {unit} pixels: "
            "give a larger image_size, or ratios that differ more"
        )
    return dataclasses.replace(found, ratios=ratios, unit=unit)


def check_patches(sizes: dict[str, tuple[Size, ...]], patch: int, where: str) -> None:
    """Raise UserError for sizes that are not multiples of the patch size, with the nearest that are.

    Args:
      sizes: {name of the setting: its sizes}.
    """
    for name, several in sizes.items():
        for size in several:
            if size[0] % patch or size[1] % patch:
                near = size_text.of_size((whole(size[0], patch), whole(size[1], patch)))
                raise UserError(
                    f"{where}: {name} has {size_text.of_size(size)}, and the model takes multiples of {patch} (its "
                    f"patches have {patch} pixels a side): the nearest is {near}"
                )


class Shapes:
    """The (width, height) of all images of a split, read from their headers once.

    Args:
      tell: called with a line when they have been read.
    """

    def __init__(self, split: Split, max_pixels: int, tell: Any):
        self._split, self._max_pixels, self._tell = split, max_pixels, tell
        self._found: np.ndarray | None = None

    def __call__(self) -> np.ndarray:
        """Return int32 (N, 2); 0, 0 where a header cannot be read."""
        if self._found is None:
            begin = time.perf_counter()
            self._found = dimensions(self._split, self._max_pixels)
            unread = int((self._found.min(axis=1) == 0).sum())
            more = f"; {unread} headers cannot be read, and count as square" if unread else ""
            seconds = time.perf_counter() - begin
            self._tell(f"data: width and height of {len(self._found):,} images read in {seconds:.1f} s{more}")
        return self._found


def of_data(sizes: Sizes, shapes: np.ndarray) -> Sizes:
    """Return the sizes without groups that have no image.

    Args:
      shapes: (width, height) of the training images, (N, 2).
    """
    held = np.unique(groups_of(shapes, sizes.ratios))
    return dataclasses.replace(sizes, ratios=tuple(sizes.ratios[group] for group in held))


def lines(stage: Stage, sizes: Sizes, split: Split, shapes: np.ndarray | None) -> list[str]:
    """Describe sizes that vary in a stage, and how many images each group has.

    Args:
      shapes: (width, height) of the images of the split, (N, 2), if there are groups.
    """
    if not sizes.varied:
        return []
    count = len(sizes.trained())
    compiled = f"; the step is compiled for each of {count} sizes" if count > 1 else ""
    found = [f"images: {sizes.words()}{compiled}"]
    if shapes is None or not stage.batch_size or stage.batch_size > len(split):
        return found
    groups = groups_of(shapes, sizes.ratios)
    held = np.bincount(groups, minlength=len(sizes.ratios))
    base = sizes.all_bases()[-1]
    each = [f"{words(sizes.fit(base, group))} {number:,}" for group, number in enumerate(held.tolist())]
    total = len(split) // stage.batch_size * stage.batch_size
    labels = split.fields.get("label", np.empty(0, np.int32))
    order = EpochOrder(groups, labels, stage.sampling, batch_size=stage.batch_size, total=total, seed=0)
    left = len(split) - total
    found.append(
        f"images by aspect ratio, height x width: {', '.join(each)}; about {order.crossing(0):,} of {total:,} an "
        f"epoch complete a batch of the neighbouring group; {left:,} are left over, others in each epoch"
    )
    return found
