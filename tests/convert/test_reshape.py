"""A published model in another shape: what may be said, and what is refused."""

import dataclasses
import json

import pytest

from convert.reshape import reshaped
from jaxdino.core.errors import UserError
from jaxdino.models.registry import get


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("resnet18", {"depths": (1, 1), "widths": (8, 16), "stem": 4}),
        ("dinov3_vits16", {"width": 96, "depth": 2, "num_heads": 3, "mlp_dim": 384, "patch_size": 12}),
        ("dinov3_convnext_tiny", {"depths": (1, 1), "widths": (32, 64)}),
    ],
)
def test_what_is_said_differs_and_nothing_else(name, shape):
    published = get(name)
    spec = reshaped(published, json.dumps(shape))
    assert spec.config == dataclasses.replace(published.config, **shape)
    assert (spec.name, spec.hub) == (f"{published.family}_custom", None)
    assert spec == dataclasses.replace(published, name=spec.name, hub=None, config=spec.config)


@pytest.mark.parametrize(
    ("name", "shape", "words"),
    [
        ("resnet18", '{"depths": [1', "not valid JSON"),
        ("resnet18", "[1]", "give the fields that differ"),
        ("resnet18", '{"depth": [1]}', "no 'depth'; nearest: depths"),
        ("resnet18", '{"depths": 1}', "depths is 1"),
        ("resnet18", '{"depths": [1, 1, 1]}', "256 wide, not 512"),
        ("resnet18", '{"depths": [1, 1, 1, 1, 1]}', "is not a valid resnet"),
        ("resnet18", '{"stem": 0}', "is not a valid resnet"),
        ("dinov3_vits16", '{"width": 100}', "is not a valid dinov3"),
    ],
)
def test_refusals(name, shape, words):
    with pytest.raises(UserError, match=words):
        reshaped(get(name), shape)
