"""A model that gives every pixel a class: a backbone with a head on its patch tokens."""

from collections.abc import Iterable, Iterator

import numpy as np

from jaxdino.api.pictures import Record
from jaxdino.api.windowed import Whole, WindowedModel
from jaxdino.data.scenes import Scene
from jaxdino.evals.sliding import put_likeliest
from jaxdino.evals.tiling import EVEN


class SemanticModel(WindowedModel):
    """A loaded model that segments images: `segment` gives the class of every pixel."""

    def segment(
        self,
        images: Iterable[Record],
        batch_size: int = 8,
        sixteen_bit: str | None = None,
        *,
        short_side: int | None = None,
        overlap: float | None = None,
        blend: str = EVEN,
        tta: str | None = None,
    ) -> list[np.ndarray]:
        """Return the class of each pixel of each image, uint8 (H, W) of its own size: indices into `class_names`.

        An image is resized to the short side that the model was evaluated at, and segmented in overlapping windows of
        the size that it was trained at.

        Args:
          images, sixteen_bit: as in `preprocess`; images are preprocessed here.
          batch_size: windows per forward pass.
          short_side: pixels to which images are resized first, 0 for their own size; None: as in evaluation.
          overlap: share of a window's side that the next one covers too, by default a third.
          blend: "even", as in evaluation, or "ramp", which trusts the borders of windows less; see `evals.tiling`.
          tta: "flip": the mean of what windows and mirrored windows give.

        Raises:
          UserError: as `preprocess`, for a `batch_size` below 1, and values out of range.
        """
        whole = Whole.of(short_side, overlap, blend, tta)
        return self.per_pixel(images, batch_size, sixteen_bit, "segment", whole, lambda logits: logits.labels())

    def strips(self, scene: Scene, batch_size: int, whole: Whole) -> Iterator[tuple[slice, np.ndarray]]:
        """Yield (rows, their classes uint8 (rows, W)) of an image above the limit on pixels, from the top.

        Args:
          scene: as `data.scenes.open_scene` gives it. batch_size: windows per forward pass. whole: how it is seen.

        Raises:
          BadImage: if it cannot be read.
        """
        for rows, tiles in self.logits_of(scene, batch_size, whole):
            found = np.zeros((rows.stop - rows.start, scene.width), np.uint8)
            for (down, across), logits in tiles:
                put_likeliest(logits, found[down.start - rows.start : down.stop - rows.start, across])
            yield rows, found
