"""A model that gives every pixel a class: a backbone with a head on its patch tokens."""

from collections.abc import Iterable

import numpy as np

from jaxdino.api.pictures import Record
from jaxdino.api.windowed import WindowedModel


class SemanticModel(WindowedModel):
    """A loaded model that segments images: `segment` gives the class of every pixel."""

    def segment(
        self, images: Iterable[Record], batch_size: int = 8, sixteen_bit: str | None = None
    ) -> list[np.ndarray]:
        """Return the class of each pixel of each image, uint8 (H, W) of its own size: indices into `class_names`.

        An image is resized to the short side that the model was evaluated at, and segmented in overlapping windows of
        the size that it was trained at.

        Args:
          images, sixteen_bit: as in `preprocess`; images are preprocessed here.
          batch_size: windows per forward pass.

        Raises:
          UserError: as `preprocess`, and for a `batch_size` below 1.
        """
        return self.per_pixel(images, batch_size, sixteen_bit, "segment", lambda logits: logits.labels())
