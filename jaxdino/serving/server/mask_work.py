"""Work that gives masks: a class for every pixel, objects, what a text names."""

import base64
import io
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image

from jaxdino.api.instances import InstanceModel, Regions
from jaxdino.api.segmenter import Segmenter
from jaxdino.api.semantic import SemanticModel
from jaxdino.core.errors import UserError
from jaxdino.data.bad_images import BadImage
from jaxdino.data.channels import Reading
from jaxdino.data.checks import open_image
from jaxdino.data.reasons import too_large
from jaxdino.data.stored import Stored
from jaxdino.evals.tiling import Tiling, window_starts
from jaxdino.serving.server.batcher import bucket, buckets
from jaxdino.serving.server.uploads import size_of
from jaxdino.serving.server.work import SEGMENT, Asked, Seen, blank, padded

MOST_PROMPTS = 16
MOST_LARGE = 8  # images of --max_pixels that wait at their own size: 0.8 GB of RGB by default
MOST_DRAWN = 2**30  # pixels of all masks of an image


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
        _no_threshold(asked, self.model.name)

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
            self.compute([(blank(self.model, 1)[0], how.size)] * size)
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
        _no_threshold(asked, self.model.name)

    def read(self, record: Stored, asked: Asked) -> tuple[Any, Asked]:
        return open_image(record, self.reading), asked

    def compute(self, items: Sequence[Any]) -> list[Any]:
        return [self._segmented(*item) for item in items]

    def _segmented(self, picture: Any, asked: Asked) -> Any:
        filled = [*asked.prompts, *asked.prompts[:1] * (bucket(len(asked.prompts)) - len(asked.prompts))]
        try:
            return self.model.segment(picture, filled)
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


class Instances:
    """The regions of objects: one map of their numbers."""

    endpoints: tuple[str, ...] = (SEGMENT,)
    most_decoded = MOST_LARGE
    quick = False

    def __init__(self, model: InstanceModel, reading: Reading, max_batch: int):
        self.model, self.reading, self.max_batch = model, reading, max_batch

    def check(self, endpoint: str, asked: Asked) -> None:
        if asked.prompts:
            raise UserError(f"{self.model.name} has classes of its own and takes no prompts")

    def read(self, record: Stored, asked: Asked) -> Any:
        return *self.model.placed(record, self.reading), asked.threshold

    def compute(self, items: Sequence[Any]) -> list[Regions | BadImage]:
        """Masks are drawn here, at the size of the image, in the one thread that computes: they take much memory."""
        found = self.model.found(padded([pixels for pixels, _, _ in items]))
        return [self._drawn(found, place, *one[1:]) for place, one in enumerate(items)]

    def _drawn(self, found: dict[str, np.ndarray], place: int, move: Any, threshold: float | None) -> Any:
        width, height = move.full
        count = int((found["scores"][place] >= self.model.least(threshold)).sum())
        if count * width * height > MOST_DRAWN:
            return BadImage(f"{count} masks of {width} x {height} pixels take too much memory: send a smaller image")
        regions = self.model.regions(found, place, move, threshold)
        return regions._replace(ids=regions.ids.astype(np.uint8 if len(regions.names) < 256 else np.uint16))

    def warm(self, say: Callable[[int], None]) -> None:
        for size in buckets(self.max_batch):
            self.model.found(blank(self.model, size))
            say(size)

    def answer(self, endpoint: str, result: Regions, asked: Asked) -> tuple[dict[str, Any], Seen]:
        height, width = result.ids.shape
        rows, listed = list(zip(result.names, result.scores.tolist(), strict=True)), []
        for value, (name, score) in enumerate(rows, 1):
            mask = result.ids == value
            region = {"class": name, "score": score, "value": value, "share": float(mask.mean()), "box": _box(mask)}
            listed.append(region)
        return {"width": width, "height": height, "regions": listed, "mask": _png(result.ids)}, Seen(rows)


def _box(mask: np.ndarray) -> list[int]:
    """Return left, top, right and bottom of the pixels of a mask, which has some."""
    columns, rows = (np.flatnonzero(mask.any(axis=axis)) for axis in (0, 1))
    return [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]


def _no_threshold(asked: Asked, name: str) -> None:
    if asked.threshold is not None:
        raise UserError(f"{name} takes no threshold: it is for objects with scores")


def _png(values: np.ndarray) -> str:
    """Return an array (H, W) of 8 or 16 bits as a PNG in base64."""
    file = io.BytesIO()
    Image.fromarray(values).save(file, "PNG", compress_level=1)
    return base64.b64encode(file.getvalue()).decode()
