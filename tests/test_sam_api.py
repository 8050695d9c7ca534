"""SAM's Python face: images of any size, coordinates in their pixels, masks at their size."""

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import jaxdino
from convert.references.sam import StateDictSam
from jaxdino.api.sam import input_size
from jaxdino.core.errors import UserError
from tests.parity import sam_cases
from tests.parity.drawing import draw

FRAME = sam_cases.TINY.image_size
SIZES = ((50, 70), (90, 33))
"""(height, width) of the pictures, longest side across and down."""


def picture(size: tuple[int, int], seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8))


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """Ours, and the original forward pass with the same weights."""
    source = draw(sam_cases.MetaSam())
    sam_cases.prepare(source)
    path = sam_cases.save_meta(source, tmp_path_factory.mktemp("sam"))
    return jaxdino.load(path), StateDictSam(source.state_dict(), source.config)


@pytest.fixture(scope="module")
def model(both):
    return both[0]


@pytest.fixture(scope="module")
def encoded(model):
    return model.encode([picture(SIZES[0])])


def original(net: StateDictSam, image: Image.Image, points, labels, box) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits at the image's size and IoU, in the steps of Meta's predictor: one picture, one prompt."""
    height, width = image.height, image.width
    scale = FRAME / max(height, width)
    inner = tuple(int(side * scale + 0.5) for side in (height, width))
    pixels = torch.from_numpy(np.array(image.resize(inner[::-1], Image.Resampling.BILINEAR))).permute(2, 0, 1)
    mean, std = torch.tensor([123.675, 116.28, 103.53]), torch.tensor([58.395, 57.12, 57.375])
    pixels = (pixels - mean[:, None, None]) / std[:, None, None]
    pixels = F.pad(pixels, (0, FRAME - inner[1], 0, FRAME - inner[0]))[None]
    ratio = torch.tensor([inner[1] / width, inner[0] / height])
    with torch.no_grad():
        _, embedding = net.encode(pixels)
        logits, iou = net.masks(
            embedding,
            points=(torch.tensor(points) * ratio)[None, None].float(),
            labels=torch.tensor(labels)[None, None],
            boxes=(torch.tensor(box).reshape(2, 2) * ratio).reshape(1, 1, 4).float(),
            multimask=True,
        )
    large = F.interpolate(logits[0], (FRAME, FRAME), mode="bilinear")[..., : inner[0], : inner[1]]
    return F.interpolate(large, (height, width), mode="bilinear")[0], iou[0, 0]


@pytest.mark.parametrize("size", SIZES)
def test_masks_lie_where_the_original_puts_them(both, size):
    model, net = both
    image = picture(size)
    points, labels, box = [[5.0, 7.0], [30.0, 44.0]], [1, 0], [2.0, 3.0, 31.0, 41.0]
    encoded = model.encode([image])
    logits, iou = model.masks(encoded, points=points, labels=labels, boxes=box)
    large, quality = original(net, image, points, labels, box)
    assert logits.shape == (1, 1, 3, 32, 32)
    ours = model.upscale(logits, encoded)[0, 0]
    assert ours.shape == (3, *size)
    np.testing.assert_allclose(ours, large, atol=1e-5 * float(large.abs().max()))
    np.testing.assert_allclose(iou[0, 0], quality, atol=1e-5 * float(quality.abs().max()))


def test_pictures_of_different_sizes_in_one_call(model):
    pictures = [picture(size, seed) for seed, size in enumerate(SIZES)]
    together = model.encode(pictures)
    assert len(together) == 2 and together.original_sizes == SIZES
    assert together.input_sizes == tuple(input_size(size, FRAME) for size in SIZES) == ((46, 64), (64, 23))
    boxes = np.array([[[1, 2, 30, 40], [5, 5, 9, 9]], [[3, 1, 20, 80], [0, 0, 33, 90]]])
    logits, _ = model.masks(together, boxes=boxes, multimask=False)
    large = model.upscale(logits, together)
    assert [x.shape for x in large] == [(2, 1, *size) for size in SIZES]
    for n, image in enumerate(pictures):
        alone = model.encode([image])
        apart, _ = model.masks(alone, boxes=boxes[n], multimask=False)
        np.testing.assert_allclose(apart[0], logits[n], atol=1e-4)
        np.testing.assert_allclose(model.upscale(apart, alone)[0], large[n], atol=1e-4)


def test_pixels_and_pictures_are_the_same(model):
    image = picture(SIZES[0])
    np.testing.assert_array_equal(model.encode(np.asarray(image)[None]).embedding, model.encode([image]).embedding)


def test_leading_axes_may_be_left_out(model, encoded):
    whole, _ = model.masks(encoded, points=np.full((1, 1, 2, 2), 9.0), labels=np.ones((1, 1, 2), int))
    for axes in (1, 2):
        points, labels = np.full((1, 1, 2, 2)[axes:], 9.0), np.ones((1, 1, 2)[axes:], int)
        np.testing.assert_array_equal(model.masks(encoded, points=points, labels=labels)[0], whole)


def test_a_mask_can_be_the_next_prompt(model, encoded):
    logits, _ = model.masks(encoded, boxes=[[1, 1, 20, 30], [4, 4, 60, 40]])
    again, iou = model.masks(encoded, boxes=[[1, 1, 20, 30], [4, 4, 60, 40]], masks=logits[:, :, 0])
    assert again.shape == (1, 2, 3, 32, 32) and iou.shape == (1, 2, 3)
    alone, _ = model.masks(encoded, masks=logits[0, 0, 0], multimask=False)
    assert alone.shape == (1, 1, 1, 32, 32)


def test_another_frame(model):
    encoded = model.encode([picture(SIZES[0])], frame=96)
    assert encoded.embedding.shape == (1, 12, 12, 32) and encoded.input_sizes == ((69, 96),)
    logits, _ = model.masks(encoded, boxes=[1, 1, 20, 30])
    assert logits.shape == (1, 1, 3, 48, 48) and model.upscale(logits, encoded).shape == (1, 1, 3, 50, 70)
    with pytest.raises(UserError, match="multiple of the patch size"):
        model.encode([picture(SIZES[0])], frame=100)


MISTAKES = {
    "there is no prompt": {},
    "points are given without labels": {"points": [[1, 2]]},
    "labels are given without points": {"labels": [1], "boxes": [1, 2, 3, 4]},
    "labels hold 2; known are": {"points": [[1, 2]], "labels": [2]},
    "labels have the shape (2,)": {"points": [[1, 2]], "labels": [1, 1]},
    "points have the shape (2,)": {"points": [1, 2], "labels": 1},
    "points have the shape (1, 3)": {"points": [[1, 2, 3]], "labels": [1]},
    "point 1 of prompt 0 lies at x=71, y=2, outside image 0, which is 70 wide": {
        "points": [[1, 2], [71, 2]],
        "labels": [1, 0],
    },
    "points hold NaN": {"points": [[1, float("nan")]], "labels": [1]},
    "ends before it begins": {"boxes": [10, 10, 5, 20]},
    "x1=1, y1=1, x2=5, y2=51, lies outside": {"boxes": [1, 1, 5, 51]},
    "boxes have the shape (3,)": {"boxes": [1, 2, 3]},
    "points are for 1 prompts and boxes for 2": {
        "points": [[1, 2]],
        "labels": [1],
        "boxes": [[1, 1, 2, 2], [1, 1, 2, 2]],
    },
    "masks have the shape (16, 16)": {"masks": np.zeros((16, 16))},
    "masks are for 3 prompts and boxes for 2": {"boxes": [[1, 1, 2, 2]] * 2, "masks": np.zeros((3, 32, 32))},
}


@pytest.mark.parametrize("message", MISTAKES)
def test_mistakes_are_named(model, encoded, message):
    with pytest.raises(UserError, match=re.escape(message)):
        model.masks(encoded, **MISTAKES[message])


def test_points_that_are_none_may_lie_anywhere(model, encoded):
    logits, _ = model.masks(encoded, points=[[1, 2], [-9, 999]], labels=[1, -1])
    assert np.isfinite(logits).all()


def test_files_pictures_and_pixels_are_the_same(model, encoded, tmp_path):
    image = picture(SIZES[0])
    image.save(tmp_path / "a.png")
    mixed = model.encode([tmp_path / "a.png", str(tmp_path / "a.png"), np.asarray(image)], frame=np.int64(FRAME))
    assert mixed.original_sizes == encoded.original_sizes * 3
    np.testing.assert_allclose(mixed.embedding, np.repeat(encoded.embedding, 3, axis=0), atol=1e-5)


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (picture(SIZES[0]), r"encode takes a list of PIL images.*encode\(\[image\]\)"),
        ("a.png", r"encode\(\[image\]\)"),
        (np.zeros((8, 8, 3), np.uint8), r"encode\(\[image\]\)"),
        (None, "not None"),
        (7, "not a int"),
        ([], "there is none"),
        ([None], "image 0 is None"),
        (np.zeros((1, 0, 8, 3), np.uint8), r"image 0 is an array of uint8 and shape \(0, 8, 3\)"),
        (["nowhere.png"], "nowhere.png: there is no such file"),
        ([Image.new("RGB", (8, 8)), "."], "image 1, ., is a folder"),
        (torch.zeros(1, 3, 8, 8), r"np\.asarray\(tensor\.permute\(0, 2, 3, 1\)\)"),
        ([torch.zeros(3, 8, 8)], r"np\.asarray\(tensor\.permute\(1, 2, 0\)\)"),
    ],
)
def test_what_is_no_list_of_images_is_one_clear_error(model, images, words):
    with pytest.raises(UserError, match=words):
        model.encode(images)


@pytest.mark.parametrize("frame", [100, 0, True, 96.0, "96"])
def test_the_frame_is_a_multiple_of_the_patch_size(model, frame):
    with pytest.raises(UserError, match="give a multiple of the patch size"):
        model.encode([picture(SIZES[0])], frame=frame)


def test_other_mistakes(model, encoded):
    with pytest.raises(UserError, match="takes what `encode` gave"):
        model.masks(np.zeros((1, 8, 8, 32)), boxes=[1, 2, 3, 4])
    with pytest.raises(UserError, match="takes what `encode` gave"):
        model.upscale(np.zeros((1, 1, 3, 32, 32)), encoded.embedding)
    with pytest.raises(UserError, match="nothing is left of an image 1 wide and 900 high"):
        model.encode([Image.new("RGB", (1, 900))])
    with pytest.raises(UserError, match="logits have the shape"):
        model.upscale(np.zeros((2, 1, 3, 32, 32)), encoded)
    with pytest.raises(UserError, match="no intermediate layers"):
        model.intermediate_layers(np.zeros((1, 64, 64, 3), np.uint8))
    two = dataclasses.replace(encoded, original_sizes=encoded.original_sizes * 2)
    with pytest.raises(UserError, match="the first form is needed"):
        model.masks(two, boxes=[1, 2, 3, 4])


def test_the_example_of_the_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (Path(__file__).parent.parent / "docs" / "sam.md").read_text()
    names: dict = {}
    for block in re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL):
        exec(compile(block, "docs/sam.md", "exec"), names)
    assert names["mask"].shape == (3, 48, 64)
