"""A model with a value for each pixel: whole images, segmented in windows of the size that it was trained at."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from jaxdino.api.model import Model
from jaxdino.api.pictures import Record, named, records, warn_of
from jaxdino.core.errors import UserError
from jaxdino.core.options import check_range
from jaxdino.data.bad_images import BadImage
from jaxdino.data.bands import pixels
from jaxdino.data.channels import Reading
from jaxdino.data.checks import open_image
from jaxdino.data.crops import get_filter, short_side
from jaxdino.data.ranges import remarks
from jaxdino.evals.sliding import WindowLogits, slide

Size = tuple[int, int]


class WindowedModel(Model):
    """A loaded model whose head gives a value for each patch or pixel."""

    def per_pixel(
        self,
        images: Iterable[Record],
        batch_size: int,
        sixteen_bit: str | None,
        method: str,
        result: Callable[[WindowLogits], np.ndarray],
    ) -> list[np.ndarray]:
        """Return `result` of what the windows of each image give.

        Args:
          images, sixteen_bit: as in `preprocess`. batch_size: windows per forward pass. method: named in errors.

        Raises:
          UserError: as `preprocess`, and for a `batch_size` below 1.
        """
        check_range("batch_size", batch_size, "[1, inf)")
        given = records(images, method)
        reading, said = self.reading(given, sixteen_bit), {}

        def opened() -> Iterator[tuple[int, np.ndarray, Size]]:
            for place, record in enumerate(given):
                try:
                    with remarks() as lines:
                        yield place, *self.opened(record, reading)
                except BadImage as err:
                    raise UserError(f"{named(record, place)}: {err}") from err
                if lines:
                    said[named(record, place)] = "; ".join(lines)

        found = [result(logits) for _, logits in self.windows(opened(), batch_size)]
        warn_of(said)
        return found

    def opened(self, record: Record, reading: Reading) -> tuple[np.ndarray, Size]:
        """Return an image as it is segmented, uint8 (h, w, C), and its own (height, width). Raises BadImage."""
        how = self.card.spec.preprocess
        image = open_image(record, reading)
        own = image.size[1], image.size[0]
        size = self.squashed or short_side(own, self.card.source.get("short_side", min(how.size)))
        if size != own:
            image = image.resize((size[1], size[0]), get_filter(how.interpolation))
        return pixels(image), own

    def windows(
        self, images: Iterable[tuple[Any, np.ndarray, Size]], batch_size: int
    ) -> Iterator[tuple[Any, WindowLogits]]:
        """Return (anything, the logits) of (anything, an image and its size as `opened` gives them)."""
        how = self.card.spec.preprocess
        fill = tuple(min(255, max(0, round(255 * mean))) for mean in how.mean)
        return slide(self.scores, images, crop=how.size, batch_size=batch_size, fill=fill)

    @property
    def squashed(self) -> Size | None:
        """The (height, width) to which whole images are resized; None: by their short side."""
        return None

    def scores(self, images: np.ndarray) -> Any:
        """Return what the windows uint8 (B, H, W, C) give: (B, h, w, n)."""
        return self(images).logits
