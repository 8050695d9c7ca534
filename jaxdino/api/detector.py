"""A model that finds objects: a backbone with a dense detection head."""

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property, partial
from typing import Any, NamedTuple, cast

import jax
import numpy as np

from jaxdino.api.model import Model
from jaxdino.api.pictures import Record, named, records, warn_of
from jaxdino.core.errors import UserError
from jaxdino.core.options import check_range
from jaxdino.core.params import bind
from jaxdino.data.bad_images import BadImage
from jaxdino.data.channels import Reading
from jaxdino.data.geometry import Geometry
from jaxdino.data.ranges import remarks
from jaxdino.models.boxes import detections
from jaxdino.models.heads.detr import DETRHeadConfig
from jaxdino.models.heads.fcos import FCOSHeadConfig

THRESHOLD = 0.3  # smallest score of an object that is given, by default


class Objects(NamedTuple):
    """The objects that were found in an image, n of them, the highest score first.

    Attributes:
      boxes: float32 (n, 4), left, top, right, bottom in pixels of the upright image. scores: float32 (n,), 0 to 1.
      labels: int64 (n,), indices into `class_names`. names: the classes.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    names: tuple[str, ...]


class Detector(Model):
    """A loaded model that finds objects: `detect` gives a box, a class and a score for each."""

    def detect(
        self,
        images: Iterable[Record],
        threshold: float = THRESHOLD,
        batch_size: int = 8,
        sixteen_bit: str | None = None,
    ) -> list[Objects]:
        """Return the objects in each image; at most 100.

        Args:
          images, sixteen_bit: as in `preprocess`; images are preprocessed here.
          threshold: smallest score of an object, 0 to 1.
          batch_size: images per forward pass.

        Raises:
          UserError: as `preprocess`, and for a `threshold` or a `batch_size` out of range.
        """
        given, said = records(images, "detect"), {}
        found = []
        for place, objects in enumerate(
            self.each(given, self.reading(given, sixteen_bit), threshold, batch_size, said)
        ):
            if isinstance(objects, BadImage):
                raise UserError(f"{named(given[place], place)}: {objects}") from objects
            found.append(objects)
        warn_of(said)
        return found

    def each(
        self, images: Sequence[Record], reading: Reading, threshold: float, batch_size: int, said: dict[str, str]
    ) -> Iterator[Objects | BadImage]:
        """Yield the objects of each image, or why it cannot be read. `said` collects remarks by the image's name."""
        check_range("threshold", threshold, "[0, 1]")
        check_range("batch_size", batch_size, "[1, inf)")
        for start in range(0, len(images), batch_size):
            pixels = np.zeros((batch_size, *self.card.spec.preprocess.size, reading.channels), np.uint8)
            moves: list[Any] = []
            for place, record in enumerate(images[start : start + batch_size]):
                try:
                    with remarks() as lines:
                        pixels[place], move = self.placed(record, reading)
                except BadImage as err:
                    moves.append(err)
                    continue
                if lines:
                    said[named(record, start + place)] = "; ".join(lines)
                moves.append(move)
            found = self.found(pixels)
            for place, move in enumerate(moves):
                yield move if isinstance(move, BadImage) else self.objects(found, place, move, threshold)

    def found(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        """Return the boxes (B, n, 4), scores and labels (B, n) in images uint8 (B, H, W, C) as `placed` gives them."""
        return jax.device_get(self._detect(self.flat, pixels))

    def objects(self, found: dict[str, np.ndarray], place: int, move: Geometry, threshold: float) -> Objects:
        """Return the objects of one image of `found`, in pixels of the image itself.

        Args:
          place: its index in the batch. move: its geometry, as `placed` gives it.
        """
        kept = (found["scores"][place] >= max(threshold, 1e-9)).nonzero()[0]
        boxes = found["boxes"][place][kept] * np.tile(move.origin[:2], 2) + np.tile(move.origin[2:], 2)
        boxes = np.clip(boxes, 0, np.tile(move.full, 2)).astype(np.float32)
        labels = found["labels"][place][kept].astype(np.int64)
        names = self.class_names or tuple(map(str, range(self.card.num_classes)))
        return Objects(boxes, found["scores"][place][kept], labels, tuple(names[label] for label in labels))

    @cached_property
    def _detect(self) -> Any:
        head = cast(FCOSHeadConfig | DETRHeadConfig, self.card.head)  # a model with another head is no `Detector`
        skeleton, find = self.skeleton, partial(detections, strides=head.strides)

        def run(flat: Any, images: jax.Array) -> dict[str, jax.Array]:
            predictions = bind(skeleton, flat)(self._normalized(images)).predictions
            return find(predictions, size=(images.shape[1], images.shape[2]))

        return jax.jit(run)
