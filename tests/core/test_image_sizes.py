"""Image sizes as settings and as data: what is read and refused, and which size a batch has."""

import math

import pytest

from jaxdino.core.errors import UserError
from jaxdino.core.image_sizes import Sizes, distinct, fitted, words
from jaxdino.core.size_text import RATIOS, check_reached, read_ratios, read_scales, read_schedule, text

SQUARE = ((0, (224, 224)),)
TWO = ((0, (224, 224)), (50, (384, 512)))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, None),
        (224, SQUARE),
        ("224", SQUARE),
        (224.0, SQUARE),
        ((192, 256), ((0, (192, 256)),)),
        ([192, 256], ((0, (192, 256)),)),
        ("192x256", ((0, (192, 256)),)),
        (((0, 224), (50, (384, 512))), TWO),
        ([[0, 224], [50, [384, 512]]], TWO),
        ("0:224, 50:384x512", TWO),
        ("0:224", SQUARE),
    ],
)
def test_a_size_or_a_schedule(given, expected):
    assert read_schedule(given, "image_size") == expected
    if expected:
        assert read_schedule(text(expected), "image_size") == expected


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (True, "True is not a size; a size is 224 or 192x256"),
        (224.5, "224.5 is not a size"),
        ("big", "big is not a size"),
        ("224x", "224x is not a size"),
        ("192X256", "192X256 is not a size"),
        ((192, 256, 3), "is not a size"),
        ((), "is not a size"),
        (0, r"must be in \[1, 16384\] pixels a side"),
        ("192x20000", r"must be in \[1, 16384\] pixels a side"),
        ("0:224,50:512px", "512px is not a size"),
        ("0:224,x:512", "x:512 does not begin with a number of epochs"),
        (((0, 224), (-1, 512)), "does not begin with a number of epochs"),
        ("5:224,50:512", "begin at 0 and ascend, each once, as in 0:224,50:512"),
        ("0:224,50:512,20:384", "as in 0:224,20:384,50:512"),
        ("0:224,0:512", "each once"),
    ],
)
def test_other_forms_are_refused(given, message):
    with pytest.raises(UserError, match=message):
        read_schedule(given, "image_size")


def test_sizes_that_batches_draw():
    expected = ((160, 160), (192, 192), (192, 256))
    for given in ((192, 160, (192, 256)), "192x256,160,192,160", [160, [192, 256], "192"]):
        assert read_scales(given, "multi_scale") == expected
    assert read_scales(None, "multi_scale") == read_scales((), "multi_scale") == ()
    with pytest.raises(UserError, match="give two or more sizes to draw from"):
        read_scales("160,160", "multi_scale")
    with pytest.raises(UserError, match="0:160 is not a size; sizes are 160,192,224"):
        read_scales("0:160,5:192", "multi_scale")


def test_aspect_ratios():
    assert read_ratios("4:3,1:1,3:4", "r") == (3 / 4, 1.0, 4 / 3) == read_ratios((1, 0.75, "4:3"), "r")
    assert len(read_ratios("common", "r")) == len(RATIOS)
    for wrong in ("1:1", "1:0,1:1", "11:1,1:1", "wide,1:1", (True, 2.0), (math.nan, 1.0)):
        with pytest.raises(UserError, match="ratio"):
            read_ratios(wrong, "r")


def test_a_schedule_must_come_to_its_end():
    check_reached(TWO, 51, "image_size", "stage 'a'")
    check_reached(None, 1, "image_size", "stage 'a'")
    with pytest.raises(
        UserError, match="stage 'a': image_size=0:224,50:384x512 changes after 50 epochs, and the stage"
    ):
        check_reached(TWO, 50, "image_size", "stage 'a'")


def test_the_size_of_each_epoch():
    sizes = Sizes(TWO)
    assert [sizes.schedule[sizes.place(epoch)][1] for epoch in (0, 49, 50, 99)] == [(224, 224)] * 2 + [(384, 512)] * 2
    assert sizes.final == (384, 512) == sizes.largest
    assert sizes.varied and not Sizes.one((8, 8)).varied
    assert sizes.words() == "224 x 224, from epoch 51 on 384 x 512"


def test_a_draw_depends_on_seed_and_batch_alone_and_all_sizes_come():
    sizes = Sizes(SQUARE, ((160, 160), (192, 192), (224, 224)))
    drawn = [sizes.base(epoch, batch, 5) for epoch, batch in ((0, 7), (9, 7), (3, 7))]
    assert len(set(drawn)) == 1
    many = [sizes.base(0, batch, 5) for batch in range(300)]
    assert {size: many.count(size) > 70 for size in sizes.scales} == dict.fromkeys(sizes.scales, True)
    assert many != [sizes.base(0, batch, 6) for batch in range(300)]


@pytest.mark.parametrize("unit", [14, 16])
def test_sizes_of_groups_are_whole_patches_of_about_the_same_area(unit):
    for ratio in read_ratios("common", "r"):
        height, width = fitted((16 * unit, 16 * unit), ratio, unit)
        assert height % unit == width % unit == 0
        assert 0.85 < height * width / (16 * unit) ** 2 < 1.18 and 0.85 < width / height / ratio < 1.18
    assert fitted((224, 224), 1.0, unit) == (224, 224)


def test_every_size_is_listed_once():
    sizes = Sizes(SQUARE, ((160, 160), (224, 224)), (0.75, 1.0), 16)
    assert sizes.trained() == ((192, 144), (160, 160), (256, 192), (224, 224))
    assert sizes.timed() == {(192, 144): (160, 160), (224, 224): (224, 224)}
    assert words(sizes.largest) == "224 x 224"


def test_of_ratios_with_one_size_that_nearest_to_its_shape_stays():
    ratios = read_ratios("1:2,3:4,1:1,2:1", "r")
    assert distinct(ratios, [(48, 48)], 16) == (0.5, 1.0, 2.0)
    assert distinct(ratios, [(48, 48), (224, 224)], 16) == ratios
