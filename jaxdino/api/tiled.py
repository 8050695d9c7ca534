"""Features of images that are larger than a model's own size: seen in overlapping windows, and blended."""

import argparse
import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdino.api.model import Model
from jaxdino.core.errors import UserError
from jaxdino.evals.tiling import RAMP, Axis, Size, Tiling, starts_of
from jaxdino.models.output import Output

WINDOWS = 16  # of a forward pass


def coarsest(model: Model) -> Size:
    """Return the (height, width) in pixels of the coarsest cells of a model's own images.

    Raises:
      UserError: if cells are not whole numbers of pixels, so that windows cannot share one grid.
    """
    how = model.card.spec.preprocess
    images = jax.ShapeDtypeStruct((1, *how.size, len(how.mean)), jnp.uint8)
    grid = jax.eval_shape(lambda given: Model.__call__(model, given), images).patches.shape[1:3]
    if any(side % cells for side, cells in zip(how.size, grid, strict=True)):
        raise UserError(f"{model.name} sees {how.size[0]} x {how.size[1]} pixels in {grid[0]} x {grid[1]} cells, which "
                        "are not whole numbers of pixels: windows of it cannot be blended by a ramp")  # fmt: skip
    return how.size[0] // grid[0], how.size[1] // grid[1]


class Tiled(Model):
    """A model that prepares images at a larger size and sees them in windows of its own, blended by a ramp.

    Patches are blended on the grid of the whole image; class tokens, registers and pooled outputs are the means of all
    windows, since they have no place in the image. There are no predictions. Memory: the features of the whole image,
    and `WINDOWS` windows.

    Args:
      size: (height, width) at which images are prepared. overlap: see `Tiling`.

    Raises:
      UserError: for a size that is smaller than the model's own or no whole number of its cells.
    """

    def __init__(self, model: Model, size: Size, overlap: float = Tiling.overlap):
        self.inner, self.crop = model, model.card.spec.preprocess.size
        self.tiling, snap = Tiling(overlap, RAMP), coarsest(model)
        if any(side < own or side % cell for side, own, cell in zip(size, self.crop, snap, strict=True)):
            least = [-(-own // cell) * cell for own, cell in zip(self.crop, snap, strict=True)]
            raise UserError(
                f"--tiled {size[0]}x{size[1]}: windows of {model.name} have {self.crop[0]} x {self.crop[1]} pixels in "
                f"cells of {snap[0]} x {snap[1]}: give multiples of these, at least {least[0]}x{least[1]}"
            )
        self.snap = snap
        how = dataclasses.replace(model.card.spec.preprocess, size=size)
        card = dataclasses.replace(model.card, spec=dataclasses.replace(model.card.spec, preprocess=how))
        super().__init__(card, model.skeleton, model.flat, model.companions)

    def __call__(self, images: Any) -> Output:
        """Map images (B, H, W, C) to their blended `Output`, as `Model`; without predictions."""
        return self._blended(images, lambda windows: [self.inner(windows)])[0]

    def intermediate_layers(self, images: Any, n: int | Sequence[int] = 1) -> list[Output]:
        """Return the blended outputs of blocks, as `Model`."""
        return self._blended(images, lambda windows: self.inner.intermediate_layers(windows, n))

    def _blended(self, images: Any, look: Callable[[Any], list[Output]]) -> list[Output]:
        images = self._checked(images)
        sides = int(images.shape[1]), int(images.shape[2])
        rows, columns = (starts_of(*one) for one in zip(sides, self.crop, self.tiling.stride(self.crop), self.snap,
                                                        strict=True))  # fmt: skip
        every = np.array(list(itertools.product(range(len(images)), range(len(rows)), range(len(columns)))))
        size, found = min(WINDOWS, len(every)), []
        for first in range(0, len(every), size):
            there = every[first : first + size]
            places = np.concatenate([there, np.repeat(there[-1:], size - len(there), axis=0)])
            used = (np.arange(size) < len(there)).astype(np.float32)
            corners = np.stack([places[:, 0], np.take(rows, places[:, 1]), np.take(columns, places[:, 2])], axis=1)
            outs = look(_cut(images, corners, self.crop))
            found = found or [self._blank(out, len(images), sides) for out in outs]
            each = used / (len(rows) * len(columns))
            found = [
                _added(total, out, places[:, 0], *self._places(out, sides, places, used), each)
                for total, out in zip(found, outs, strict=True)
            ]
        return found

    def _axes(self, out: Output, sides: Size) -> list[Axis]:
        each = zip(
            sides, self.crop, self.tiling.stride(self.crop), out.patches.shape[1:3], sides, self.snap, strict=True
        )
        return [_axis(*one) for one in each]

    def _blank(self, out: Output, count: int, sides: Size) -> Output:
        rows, columns = self._axes(out, sides)
        zeros = functools.partial(jnp.zeros, dtype=jnp.float32)
        registers, pooled = (zeros((count, *one.shape[1:])) for one in (out.registers, out.pooled))
        patches = zeros((count, rows.grid, columns.grid, out.patches.shape[-1]))
        return Output(zeros((count, *out.cls.shape[1:])), patches, registers, pooled)

    def _places(self, out: Output, sides: Size, places: np.ndarray, used: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the first cell (P, 2) of each window in the whole grid, and the weights (P, h, w) of its cells."""
        rows, columns = self._axes(out, sides)
        cells = np.stack(
            [np.take(one.starts, places[:, n + 1]) // one.cell for n, one in enumerate((rows, columns))], axis=1
        )
        weights = rows.shares[places[:, 1]][:, :, None] * columns.shares[places[:, 2]][:, None]
        return cells, weights * used[:, None, None]


_axis = functools.lru_cache(maxsize=256)(Axis)


@functools.partial(jax.jit, static_argnums=2)
def _cut(images: jax.Array, corners_Px3: jax.Array, crop: Size) -> jax.Array:
    """Return the windows (P, *crop, C) whose (image, top, left) are given."""
    size = (1, *crop, images.shape[-1])
    return jax.vmap(lambda one: jax.lax.dynamic_slice(images, (*one, 0), size)[0])(corners_Px3)


@functools.partial(jax.jit, donate_argnums=0)
def _added(total: Output, out: Output, rows_P: Any, cells_Px2: Any, weights_Pxhxw: Any, each_P: Any) -> Output:
    """Add what P windows give to the sums of their images."""

    def step(patches, given):
        found, row, cell, weights = given
        place = (row, *cell, 0)
        there = jax.lax.dynamic_slice(patches, place, (1, *found.shape))
        new = there + found[None].astype(jnp.float32) * weights[None, :, :, None]
        return jax.lax.dynamic_update_slice(patches, new, place), None

    patches, _ = jax.lax.scan(step, total.patches, (out.patches, rows_P, cells_Px2, weights_Pxhxw))

    def mean(total, out):
        shares = each_P.reshape(-1, *[1] * (out.ndim - 1))
        return total.at[rows_P].add(out.astype(jnp.float32) * shares)

    registers, pooled = mean(total.registers, out.registers), mean(total.pooled, out.pooled)
    return Output(mean(total.cls, out.cls), patches, registers, pooled)


def given(args: argparse.Namespace) -> dict[str, Any]:
    """Return what a file keeps of these flags; {} without --tiled.

    Raises:
      UserError: for --overlap without --tiled, and an overlap out of range.
    """
    if args.tiled is None:
        if args.overlap is not None:
            raise UserError("--overlap is that of windows: it needs --tiled SIZE")
        return {}
    overlap = Tiling.overlap if args.overlap is None else args.overlap
    Tiling(overlap)
    size = (args.tiled, args.tiled) if isinstance(args.tiled, int) else args.tiled
    return {"tiled": list(size), "overlap": overlap}


def tiled(model: Any, how: Mapping[str, Any]) -> Any:
    """Return the model, in windows if `how` (see `given`) says so.

    Raises:
      UserError: for a size that does not fit the model.
    """
    if "tiled" not in how:
        return model
    height, width = map(int, how["tiled"])
    return Tiled(model, (height, width), float(how["overlap"]))
