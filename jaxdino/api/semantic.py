"""A model that gives every pixel a class: a backbone with a head on its patch tokens."""

from collections.abc import Iterable

import numpy as np

from jaxdino.api.pictures import Record
from jaxdino.api.windowed import Whole, WindowedModel
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

        Raises:
          UserError: as `preprocess`, for a `batch_size` below 1, and values out of range.
        """
        whole = Whole.of(short_side, overlap, blend)
        return self.per_pixel(images, batch_size, sixteen_bit, "segment", whole, lambda logits: logits.labels())
