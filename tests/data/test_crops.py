import ml_collections
import numpy as np
import pytest
from PIL import Image
from torchvision_stub import import_torchvision

from jaxdino.core.errors import UserError
from jaxdino.core.resize import Resize
from jaxdino.data import crops as ours
from jaxdino.data.channels import Reading
from jaxdino.data.presets import get_preset
from jaxdino.data.reader import Crops, Reader

SHAPES = [(256, 256), (300, 400), (533, 400), (97, 411), (31, 17), (224, 640), (8, 8)]


def noise(height, width):
    rng = np.random.default_rng(height * 1000 + width)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8))


@pytest.fixture(scope="module")
def tv():
    return import_torchvision().transforms


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("size", "resize", "crop_pct"), [(224, 256, 0.875), (96, 96, 1.0), (224, 248, 0.9)])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_eval_crop_is_resize_and_center_crop(tv, shape, size, resize, crop_pct, interpolation):
    mode = tv.InterpolationMode(interpolation)
    expected = tv.CenterCrop(size)(tv.Resize(resize, mode)(noise(*shape)))
    found = ours.eval_crop(noise(*shape), (size, size), Resize(crop_pct, interpolation))
    assert np.array_equal(np.asarray(found), np.asarray(expected))


@pytest.mark.parametrize("shape", SHAPES)
def test_eval_crop_of_other_than_square_size(shape):
    width, height = Resize(0.8).shape(shape[1], shape[0], (64, 128))
    assert (height == 80 and width >= 160) or (width == 160 and height >= 80)
    assert ours.eval_crop(noise(*shape), (64, 128), Resize(0.8)).size == (128, 64)


def test_resize_side_is_timms_floor():
    assert Resize(0.95).shape(400, 400, (224, 224)) == (235, 235)
    assert Resize(224 / 230).shape(400, 400, (224, 224)) == (230, 230)


class TorchDraws:
    """The draws that torchvision makes, under the names numpy has for them."""

    def __init__(self, seed):
        import torch

        self.torch = torch
        torch.manual_seed(seed)

    def uniform(self, low, high):
        return self.torch.empty(1).uniform_(low, high).item()

    def integers(self, high):
        return self.torch.randint(0, high, (1,)).item()


@pytest.mark.parametrize("shape", [*SHAPES, (20, 400), (400, 20)])
@pytest.mark.parametrize("scale", [(0.08, 1.0), (0.9, 1.0), (1.5, 2.0)])
def test_random_crop_boxes_are_torchvisions(tv, shape, scale):
    import torch

    ratio = (3 / 4, 4 / 3)
    for seed in range(20):
        torch.manual_seed(seed)
        top, left, height, width = tv.RandomResizedCrop.get_params(noise(*shape), scale, ratio)
        box = ours.random_crop_box(shape[1], shape[0], scale, ratio, TorchDraws(seed))
        assert box == (left, top, left + width, top + height)


def test_resized_crop_is_torchvisions(tv):
    image = noise(120, 90)
    mode = tv.InterpolationMode.BICUBIC
    expected = tv.functional.resized_crop(image, 10, 5, 70, 60, [32, 48], mode)
    found = ours.resized_crop(image, image.size, (5, 10, 65, 80), (32, 48), "bicubic")
    assert np.array_equal(np.asarray(found), np.asarray(expected))


def test_draft_scale_keeps_the_crop_large_enough():
    assert ours.draft_scale((0, 0, 223, 999), (224, 224)) == 1
    assert ours.draft_scale((10, 10, 458, 700), (224, 224)) == 2
    assert ours.draft_scale((0, 0, 1000, 1000), (224, 224)) == 4
    assert ours.draft_scale((0, 0, 9000, 9000), (64, 32)) == 8


def test_a_drafted_crop_looks_like_the_full_one(tmp_path):
    rows, columns = np.mgrid[:400, :600] / 600
    smooth = np.stack([np.sin(9 * rows), np.cos(7 * columns), np.sin(5 * rows * columns)], -1) * 127 + 128
    path = str(tmp_path / "x.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(smooth.astype(np.uint8)).save(path, quality=95, exif=exif)
    crops = []
    for draft in (False, True):
        view = get_preset({"scale": (0.3, 0.9), "ratio": (0.75, 1.33)})
        read = Reader({"image": Crops((48, 40), (view,))}, (), Resize(), Reading(), draft)
        crops.append(read.read({"image": path, "index": 0}, np.random.default_rng(4))["image"].astype(float))
    assert crops[0].shape == (48, 40, 3)
    assert not np.array_equal(*crops)
    assert np.abs(crops[0] - crops[1]).mean() < 2


def test_presets():
    assert get_preset({"vflip": 0.5}).hflip == 0
    assert get_preset({"base": "light", "vflip": 0.5}).hflip == 0.5
    assert get_preset({"base": "light", "scale": None}).scale is None
    changed = get_preset("light, vflip=0.5,scale=(0.2, 1),warp=0.1")
    assert changed == get_preset({"base": "light", "vflip": 0.5, "scale": (0.2, 1.0), "warp": 0.1})
    with pytest.raises(UserError, match="'half' is not a value for vflip"):
        get_preset("light,vflip=half")
    assert get_preset(ml_collections.ConfigDict({"base": "light", "blur_prob": 1.0})).blur_prob == 1
    with pytest.raises(UserError, match="unknown preset 'lihgt'; nearest: light"):
        get_preset("lihgt")
    with pytest.raises(UserError, match="augment has no field 'mixpu'; nearest: mixup"):
        get_preset({"mixpu": 1})
    with pytest.raises(UserError, match=r"augment has count=2: a stage has one view"):
        get_preset({"count": 2})
    assert get_preset("medium") == get_preset("standard")
    with pytest.raises(UserError, match="unknown interpolation 'cubic'; nearest: bicubic"):
        ours.get_filter("cubic")
