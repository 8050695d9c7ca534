"""Draw which patches of a masked view are hidden: random boxes, then single patches up to an exact number.

The number of hidden patches at a position of the batch depends only on that position, and the numbers are spread
evenly over the positions. So every batch, and every part of it, hides nearly the same number, and arrays of the hidden
patches have the same size in all steps.

Sources: Bao et al. 2021, BEiT (arXiv:2106.08254), Algorithm 1; the single patches: facebookresearch/dinov3
dinov3/data/masking.py; the spread of ratios over a batch: dinov3/data/collate.py.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping

import numpy as np

from jaxdino.core import options
from jaxdino.core.errors import UserError
from jaxdino.core.image_sizes import Size, whole
from jaxdino.core.size_text import of_size
from jaxdino.data.crops import as_size

TRIES = 10  # attempts to draw a box that fits
STEPS = (math.sqrt(11) % 1, math.e % 1)  # the most even over devices and slices of a dozen irrational numbers


@dataclasses.dataclass(frozen=True)
class Masking:
    """Blockwise masks of the global views.

    Attributes:
      prob: share of the views that are masked.
      ratio: smallest and largest share of hidden patches in a masked view.
      patch: side of a patch in pixels.
      min_patches: smallest area that a box is drawn with, in patches.
      min_aspect: smallest height / width of a box; 1 / min_aspect is the largest.
    """

    prob: float = 0.5
    ratio: tuple[float, float] = (0.1, 0.5)
    patch: int = 16
    min_patches: int = 4
    min_aspect: float = 0.3

    def __post_init__(self):
        low, high = self.ratio
        if not (0 <= self.prob <= 1 and 0 <= low <= high <= 1):
            raise UserError(
                f"masking prob={self.prob} and ratio={self.ratio} must lie in 0 to 1, the smaller ratio first"
            )
        if self.patch < 1 or self.min_patches < 1 or not 0 < self.min_aspect <= 1:
            raise UserError(
                f"masking patch={self.patch} and min_patches={self.min_patches} must be at least 1, "
                f"min_aspect={self.min_aspect} above 0 and at most 1"
            )

    @classmethod
    def of(cls, given: "Mapping | Masking") -> "Masking":
        """Read a dict or ConfigDict (see `options.read`)."""
        return options.read(cls, given, "masking")

    def grid(self, size: int | Size) -> tuple[int, int]:
        """Return (h, w), the patch grid of a view of `size` pixels. Raise UserError if patches do not divide it."""
        height, width = as_size(size)
        if height % self.patch or width % self.patch:
            fit = of_size((whole(height, self.patch), whole(width, self.patch)))
            raise UserError(
                f"global views of {of_size((height, width))} pixels are not a whole number of {self.patch}-pixel "
                f"patches; try {fit}"
            )
        return height // self.patch, width // self.patch

    def counts(self, batch_size: int, grid: tuple[int, int], views: int) -> np.ndarray:
        """Return the number of hidden patches per position of a batch: int64 (B, G), rows descending, 0 for no mask.

        `draw` assigns the numbers of an image to its views at random.
        """
        if batch_size < 1:
            raise UserError(f"batch_size {batch_size} must be at least 1")
        return _counts(self, batch_size, tuple(grid), views)

    def draw(self, rng: np.random.Generator, counts: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
        """Draw bool (G, h, w) for one image: its `counts` (G,) are assigned to its views in random order."""
        return np.stack([self.block_mask(rng, grid, int(count)) for count in rng.permutation(counts)])

    def block_mask(self, rng: np.random.Generator, grid: tuple[int, int], count: int) -> np.ndarray:
        """Draw bool (h, w) with exactly `count` patches True: boxes, then single patches to complete the number."""
        mask, left = np.zeros(grid, bool), count
        while left > 0:
            new = self._add_box(rng, mask, left)
            if not new:
                break
            left -= new
        if left:
            mask.flat[rng.choice(np.flatnonzero(~mask), left, replace=False)] = True
        return mask

    def _add_box(self, rng: np.random.Generator, mask: np.ndarray, most: int) -> int:
        """Hide one more box that adds 1 to `most` patches. Return the number added, 0 after ten failed attempts."""
        height, width = mask.shape
        bound = -math.log(self.min_aspect)
        for area, turn, y, x in rng.random((TRIES, 4)).tolist():
            area = self.min_patches + (most - self.min_patches) * area
            aspect = math.exp(bound * (2 * turn - 1))
            tall, wide = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if not (0 < tall < height and 0 < wide < width):
                continue
            top, left = int(y * (height - tall + 1)), int(x * (width - wide + 1))
            box = mask[top : top + tall, left : left + wide]
            new = box.size - np.count_nonzero(box)
            if 0 < new <= most:
                box[...] = True
                return new
        return 0

    def capacity(
        self,
        batch_size: int,
        grid: tuple[int, int],
        views: int,
        groups: int = 1,
        slices: int = 1,
    ) -> int:
        """Return the largest number of hidden patches in any group of any slice of any batch.

        Args:
          batch_size: B, over all hosts, a multiple of `slices` x `groups`.
          grid: (h, w).
          views: G.
          groups: number of equal, contiguous parts of a slice's images, one per device.
          slices: slice s has the rows s, s + slices, ... of the batch.

        Raises:
          UserError: if the batch cannot be divided this way.
        """
        if batch_size % (slices * groups):
            raise UserError(f"batch_size {batch_size} must be a multiple of {slices} slice(s) x {groups} group(s)")
        hidden = self.counts(batch_size, grid, views).sum(axis=1)
        rows = hidden.reshape(-1, slices).T
        return int(rows.reshape(slices, groups, -1).sum(axis=-1).max())


@functools.lru_cache(maxsize=16)
def _counts(masking: Masking, batch_size: int, grid: tuple[int, int], views: int) -> np.ndarray:
    masked = np.floor(views * masking.prob + _strata(batch_size, STEPS[0]) + 1e-9).astype(np.int64)
    masked = np.minimum(masked, views)
    low, high = masking.ratio
    ratios = low + (high - low) * _strata(int(masked.sum()), STEPS[1])
    patches = grid[0] * grid[1]
    counts = np.zeros((batch_size, views), np.int64)
    counts[np.arange(views) < masked[:, None]] = np.clip(np.rint(ratios * patches), 1, patches)
    counts = -np.sort(-counts, axis=1)
    counts.setflags(write=False)  # shared by all callers
    return counts


def _strata(count: int, step: float) -> np.ndarray:
    """Return the midpoints of `count` equal parts of 0..1, ordered so that slices and strided slices are even too."""
    places = np.argsort(np.argsort((np.arange(count) * step) % 1))
    return (places + 0.5) / max(count, 1)
