"""What a model does with an image, in three steps: read (many threads), compute (one thread, in batches), answer."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from jaxdino.api.model import Model
from jaxdino.data.stored import Stored
from jaxdino.serving.server.batcher import bucket

PREDICT, EMBED, SEGMENT, DETECT = "predict", "embed", "segment", "detect"
ENDPOINTS = (PREDICT, EMBED, SEGMENT, DETECT)


class Asked(NamedTuple):
    """The parameters of a request.

    Attributes:
      top: number of classes. threshold: probability or score; None is the model's own. prompts: texts.
    """

    top: int = 5
    threshold: float | None = None
    prompts: tuple[str, ...] = ()


class Seen(NamedTuple):
    """What the watch keeps of an image.

    Attributes:
      classes: those that are answered, with probabilities or scores. best: index and probability of the most probable
        class, whatever the thresholds. features: (D,).
    """

    classes: list[tuple[str, float]]
    best: tuple[int, float] | None = None
    features: np.ndarray | None = None


class Work(Protocol):
    """One kind of computation on images.

    Attributes:
      endpoints: the endpoints that it serves.
      most_decoded: most images that are decoded and not computed yet, for a work that keeps them large; 0: no limit.
      quick: whether the answer of an image takes less than about a millisecond, so that no thread is needed for it.
    """

    endpoints: tuple[str, ...]
    most_decoded: int
    quick: bool

    def check(self, endpoint: str, asked: Asked) -> None:
        """Raise UserError for parameters that do not fit the model, before an image is read."""

    def read(self, record: Stored, asked: Asked) -> Any:
        """Decode an image. Raises BadImage. Called in many threads."""

    def compute(self, items: Sequence[Any]) -> Sequence[Any]:
        """Return the result of each of at most `max_batch` decoded images, or the error of it."""
        ...

    def warm(self, say: Callable[[int], None]) -> None:
        """Compile every batch size, by computing blank images; `say` is called with each size."""

    def answer(self, endpoint: str, result: Any, asked: Asked) -> tuple[dict[str, Any], Seen]:
        """Return the fields of the answer for an image, and what the watch keeps."""
        ...


def blank(model: Model, count: int) -> np.ndarray:
    how = model.card.spec.preprocess
    return np.zeros((count, *how.size, len(how.mean)), np.uint8)


def padded(items: Sequence[np.ndarray]) -> np.ndarray:
    """Stack arrays, and add zeros up to a batch size that is compiled."""
    whole = np.zeros((bucket(len(items)), *items[0].shape), items[0].dtype)
    for place, item in enumerate(items):
        whole[place] = item
    return whole
