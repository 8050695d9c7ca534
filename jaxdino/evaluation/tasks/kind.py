"""What a task says of itself to be evaluated, and pictures of its images."""

import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Protocol

import numpy as np
from PIL import Image

from jaxdino.core.page import data_uri
from jaxdino.data.bad_images import BadImage
from jaxdino.data.bands import pixels
from jaxdino.data.checks import open_image
from jaxdino.data.record import Split
from jaxdino.evaluation.finished_run import FinishedRun
from jaxdino.evaluation.intervals import Statistic
from jaxdino.evaluation.section import Block

SIDE = 320  # pixels of a picture, at most
STRENGTH = 0.5  # of the colour of a class over its image


class Kind(Protocol):
    """The evaluation of a task. It is given images one after another, and keeps of each what its metrics need.

    Attributes:
      field: what the images must have. titles: {metric: its words}, in the order of the table; columns: the same of
        the metrics of each class, which `statistic` gives under "class/<metric>".
      ranked: what the worst images are ranked by, in words. forms: {metric: format}, ".3f" by default.
      most_resamples: of the bootstrap, where a resample takes long; None: as many as are asked for.
      flips: whether views may be mirrored (`--tta flip`).
    """

    field: ClassVar[str]
    titles: ClassVar[Mapping[str, str]]
    columns: ClassVar[Mapping[str, str]]
    ranked: ClassVar[str]
    forms: ClassVar[Mapping[str, str]]
    most_resamples: ClassVar[int | None]
    flips: ClassVar[bool]

    def __init__(self, run: FinishedRun): ...

    def each(
        self, split: Split, rows: Sequence[int], batch_size: int, flip: bool
    ) -> Iterator[tuple[int, Any, Any] | tuple[int, BadImage, None]]:
        """Yield (row, truth, what the model finds) of images, or (row, why it cannot be read, None), in order."""
        ...

    def add(self, truth: Any, found: Any) -> float:
        """Keep what the metrics need of an image; return its own score: lower is worse, nan is not ranked."""
        ...

    def statistic(self) -> Statistic:
        """Return the metrics as a function of how often each image is drawn, (R, N) -> {name: (R,) or (R, C)}."""
        ...

    def images_of_classes(self) -> np.ndarray:
        """Return how many images have each class, (C,)."""
        ...

    def blocks(self) -> list[Block]:
        """Return what else the page shows: curves, a confusion matrix."""
        ...

    def pictures(self, image: np.ndarray, truth: Any, found: Any) -> tuple[Image.Image, Image.Image]:
        """Return the truth and what is found, drawn over an image uint8 (H, W, 3)."""
        ...


def shown(run: FinishedRun, record: Any) -> np.ndarray:
    """Return an image as uint8 (H, W, 3). Raises BadImage."""
    image = pixels(open_image(record, run.data.reading(len(run.model.card.spec.preprocess.mean))))
    return image[..., :3] if image.shape[2] >= 3 else image[..., [0, 0, 0]]


def tinted(image: np.ndarray, labels: np.ndarray, colours: np.ndarray, skipped: int) -> Image.Image:
    """Return an image under the colours (C, 3) of its classes (H, W), but for pixels of the class `skipped`."""
    if image.shape[:2] != labels.shape:
        image = np.asarray(Image.fromarray(image).resize(labels.shape[::-1]))
    known = labels != skipped
    mixed = image.astype(np.float32)
    mixed[known] = (1 - STRENGTH) * mixed[known] + STRENGTH * colours[labels[known]]
    return Image.fromarray(mixed.round().astype(np.uint8))


def small(picture: Image.Image) -> str:
    """Return a picture of at most `SIDE` pixels as a data URI."""
    picture = picture.copy()
    picture.thumbnail((SIDE, SIDE))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=85)
    return data_uri(file.getvalue(), ".jpg")


def read_truth(values: Any, row: int, max_pixels: int) -> Any:
    """Return the truth of a record, read if it is a file. Raises BadImage."""
    return values[row](max_pixels) if callable(values[row]) else values[row]
