import dataclasses

import ml_collections
import pytest

from jaxdino.core.errors import UserError
from jaxdino.data.recipe import DINO, GLOBAL_1, GLOBAL_2, LOCAL, View, check, expanded


def test_the_recipes_are_those_of_dino():
    """The figures of main_dino.py's DataAugmentationDINO and of its README's command lines."""
    for view in DINO:
        assert (view.brightness, view.contrast, view.saturation, view.hue) == (0.4, 0.4, 0.2, 0.1)
        assert (view.hflip, view.vflip, view.jitter_prob, view.gray_prob) == (0.5, 0.0, 0.8, 0.2)
        assert view.blur_sigma == (0.1, 2.0) and view.solarize_threshold * 255 == 128
    assert [view.blur_prob for view in DINO] == [1.0, 0.1, 0.5]
    assert [view.solarize_prob for view in DINO] == [0.0, 0.2, 0.0]
    assert [(view.kind, view.size, view.scale, view.count) for view in DINO] == [
        ("global", 224, (0.4, 1.0), 1),
        ("global", 224, (0.4, 1.0), 1),
        ("local", 96, (0.05, 0.4), 8),
    ]


def test_expanded_gives_one_view_a_crop_in_order():
    views = check([LOCAL, GLOBAL_2, dataclasses.replace(GLOBAL_1, count=2)])
    assert expanded(views, "global") == (GLOBAL_2, GLOBAL_1, GLOBAL_1)
    assert expanded(views, "local") == (dataclasses.replace(LOCAL, count=1),) * 8
    assert expanded(check([GLOBAL_1, GLOBAL_2]), "local") == ()


@pytest.mark.parametrize("wrap", [dict, ml_collections.ConfigDict])
def test_views_are_read_from_a_config(wrap):
    assert check([wrap(dataclasses.asdict(view)) for view in DINO]) == DINO
    view = View.of(wrap({"size": 32, "scale": [0.2, 1], "blur_prob": 1, "hue": None, "count": 2.0}))
    assert view == View(size=32, scale=(0.2, 1.0), blur_prob=1.0, count=2)
    assert isinstance(view.count, int) and hash(view)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"blurr_prob": 1.0}, "no field 'blurr_prob'; nearest: blur_prob"),
        ({"kind": "locl"}, "kind='locl' is not known; nearest: local"),
        ({"scale": (0.4, 1.1)}, r"scale=\(0.4, 1.1\) must lie in 1e-06 to 1"),
        ({"scale": (0.4, 0.3)}, "the smaller first"),
        ({"scale": 0.4}, "scale=0.4: it must be 2 values in brackets, each a number"),
        ({"scale": (0.1, 0.2, 0.3)}, "it must be 2 values"),
        ({"ratio": (0.0, 1.0)}, "ratio"),
        ({"degrees": -5.0}, "degrees=-5.0 must lie in 0 to 180"),
        ({"degrees": 181}, "degrees=181.0 must lie in 0 to 180"),
        ({"degrees": (-5.0, 5.0)}, "degrees=.*: it must be a number"),
        ({"size": 0}, r"size=0 must be in \[1, 16384\] pixels a side"),
        ({"size": 96.5}, "size=96.5: 96.5 is not a size; a size is 224 or 192x256"),
        ({"size": "96x"}, "size=96x: 96x is not a size; a size is 224 or 192x256"),
        ({"count": -1}, "count=-1"),
        ({"hue": 0.6}, "hue=0.6 must lie in 0 to 0.5"),
        ({"gray_prob": float("nan")}, "gray_prob=nan"),
        ({"blur_sigma": (2.0, 0.1)}, "blur_sigma"),
        ({"solarize_threshold": 128}, "solarize_threshold=128.0 must lie in 0 to 1"),
    ],
)
def test_errors(fields, message):
    with pytest.raises(UserError, match=message):
        View.of(fields)


@pytest.mark.parametrize(
    ("views", "message"),
    [
        ([GLOBAL_1, LOCAL], "1 global views; self-distillation compares at least 2"),
        ([], "0 global views"),
        ([GLOBAL_1, dataclasses.replace(GLOBAL_2, size=192)], r"global views have the sizes \[192, 224\]"),
        ([*DINO, dataclasses.replace(LOCAL, size=64)], r"local views have the sizes \[64, 96\]"),
    ],
)
def test_views_that_do_not_go_together(views, message):
    with pytest.raises(UserError, match=message):
        check(views)
