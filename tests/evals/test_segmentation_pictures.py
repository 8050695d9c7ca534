"""Pictures of masks: files that can be looked at, in which the colours lie where the masks are."""

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from jaxdino.core.errors import UserError
from jaxdino.evals import segmentation_pictures as pictures

RNG = np.random.default_rng(0)
LEVEL = 120
GREY = 255 * (0.25 + 0.55 * LEVEL / 255)
"""What an image of so much in every channel is drawn as below masks."""


def pairs(count: int = 2, side: int = 40):
    images = np.full((count, side, side, 3), LEVEL, np.uint8)
    truths = np.zeros((count, side, side), np.uint8)
    truths[:, 5:20, 5:20] = 1
    truths[0, :, -4:] = 255
    predictions = np.zeros((count, side, side), bool)
    predictions[:, 5:20, 5:12] = True
    return images, truths, predictions


def pixels(file) -> np.ndarray:
    with Image.open(file) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def share(file, colour: str, grey: float = GREY) -> float:
    """How much of a picture is a colour as a mask has it, over an even grey."""
    target = pictures.STRENGTH * 255 * np.array(to_rgb(colour)) + (1 - pictures.STRENGTH) * grey
    return float((np.abs(pixels(file) - target).max(axis=-1) < 3).mean())


def test_pairs(tmp_path):
    images, truths, predictions = pairs()
    file = pictures.draw_pairs(
        images, ["red circle", "a $x$ very long prompt " * 9], truths, predictions, tmp_path / "a.png"
    )
    assert file == tmp_path / "a.png" and min(pixels(file).shape[:2]) > 400
    empty = pictures.draw_pairs(images, ["a", "b"], truths * 0, predictions & False, tmp_path / "b.png")
    assert share(file, pictures.COLOURS[0]) > 0.03 and share(empty, pictures.COLOURS[0]) == 0


@pytest.mark.parametrize(
    ("truth", "found", "iou"), [((5, 20), (5, 12), 7 / 15), ((0, 0), (0, 0), 1), ((0, 0), (0, 3), 0)]
)
def test_iou_of_what_counts(truth, found, iou, monkeypatch, tmp_path):
    seen = []
    true = np.zeros((1, 40, 40), np.uint8)
    true[:, :, slice(*truth)], true[:, 30:] = 1, 255
    prediction = np.zeros((1, 40, 40), bool)
    prediction[:, :, slice(*found)] = True
    prediction[:, 30:] = True  # does not count
    own = pictures._iou
    monkeypatch.setattr(pictures, "_iou", lambda *masks: seen.append(own(*masks)) or seen[-1])
    pictures.draw_pairs(pairs(1)[0], ["x"], true, prediction, tmp_path / "a.png")
    assert seen == [pytest.approx(iou)]


@pytest.mark.parametrize("size", [(40, 40), (30, 200), (300, 40), (1200, 900)])
def test_overlay(size, tmp_path):
    image = np.full((*size, 3), LEVEL, np.uint8)
    masks = np.zeros((2, *size), bool)
    masks[0, : size[0] // 2], masks[1, -size[0] // 3 :] = True, True
    file = tmp_path / "a.png"
    pictures.draw_overlay(image, ["red circle", "sky"], masks, [0.91, 0.2], file)
    first, second, third = (share(file, colour) for colour in pictures.COLOURS[:3])
    assert first > 1.2 * second > 0.02 and third == 0


def test_masks_of_everything_and_nothing_and_scripts_without_letters(tmp_path):
    image = RNG.integers(0, 256, (20, 20, 3), np.uint8)
    masks = np.stack([np.ones((20, 20), bool), np.zeros((20, 20), bool)] * 5)
    file = tmp_path / "a.png"
    pictures.draw_overlay(image, ["\u732b", "$\\frac{"] * 5, masks, np.linspace(0, 1, 10), file)
    assert file.is_file()


def test_bad_input_is_one_clear_error(tmp_path):
    images, truths, predictions = pairs(1)
    with pytest.raises(UserError, match="no pair to draw"):
        pictures.draw_pairs(images[:0], [], truths[:0], predictions[:0], tmp_path / "a.png")
    with pytest.raises(UserError, match=r"nowhere/a.png cannot be written"):
        pictures.draw_pairs(images, ["x"], truths, predictions, tmp_path / "nowhere" / "a.png")


NAMES = ("background", "road", "car", "sky")


def class_maps(size=(40, 60)):
    """A map of four classes in stripes, ignored at the right, and a prediction without sky."""
    truth = np.repeat(np.arange(4, dtype=np.uint8), size[0] // 4)[:, None].repeat(size[1], axis=1)
    truth[:, -10:] = 255
    prediction = np.where(truth > 2, 1, truth).astype(np.uint8)
    return np.full((*truth.shape, 3), LEVEL, np.uint8), truth, prediction


def colour_of(name: str, names=NAMES) -> str:
    return "#{:02x}{:02x}{:02x}".format(*pictures.class_colours(names)[names.index(name)])


@pytest.mark.parametrize("size", [(40, 60), (1200, 1600)])
def test_maps_of_classes(tmp_path, size):
    image, truth, prediction = class_maps(size)
    with_sky, without = tmp_path / "a.png", tmp_path / "b.png"
    pictures.draw_classes([image] * 2, [truth] * 2, [prediction] * 2, NAMES, with_sky)
    pictures.draw_classes([image] * 2, [prediction] * 2, [prediction] * 2, NAMES, without)
    for name in ("road", "car"):
        assert share(with_sky, colour_of(name)) > 0.02
    assert share(with_sky, colour_of("sky")) > 0.01 and share(without, colour_of("sky")) == 0
    assert share(with_sky, "#000000", GREY / pictures.STRENGTH) == 0  # the background is not coloured


def test_ignored_pixels_are_hatched(tmp_path):
    image, truth, _ = class_maps()
    file = tmp_path / "a.png"
    dark = []
    for value in (255, 0):
        truth[:, 20:] = value
        pictures.draw_classes([image], [truth], [np.zeros_like(truth)], NAMES, file)
        dark.append((np.abs(pixels(file) - [0x2D, 0x37, 0x48]).max(axis=-1) < 40).mean())
    assert dark[0] > dark[1] + 0.005


def test_prediction_alone_with_the_shares_of_its_classes(tmp_path, monkeypatch):
    image, _, prediction = class_maps()
    prediction[prediction == 255] = 0
    labels = []
    wrapped = pictures._wrapped
    monkeypatch.setattr(pictures, "_wrapped", lambda name: labels.append(wrapped(name)) or labels[-1])
    pictures.draw_classes([image], None, [prediction], NAMES, tmp_path / "a.png")
    assert labels == ["background", "road", "car"]  # sky is nowhere
    pictures.draw_classes([image] * 3, None, [prediction] * 3, [*NAMES, *map(str, range(250))], tmp_path / "b.png")


def test_a_long_legend_ends(tmp_path):
    labels = (np.arange(40 * 60).reshape(40, 60) % 100).astype(np.uint8)
    names = [f"class {n}" for n in range(100)]
    pictures.draw_classes([class_maps()[0]], [labels], [labels], names, tmp_path / "a.png")
    assert pixels(tmp_path / "a.png").shape[0] < 800


def test_every_class_has_its_own_colour():
    names = [f"{n}" for n in range(256)]
    colours = pictures.class_colours(names)
    assert colours.shape == (256, 3) and colours.dtype == np.uint8 and len(np.unique(colours, axis=0)) == 256
    first = [tuple(round(255 * part) for part in to_rgb(name)) for name in pictures.COLOURS]
    assert [tuple(row) for row in colours[:7].tolist()] == first
    near = np.abs(colours[:20, None].astype(int) - colours[None, :20]).sum(axis=-1) + 999 * np.eye(20)
    assert near.min() > 80  # two of Okabe and Ito's differ by 82
    assert (pictures.class_colours(["background", "cat"]) == [[0, 0, 0], first[0]]).all()
    assert pictures.class_colours([]).shape == (0, 3)


def test_no_image_of_classes_is_one_clear_error(tmp_path):
    with pytest.raises(UserError, match="no image to draw"):
        pictures.draw_classes([], [], [], NAMES, tmp_path / "a.png")
    image, truth, _ = class_maps()
    with pytest.raises(UserError, match=r"nowhere/a.png cannot be written"):
        pictures.draw_classes([image], [truth], [truth % 4], NAMES, tmp_path / "nowhere" / "a.png")
