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
