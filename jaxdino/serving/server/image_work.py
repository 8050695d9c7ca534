"""Work on whole images: classes, features, boxes."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxdino.api import classify
from jaxdino.api.detector import THRESHOLD, Detector
from jaxdino.api.model import Model
from jaxdino.core.errors import UserError
from jaxdino.data.channels import Reading
from jaxdino.data.stored import Stored
from jaxdino.retrieval.embed import JOINT, default_pool
from jaxdino.serving.server.batcher import buckets
from jaxdino.serving.server.work import DETECT, EMBED, PREDICT, Asked, Seen, blank, padded


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
        out = self.model(padded(items))
        features = np.asarray(out.pooled if self.joint else out.cls, np.float32)
        logits = np.asarray(out.logits, np.float64) if self.classes else [None] * len(features)
        return [(logits[place], features[place]) for place in range(len(items))]

    def warm(self, say: Callable[[int], None]) -> None:
        for size in buckets(self.max_batch):
            found = self.compute(list(blank(self.model, size)))
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
        found = self.model.found(padded([pixels for pixels, _ in items]))
        return [(found, place, move) for place, (_, move) in enumerate(items)]

    def warm(self, say: Callable[[int], None]) -> None:
        for size in buckets(self.max_batch):
            self.model.found(blank(self.model, size))
            say(size)

    def answer(self, endpoint: str, result: Any, asked: Asked) -> tuple[dict[str, Any], Seen]:
        found, place, move = result
        threshold = THRESHOLD if asked.threshold is None else asked.threshold
        objects = self.model.objects(found, place, move, threshold)
        rows = list(zip(objects.names, objects.scores.tolist(), objects.boxes.tolist(), strict=True))
        given = [{"class": name, "score": score, "box": [round(x, 2) for x in box]} for name, score, box in rows]
        width, height = move.full
        return {"width": width, "height": height, "objects": given}, Seen([row[:2] for row in rows])


def _class(name: str, odds: float) -> dict[str, Any]:
    return {"class": name, "probability": round(odds, 6)}
