"""What a model does with an image, in three steps: read (many threads), compute (one thread, in batches), answer."""

import base64
import io
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from PIL import Image

from jaxdino.api import classify
from jaxdino.api.detector import THRESHOLD, Detector
from jaxdino.api.model import Model
from jaxdino.api.segmenter import Segmenter
from jaxdino.api.semantic import SemanticModel
from jaxdino.core.errors import UserError
from jaxdino.data.bad_images import BadImage
from jaxdino.data.channels import Reading
from jaxdino.data.checks import open_image
from jaxdino.data.reasons import too_large
from jaxdino.data.stored import Stored
from jaxdino.evals.report import check_sight
from jaxdino.evals.tiling import Tiling, window_starts
from jaxdino.retrieval.embed import JOINT, default_pool
from jaxdino.serving.server.batcher import bucket, buckets
from jaxdino.serving.server.uploads import size_of

PREDICT, EMBED, SEGMENT, DETECT = "predict", "embed", "segment", "detect"
ENDPOINTS = (PREDICT, EMBED, SEGMENT, DETECT)
MOST_PROMPTS = 16
MOST_LARGE = 8  # images of --max_pixels that wait at their own size: 0.8 GB of RGB by default


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


def works_of(model: Model, reading: Reading, max_batch: int) -> dict[str, Work]:
    """Return {endpoint: work} of a loaded model.

    Raises:
      UserError: for a model that can serve nothing: a projection head, a text tower.
    """
    check_sight(model)
    if isinstance(model, Detector):
        found: Work = Detecting(model, reading, max_batch)
    elif isinstance(model, SemanticModel):
        found = Semantic(model, reading, max_batch)
    elif isinstance(model, Segmenter):
        found = Prompted(model, reading, max_batch)
    elif "preprocess" in model.lacks:
        raise UserError(f"{model.name} cannot be served: it takes no images as files")
    else:
        found = Classifying(model, reading, max_batch)
    return dict.fromkeys(found.endpoints, found)


def _blank(model: Model, count: int) -> np.ndarray:
    how = model.card.spec.preprocess
    return np.zeros((count, *how.size, len(how.mean)), np.uint8)


def _padded(items: Sequence[np.ndarray]) -> np.ndarray:
    """Stack arrays, and add zeros up to a batch size that is compiled."""
    whole = np.zeros((bucket(len(items)), *items[0].shape), items[0].dtype)
    for place, item in enumerate(items):
        whole[place] = item
    return whole


class Classifying:
    """Classes and features of whole images, of one forward pass."""

    most_decoded = 0
    quick = True

    def __init__(self, model: Model, reading: Reading, max_batch: int):
        self.model, self.reading, self.max_batch = model, reading, max_batch
        self.classes = bool(model.card.num_classes and model.card.head.choice)
        self.endpoints: tuple[str, ...] = (PREDICT, EMBED) if self.classes else (EMBED,)
        self.names = model.class_names or tuple(map(str, range(model.card.num_classes)))
        self.joint = default_pool(model) == JOINT

    def check(self, endpoint: str, asked: Asked) -> None:
        if endpoint == PREDICT:
            classify.chooser(self.model, asked.threshold)

    def read(self, record: Stored, asked: Asked) -> np.ndarray:
        return self.model.prepare(record, self.reading, 0, {})

    def compute(self, items: Sequence[np.ndarray]) -> list[tuple[np.ndarray | None, np.ndarray]]:
        out = self.model(_padded(items))
        features = np.asarray(out.pooled if self.joint else out.cls, np.float32)
        logits = np.asarray(out.logits, np.float64) if self.classes else [None] * len(features)
        return [(logits[place], features[place]) for place in range(len(items))]

    def warm(self, say: Callable[[int], None]) -> None:
        for size in buckets(self.max_batch):
            found = self.compute(list(_blank(self.model, size)))
            if not all(np.isfinite(part).all() for row in found for part in row if part is not None):
                raise UserError(f"{self.model.name} gives values that are not finite for a black image")
            say(size)

    def answer(self, endpoint: str, result: Any, asked: Asked) -> tuple[dict[str, Any], Seen]:
        logits, features = result
        if endpoint == EMBED:
            return {"embedding": features.tolist()}, Seen([], features=features)
        choose = classify.chooser(self.model, asked.threshold)
        odds = choose(logits, asked.top)
        best = classify.chooser(self.model, 0.0)(logits, 1)[0] if choose.several else odds[0]
        found = [(self.names[place], float(value)) for place, value in odds]
        return {"classes": [_class(*one) for one in found]}, Seen(found, best, features)


class Detecting:
    """Boxes of objects."""

    endpoints: tuple[str, ...] = (DETECT,)
    most_decoded = 0
    quick = False

    def __init__(self, model: Detector, reading: Reading, max_batch: int):
        self.model, self.reading, self.max_batch = model, reading, max_batch

    def check(self, endpoint: str, asked: Asked) -> None:
        return

    def read(self, record: Stored, asked: Asked) -> Any:
        return self.model.placed(record, self.reading)

    def compute(self, items: Sequence[Any]) -> list[Any]:
        found = self.model.found(_padded([pixels for pixels, _ in items]))
        return [(found, place, move) for place, (_, move) in enumerate(items)]

    def warm(self, say: Callable[[int], None]) -> None:
        for size in buckets(self.max_batch):
            self.model.found(_blank(self.model, size))
            say(size)

    def answer(self, endpoint: str, result: Any, asked: Asked) -> tuple[dict[str, Any], Seen]:
        found, place, move = result
        threshold = THRESHOLD if asked.threshold is None else asked.threshold
        objects = self.model.objects(found, place, move, threshold)
        rows = list(zip(objects.names, objects.scores.tolist(), objects.boxes.tolist(), strict=True))
        given = [{"class": name, "score": score, "box": [round(x, 2) for x in box]} for name, score, box in rows]
        width, height = move.full
        return {"width": width, "height": height, "objects": given}, Seen([row[:2] for row in rows])


class Semantic:
    """A class for every pixel, in windows."""

    endpoints: tuple[str, ...] = (SEGMENT,)
    most_decoded = MOST_LARGE
    quick = False

    def __init__(self, model: SemanticModel, reading: Reading, max_batch: int):
        self.model, self.reading, self.max_batch = model, reading, max_batch
        self.names = model.class_names or tuple(map(str, range(model.card.num_classes)))

    def check(self, endpoint: str, asked: Asked) -> None:
        if asked.prompts:
            raise UserError(f"{self.model.name} has classes of its own and takes no prompts")

    def read(self, record: Stored, asked: Asked) -> tuple[np.ndarray, tuple[int, int]]:
        width, height = size_of(record)
        longest, short = max(width, height), max(1, min(width, height))
        scaled = self.model.card.source.get("short_side", min(self.model.card.spec.preprocess.size))
        if longest / short * scaled**2 > self.reading.max_pixels:  # a long strip becomes large when it is resized
            raise BadImage(
                too_large(f"{width} x {height}, resized to a short side of {scaled},", self.reading.max_pixels)
            )
        return self.model.opened(record, self.reading)

    def compute(self, items: Sequence[Any]) -> list[np.ndarray]:
        crop = self.model.card.spec.preprocess.size
        stride, windows = Tiling().stride(crop), 0
        for image, _ in items:
            windows += math.prod(len(window_starts(*axis)) for axis in zip(image.shape, crop, stride, strict=False))
        given = ((place, image, size) for place, (image, size) in enumerate(items))
        return [found.labels() for _, found in self.model.windows(given, bucket(min(windows, self.max_batch)))]

    def warm(self, say: Callable[[int], None]) -> None:
        how = self.model.card.spec.preprocess
        for size in buckets(self.max_batch):
            self.compute([(_blank(self.model, 1)[0], how.size)] * size)
            say(size)

    def answer(self, endpoint: str, result: Any, asked: Asked) -> tuple[dict[str, Any], Seen]:
        areas = np.bincount(result.ravel(), minlength=len(self.names))
        order = np.argsort(-areas, kind="stable")[: np.count_nonzero(areas)].tolist()
        found = [(self.names[place], float(areas[place] / result.size)) for place in order]
        listed = [
            {"class": name, "value": place, "share": share} for place, (name, share) in zip(order, found, strict=True)
        ]
        height, width = result.shape
        return {"width": width, "height": height, "classes": listed, "mask": _png(result)}, Seen([])


class Prompted:
    """A mask for each prompt, image by image: the shapes differ, so each new one is compiled when it comes."""

    endpoints: tuple[str, ...] = (SEGMENT,)
    most_decoded = MOST_LARGE
    quick = False

    def __init__(self, model: Segmenter, reading: Reading, max_batch: int):
        self.model, self.reading, self.most = model, reading, min(MOST_PROMPTS, max_batch)

    def check(self, endpoint: str, asked: Asked) -> None:
        if not 1 <= len(asked.prompts) <= self.most:
            raise UserError(
                f"{self.model.name} segments what texts name: give 1 to {self.most} prompts, prompt=red circle"
            )
        if any(not prompt.strip() or len(prompt) > 300 for prompt in asked.prompts):
            raise UserError("a prompt is blank or has more than 300 characters")

    def read(self, record: Stored, asked: Asked) -> tuple[Any, Asked]:
        return open_image(record, self.reading), asked

    def compute(self, items: Sequence[Any]) -> list[Any]:
        return [self._segmented(*item) for item in items]

    def _segmented(self, picture: Any, asked: Asked) -> Any:
        padded = [*asked.prompts, *asked.prompts[:1] * (bucket(len(asked.prompts)) - len(asked.prompts))]
        try:
            return self.model.segment(picture, padded, threshold=asked.threshold or 0.0)
        except UserError as err:  # a prompt that is too long, an image that is too narrow
            return err

    def warm(self, say: Callable[[int], None]) -> None:
        how = self.model.card.spec.preprocess
        for size in buckets(self.most):
            self.model.segment(Image.new("RGB", (how.size[1], how.size[0])), ["object"] * size)
            say(size)

    def answer(self, endpoint: str, result: Any, asked: Asked) -> tuple[dict[str, Any], Seen]:
        listed = []
        for prompt, mask, score in zip(asked.prompts, result.masks, result.scores.tolist(), strict=False):
            share = float(mask.mean())
            listed.append({"prompt": prompt, "score": score, "share": share, "mask": _png(mask.astype(np.uint8) * 255)})
        height, width = result.masks.shape[1:]
        return {"width": width, "height": height, "masks": listed}, Seen([])


def _png(values: np.ndarray) -> str:
    """Return an array uint8 (H, W) as a PNG in base64."""
    file = io.BytesIO()
    Image.fromarray(values).save(file, "PNG", compress_level=1)
    return base64.b64encode(file.getvalue()).decode()


def _class(name: str, odds: float) -> dict[str, Any]:
    return {"class": name, "probability": round(odds, 6)}
