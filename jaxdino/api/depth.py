"""A model that gives every pixel its distance: a backbone with a depth head."""

from collections.abc import Iterable, Iterator
from typing import Any, cast

import numpy as np

from jaxdino.api.pictures import Record
from jaxdino.api.windowed import AS_EVALUATED, Size, Whole, WindowedModel
from jaxdino.data.scenes import Scene
from jaxdino.evals.sliding import WindowLogits
from jaxdino.models.heads.depth import DepthHeadConfig


class DepthModel(WindowedModel):
    """A loaded model that measures distances: `depth` gives that of every pixel."""

    def depth(self, images: Iterable[Record], batch_size: int = 8, sixteen_bit: str | None = None) -> list[np.ndarray]:
        """Return the distance of each pixel of each image in metres, float32 (H, W) of its own size.

        An image is resized whole to the size that the model was trained at, or, if that was not so in training, to its
        short side, and measured in overlapping windows, whose distances are averaged.

        Args:
          images, sixteen_bit: as in `preprocess`; images are preprocessed here.
          batch_size: windows per forward pass.

        Raises:
          UserError: as `preprocess`, and for a `batch_size` below 1.
        """
        return self.per_pixel(images, batch_size, sixteen_bit, "depth", AS_EVALUATED, self.metres)

    def metres(self, found: WindowLogits) -> np.ndarray:
        """Return the distances that the windows of an image give, within the range of the head."""
        return self._clipped(found.logits()[0])

    def strips(self, scene: Scene, batch_size: int, whole: Whole) -> Iterator[tuple[slice, np.ndarray]]:
        """Yield (rows, their distances in metres, float32 (rows, W)) of an image above the limit on pixels.

        Args, raises: as `SemanticModel.strips`.
        """
        for rows, tiles in self.logits_of(scene, batch_size, whole):
            found = np.empty((rows.stop - rows.start, scene.width), np.float32)
            for (down, across), logits in tiles:
                found[down.start - rows.start : down.stop - rows.start, across] = logits[0]
            yield rows, self._clipped(found)

    def _clipped(self, metres: np.ndarray) -> np.ndarray:
        head = cast(DepthHeadConfig, self.card.head)  # a model with another head is no `DepthModel`
        return np.clip(metres, head.min_depth, head.max_depth)

    @property
    def squashed(self) -> Size | None:
        """The training size, if images were resized to it whole."""
        how = self.card.spec.preprocess
        return how.size if how.crop_mode == "squash" and "short_side" not in self.card.source else None

    def scores(self, images: np.ndarray) -> Any:
        """Return the metres of windows uint8 (B, H, W, C): (B, h, w, 1)."""
        return self(images).predictions["depth"][..., None]
