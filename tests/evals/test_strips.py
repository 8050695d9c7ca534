"""Windows of an image that is not held, against those of the image held whole."""

import numpy as np
import pytest
from test_sliding import CROP, forward

from jaxdino.evals import sliding, strips
from jaxdino.evals.tiling import Tiling


@pytest.mark.parametrize("size", [(300, 211), (9, 40), CROP])
@pytest.mark.parametrize(("blend", "batch_size"), [("even", 7), ("ramp", 16)])
def test_strips_are_the_whole_bit_by_bit(size, blend, batch_size, monkeypatch):
    monkeypatch.setattr(sliding, "TILE", 50)
    monkeypatch.setattr(strips, "TILE", 50)
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    how = dict(crop=CROP, batch_size=batch_size, tiling=Tiling(1 / 3, blend), snap=(4, 4), fill=(1, 2, 3))
    ((_, found),) = sliding.slide(forward, [(0, image, size)], **how)
    whole, end = found.logits(), 0
    for rows, tiles in strips.slide_strips(forward, image, size, **how):
        assert rows.start == end
        end = rows.stop
        for (down, across), logits in tiles:
            np.testing.assert_array_equal(logits.astype(np.float32), whole[:, down, across])
    assert end == size[0]
