"""A model with a value for each pixel: whole images, segmented in windows of the size that it was trained at."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any, cast

import numpy as np

from jaxdino.api.model import Model
from jaxdino.api.pictures import Record, named, records, warn_of
from jaxdino.api.several_views import FLIP, kinds_of
from jaxdino.api.tiled import coarsest
from jaxdino.core.errors import UserError
from jaxdino.core.options import check_range
from jaxdino.data.bad_images import BadImage
from jaxdino.data.bands import Picture, pixels
from jaxdino.data.channels import Reading
from jaxdino.data.checks import open_image
from jaxdino.data.crops import get_filter, short_side
from jaxdino.data.ranges import remarks
from jaxdino.data.scenes import Scene
from jaxdino.evals.sliding import Strip, WindowLogits, slide
from jaxdino.evals.strips import slide_strips
from jaxdino.evals.tiling import RAMP, USUAL, Size, Tiling


@dataclasses.dataclass(frozen=True)
class Whole:
    """How whole images are seen.

    Attributes:
      short_side: pixels to which images are resized first, 0 for their own size; None: as the model was evaluated.
      tiling: how the windows overlap and are blended.
      flip: whether each window is seen mirrored too, and the mean of both is taken.
    """

    short_side: int | None = None
    tiling: Tiling = USUAL
    flip: bool = False

    @classmethod
    def of(cls, short_side: int | None, overlap: float | None, blend: str, tta: str | None = None) -> "Whole":
        """Return it checked; an overlap of None is the usual one. `tta`: "flip" or None. Raises UserError."""
        if short_side is not None:
            check_range("short_side", short_side, "[0, inf)")
        if other := [kind for kind in kinds_of(tta) if kind != FLIP]:
            raise UserError(f"tta {other[0]} is for classes of images; windows of pixels have {FLIP} alone")
        return cls(short_side, Tiling(Tiling.overlap if overlap is None else overlap, blend), tta is not None)


AS_EVALUATED = Whole()


class WindowedModel(Model):
    """A loaded model whose head gives a value for each patch or pixel."""

    def per_pixel(
        self,
        images: Iterable[Record],
        batch_size: int,
        sixteen_bit: str | None,
        method: str,
        whole: Whole,
        result: Callable[[WindowLogits], np.ndarray],
    ) -> list[np.ndarray]:
        """Return `result` of what the windows of each image give.

        Args:
          images, sixteen_bit: as in `preprocess`. batch_size: windows per forward pass. method: named in errors.
          whole: the size at which whole images are seen, and their windows.

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
                        yield place, *self.opened(record, reading, whole)
                except BadImage as err:
                    raise UserError(f"{named(record, place)}: {err}") from err
                if lines:
                    said[named(record, place)] = "; ".join(lines)

        found = [result(logits) for _, logits in self.windows(opened(), batch_size, whole)]
        warn_of(said)
        return found

    def opened(self, record: Record, reading: Reading, whole: Whole = AS_EVALUATED) -> tuple[np.ndarray, Size]:
        """Return an image as it is segmented, uint8 (h, w, C), and its own (height, width). Raises BadImage."""
        image = open_image(record, reading)
        own = image.size[1], image.size[0]
        return self._resized(image, whole), own

    def _resized(self, image: Picture | Scene, whole: Whole) -> np.ndarray:
        """Return an image at the size at which it is seen. Raises BadImage."""
        size, own = self._seen_size((image.size[1], image.size[0]), whole), (image.size[1], image.size[0])
        if size != own:
            return pixels(image.resize((size[1], size[0]), get_filter(self.card.spec.preprocess.interpolation)))
        return pixels(cast(Picture, image))

    def _seen_size(self, own: Size, whole: Whole) -> Size:
        """Return the (height, width) at which an image of its own size is seen."""
        if whole.short_side is not None:
            return short_side(own, whole.short_side)
        usual = self.card.source.get("short_side", min(self.card.spec.preprocess.size))
        return self.squashed or short_side(own, usual)

    def logits_of(self, scene: Scene, batch_size: int, whole: Whole) -> Iterator[Strip]:
        """Yield what the windows of an image above the limit on pixels give, in strips of rows. Raises BadImage."""
        own = scene.height, scene.width
        if self._seen_size(own, whole) != own:
            ((_, found),) = self.windows([(None, self._resized(scene, whole), own)], batch_size, whole)
            yield from found.strips()
            return
        yield from slide_strips(self._scores(whole), scene.rows(), own, batch_size=batch_size, **self._how(whole))

    def windows(
        self, images: Iterable[tuple[Any, np.ndarray, Size]], batch_size: int, whole: Whole = AS_EVALUATED
    ) -> Iterator[tuple[Any, WindowLogits]]:
        """Return (anything, the logits) of (anything, an image and its size as `opened` gives them)."""
        return slide(self._scores(whole), images, batch_size=batch_size, **self._how(whole))

    def _how(self, whole: Whole) -> dict[str, Any]:
        """Return how windows lie and are blended, as `slide` takes it."""
        how = self.card.spec.preprocess
        fill = tuple(min(255, max(0, round(255 * mean))) for mean in how.mean)
        snap = coarsest(self) if whole.tiling.blend == RAMP else (1, 1)
        return {"crop": how.size, "tiling": whole.tiling, "snap": snap, "fill": fill}

    def _scores(self, whole: Whole) -> Callable[[np.ndarray], Any]:
        return self._both if whole.flip else self.scores

    def _both(self, images: np.ndarray) -> Any:
        """Return the mean of `scores` of the windows and of the windows mirrored."""
        return (self.scores(images) + self.scores(images[:, :, ::-1])[:, :, ::-1]) / 2

    @property
    def squashed(self) -> Size | None:
        """The (height, width) to which whole images are resized; None: by their short side."""
        return None

    def scores(self, images: np.ndarray) -> Any:
        """Return what the windows uint8 (B, H, W, C) give: (B, h, w, n)."""
        return self(images).logits
