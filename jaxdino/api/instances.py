"""A model that finds objects and regions with masks: a backbone with mask queries."""

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
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
from jaxdino.evals.instances import Found
from jaxdino.evals.regions_found import regions_found, scored
from jaxdino.models.heads.mask_queries import MaskQueriesHeadConfig


class Regions(NamedTuple):
    """The regions of an image, n of them, without overlaps.

    Attributes:
      ids: int32 (H, W) of the upright image: 1 to n, 0 where there is none.
      labels: int64 (n,), the class of each, an index into `class_names`. names: the classes. scores: float64 (n,).
    """

    ids: np.ndarray
    labels: np.ndarray
    names: tuple[str, ...]
    scores: np.ndarray

    @property
    def masks(self) -> np.ndarray:
        """The mask of each region, bool (n, H, W)."""
        return self.ids[None] == np.arange(1, len(self.labels) + 1)[:, None, None]


class InstanceModel(Model):
    """A loaded model that finds objects with masks: `masks` gives the regions of each image."""

    def masks(
        self,
        images: Iterable[Record],
        threshold: float | None = None,
        batch_size: int = 8,
        sixteen_bit: str | None = None,
    ) -> list[Regions]:
        """Return the regions of each image.

        Args:
          images, sixteen_bit: as in `preprocess`; images are preprocessed here.
          threshold: smallest probability of a region, 0 to 1; None: that of the training run.
          batch_size: images per forward pass.

        Raises:
          UserError: as `preprocess`, and for a `threshold` or a `batch_size` out of range.
        """
        given, said = records(images, "masks"), {}
        reading, found = self.reading(given, sixteen_bit), []
        for place, regions in enumerate(self.each(given, reading, threshold, batch_size, said)):
            if isinstance(regions, BadImage):
                raise UserError(f"{named(given[place], place)}: {regions}") from regions
            found.append(regions)
        warn_of(said)
        return found

    def each(
        self, images: Sequence[Record], reading: Reading, threshold: float | None, batch_size: int, said: dict[str, str]
    ) -> Iterator[Regions | BadImage]:
        """Yield the regions of each image, or why it cannot be read. `said` collects remarks by the image's name."""
        self.least(threshold)
        for view in self._views(images, reading, batch_size, said):
            yield view if isinstance(view, BadImage) else self.regions(*view, threshold)

    def each_found(
        self, images: Sequence[Record], reading: Reading, threshold: float | None, batch_size: int, said: dict[str, str]
    ) -> Iterator[Found | BadImage]:
        """Yield what is found in each image, objects that may overlap and regions; see `each`."""
        least = self.least(threshold)
        for view in self._views(images, reading, batch_size, said):
            yield view if isinstance(view, BadImage) else self._found_in(*view, least)

    def least(self, threshold: float | None) -> float:
        """Return the smallest probability of a region. Raises UserError if it is out of range."""
        least = self._head.threshold if threshold is None else threshold
        check_range("threshold", least, "[0, 1]")
        return least

    def found(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        """Return "scores", "labels" (B, Q) and "masks" (B, Q, h, w) of all queries, of images (B, H, W, C)."""
        return jax.device_get(self._scored(self.flat, pixels))

    def regions(
        self, found: dict[str, np.ndarray], place: int, move: Geometry, threshold: float | None = None
    ) -> Regions:
        """Return the regions of one image of `found`; `place` and `move` are its own."""
        least = self.least(threshold)
        kept = found["scores"][place] >= least  # others are in no region, and would be drawn for nothing
        one = {name: value[place][kept][None] for name, value in found.items()}
        return self._regions(self._found_in(one, 0, move, least))

    def _views(
        self, images: Sequence[Record], reading: Reading, batch_size: int, said: dict[str, str]
    ) -> Iterator[tuple[dict[str, np.ndarray], int, Geometry] | BadImage]:
        """Yield (`found` of its batch, place, move) of each image, or why it cannot be read."""
        check_range("batch_size", batch_size, "[1, inf)")
        for start in range(0, len(images), batch_size):
            pixels = np.zeros((batch_size, *self.card.spec.preprocess.size, reading.channels), np.uint8)
            moves: list[Geometry | BadImage] = []
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
                yield move if isinstance(move, BadImage) else (found, place, move)

    @property
    def _head(self) -> MaskQueriesHeadConfig:
        return cast(MaskQueriesHeadConfig, self.card.head)  # a model with another head is no `InstanceModel`

    def _found_in(self, found: dict[str, np.ndarray], place: int, move: Geometry, least: float) -> Found:
        scores, labels, masks = (found[name][place] for name in ("scores", "labels", "masks"))
        where = self.card.spec.preprocess.size, move.origin, (move.full[1], move.full[0])
        return regions_found(scores, labels, masks, *where, self._head.things, least)

    def _regions(self, found: Found) -> Regions:
        names = self.class_names or tuple(map(str, range(self.card.num_classes)))
        scores = np.zeros(0) if found.region_scores is None else found.region_scores
        return Regions(found.ids, found.classes, tuple(names[label] for label in found.classes), scores)

    @cached_property
    def _scored(self) -> Any:
        skeleton = self.skeleton
        return jax.jit(lambda flat, images: scored(bind(skeleton, flat)(self._normalized(images)).predictions))
