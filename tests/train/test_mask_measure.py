"""The picture of a run of segmentation."""

from types import SimpleNamespace

import jax
import numpy as np
from PIL import Image

from jaxdino.core import sharding
from jaxdino.evals import segmentation_pictures
from jaxdino.train.tasks.mask_measure import MaskMeasure

DRAWN = True

draw = segmentation_pictures.draw_pairs


def test_the_picture_shows_pairs_that_can_be_read(tmp_path, monkeypatch):
    """However many before them cannot, in the order of the split."""

    def batch(first: int, *weight: float) -> dict[str, np.ndarray]:
        images, zeros, index = np.zeros((4, 16, 16, 3), np.uint8), np.zeros(4, np.int32), first + np.arange(4)
        images += np.uint8(10 * index)[:, None, None, None]
        given = {"image": images, "mask": images[:, None, ..., 0], "label": zeros[:, None]}
        return given | {"weight": np.float32(weight), "index": index}

    asked = []

    def look(flat, text, given):
        asked.append(given)
        return {"logits": np.ones((4, 1, 16, 16), np.float32)}

    weights = [(0, 0, 0, 0), (0, 1, 0, 1), (1, 1, 1, 1), (1, 1, 1, 1)]
    batches = [batch(4 * n, *weight) for n, weight in enumerate(weights)]
    mesh = sharding.make_mesh(-1, 1, jax.devices()[:1])
    measure = SimpleNamespace(
        names=("cat",),
        features=lambda flat: np.ones((1, 3)),
        batches=lambda split, first: (batches, list(range(16))[::-1]),
        arrays=("image", "mask", "label", "weight"),
        mesh=mesh,
        _look=look,
    )
    drawn = []
    monkeypatch.setattr(segmentation_pictures, "draw_pairs", lambda *rows: drawn.append(rows) or draw(*rows))
    MaskMeasure.draw(measure, "val", {}, tmp_path / "few.png")
    assert [int(image.max()) for image in drawn[0][0]] == [110, 100, 90, 80, 70, 50]
    assert len(asked) == 3
    with Image.open(tmp_path / "few.png") as picture:
        assert picture.height > picture.width  # six rows of three
