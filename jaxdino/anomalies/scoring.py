"""Score image files with a fitted detector, batch by batch."""

import dataclasses
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxdino.anomalies import detector
from jaxdino.anomalies.detector import Detector
from jaxdino.anomalies.form import features
from jaxdino.core.bars import bar
from jaxdino.core.errors import UserError
from jaxdino.data.bad_images import BadImage
from jaxdino.models.spec import Preprocess


def prepare(model: Any, fitted: Detector, folder: str | Path) -> None:
    """Let a model prepare images as those that the detector was fitted on.

    Raises:
      UserError: if the detector does not say how.
    """
    try:
        preprocess = Preprocess.of(dict(fitted.about["preprocess"]))
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{folder} does not say how images are prepared; {detector.AGAIN}") from None
    model.card = dataclasses.replace(model.card, spec=dataclasses.replace(model.card.spec, preprocess=preprocess))


def scored(
    model: Any, fitted: Detector, files: Sequence[str], batch_size: int, max_pixels: int | None = None
) -> Iterator[tuple[int, float | str, Any, Any]]:
    """Yield (row, score, image uint8 (H, W, C), anomaly map (H, W)) of each file, in order.

    In place of its score, an image that cannot be read has the reason, and no image and no map.

    Args:
      max_pixels: TIFF and .npy of more pixels are read in strips, other images refused; None is the usual limit.
    """
    look, bank = features(model, fitted.form), jnp.asarray(fitted.bank)
    size, reading = model.card.spec.preprocess.size, model.reading(files)
    reading = dataclasses.replace(reading, scenes=True, max_pixels=max_pixels or reading.max_pixels)

    def read(row: int) -> Any:
        try:
            return model.prepare(files[row], reading, row, {})
        except BadImage as err:
            return str(err)

    with ThreadPoolExecutor() as pool, bar(None, "images", total=len(files)) as watched:
        for first in range(0, len(files), batch_size):
            rows = range(first, min(first + batch_size, len(files)))
            images = list(pool.map(read, rows))
            there = [image for image in images if not isinstance(image, str)]
            answers: Iterator[Any] = iter(())
            if there:
                padded = np.stack([*there, *[np.zeros_like(there[0])] * (batch_size - len(there))])
                far = detector.distances(bank, np.asarray(look(padded))[: len(there)], fitted.form.cosine)
                scores = detector.image_scores(far, fitted.form.share)
                answers = zip(scores.tolist(), there, detector.smooth_maps(far, size), strict=True)
            for row, image in zip(rows, images, strict=True):
                yield (row, image, None, None) if isinstance(image, str) else (row, *next(answers))
            watched.update(len(rows))
