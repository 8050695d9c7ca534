"""The picture of a run of segmentation."""

from types import SimpleNamespace

import jax
import numpy as np
from PIL import Image

from jaxdino.core import sharding
from jaxdino.train.mask_measure import MaskMeasure


def test_the_picture_shows_the_first_pairs_that_can_be_read(tmp_path):
    """However many before them cannot."""

    def batch(*weight: float) -> dict[str, np.ndarray]:
        images, zeros = np.zeros((4, 16, 16, 3), np.uint8), np.zeros(4, np.int32)
        return {"image": images, "mask": images[..., 0], "label": zeros, "weight": np.float32(weight)}

    asked = []

    def look(flat, text, given):
        asked.append(given)
        return {"logits": np.ones((4, 16, 16), np.float32)}

    batches = [batch(0, 0, 0, 0), batch(0, 1, 0, 1), batch(1, 1, 1, 1), batch(1, 1, 1, 1)]
    mesh = sharding.make_mesh(-1, 1, jax.devices()[:1])
    measure = SimpleNamespace(
        names=("cat",),
        features=lambda flat: np.ones((1, 3)),
        batches=lambda split: batches,
        arrays=("image",),
        mesh=mesh,
        _look=look,
    )
    MaskMeasure.draw(measure, "val", {}, tmp_path / "few.png")
    assert len(asked) == 3
    with Image.open(tmp_path / "few.png") as picture:
        assert picture.height > picture.width  # six rows of three
