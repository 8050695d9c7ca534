"""timm's models and ours give the same tokens, intermediate layers and logits."""

import pytest

from tests.parity.cases import PATCH, SIZES, look
from tests.parity.drawing import channels_last, images
from tests.parity.ours import assert_same
from tests.parity.ours import look as look_at_ours
from tests.parity.timm_models import TIMM_CASES


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", TIMM_CASES)
def test_same_outputs(loaded, name, size):
    it = loaded(name)
    pixels = images(*(PATCH * side for side in SIZES[size]))
    assert_same(look_at_ours(it.ours, channels_last(pixels)), look(it.case, it.model, pixels))
