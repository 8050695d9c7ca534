"""Preprocessing from the files beside the weights."""

import pytest

from convert.preprocess import from_json, from_timm, to_json
from jaxdino.models.spec import Preprocess

PRETRAINED = dict(mean=[0.5] * 3, std=[0.25] * 3, input_size=[3, 160, 192], crop_pct=0.95, interpolation="bilinear")


def test_timms_config():
    assert from_timm({"pretrained_cfg": PRETRAINED}) == Preprocess(
        (0.5,) * 3, (0.25,) * 3, (160, 192), 0.95, "bilinear"
    )
    random = from_timm({"pretrained_cfg": PRETRAINED | {"interpolation": "random"}})
    assert random.interpolation == Preprocess().interpolation
    assert from_timm({}) is None and from_timm({"pretrained_cfg": {"mean": [0.5] * 3}}) is None


@pytest.mark.parametrize(("side", "crop_pct"), [(224, 0.875), (384, 1.0)])
def test_a_convnext_processor_crops_below_384_pixels(side, crop_pct):
    """As microsoft/resnet-50 has it."""
    given = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": side, "crop_pct": 0.875, "resample": 3}
    assert from_json(Preprocess(), given).crop_pct == crop_pct
    assert from_json(Preprocess(), given).size == (side, side)


def test_there_and_back():
    how = Preprocess((0.1,) * 3, (0.2,) * 3, (96, 96), 0.75, "bilinear")
    assert from_json(Preprocess(), to_json(how)) == how
