import dataclasses
import json

import numpy as np
import pytest
from PIL import Image
from torchvision_stub import import_torchvision

from jaxdino.core.errors import UserError
from jaxdino.core.resize import Resize
from jaxdino.data.channels import Reading
from jaxdino.data.checks import open_image
from jaxdino.data.crops import random_crop_box, resized_crop, turned_crop
from jaxdino.data.decoder import PILLOW
from jaxdino.data.fields import LABEL, HiddenPatches
from jaxdino.data.masking import Masking
from jaxdino.data.pipeline import make_train_iter
from jaxdino.data.reader import Crops, Reader
from jaxdino.data.recipe import DINO, View, expanded
from jaxdino.data.record import Split
from jaxdino.data.sources import load_source

FAST = {"num_threads": 0}
SMALL = (View(size=32, count=2), View("local", 16, (0.05, 0.4), count=3))
MASKING = Masking(patch=8)


@pytest.fixture(scope="module")
def digits():
    return load_source({"name": "digits"}).split("train")


def batches_of(split, cfg=FAST, **options):
    options = {"seed": 5, "batch_size": 8, "views": SMALL} | options
    if (masking := options.pop("masking", MASKING)) is not None:
        options["fields"] = (LABEL, hidden(Masking.of(masking), options["batch_size"]))
    return make_train_iter(split, cfg, **options)


def hidden(masking, batch_size):
    grid = masking.grid(32)
    return HiddenPatches(masking, masking.counts(batch_size, grid, 2), grid)


def take(batches, count):
    return [next(batches) for _ in range(count)]


def same(first, second):
    return len(first) == len(second) and all(
        a.keys() == b.keys() and all(np.array_equal(a[key], b[key]) for key in a)
        for a, b in zip(first, second, strict=True)
    )


def photograph(width=320, height=240, seed=0):
    """An image with large and small structure."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (9, 12, 3), np.uint8)).resize((width, height), 3)
    noise = rng.normal(0, 12, (height, width, 3))
    return np.clip(np.asarray(coarse) + noise, 0, 255).astype(np.uint8)


def test_batch_layout(digits):
    batch = next(batches_of(digits))
    assert {key: (value.dtype.name, value.shape) for key, value in batch.items()} == {
        "global": ("uint8", (8, 2, 32, 32, 3)),
        "local": ("uint8", (8, 3, 16, 16, 3)),
        "mask": ("bool", (8, 2, 4, 4)),
        "label": ("int32", (8,)),
        "weight": ("float32", (8,)),
        "index": ("int64", (8,)),
        "place": ("int32", (8,)),
    }
    assert np.array_equal(batch["label"], digits.labels[batch["index"]])
    assert batch["weight"].tolist() == [1] * 8
    crops = [crop.tobytes() for kind in ("global", "local") for row in batch[kind] for crop in row]
    assert len(set(crops)) > 30  # some of 2 x 2 pixels are alike


def test_locals_and_masks_may_be_left_out(digits):
    without = dataclasses.replace(SMALL[1], count=0)
    batch = next(batches_of(digits, views=[SMALL[0], without], masking=None))
    assert batch.keys() == {"global", "label", "weight", "index", "place"}
    assert np.array_equal(batch["global"], next(batches_of(digits, views=SMALL[:1]))["global"])


@pytest.mark.parametrize("cfg", [{"num_threads": 3}, {"num_workers": 2, "num_threads": 1}])
def test_resume_is_exact_whatever_the_threads_and_workers(digits, cfg):
    batches, reference = batches_of(digits, cfg), batches_of(digits)
    assert same(take(batches, 4), take(reference, 4))
    state = json.loads(json.dumps(batches.state()))
    expected = take(reference, 3)
    assert same(take(batches, 3), expected)
    batches.restore(state)
    assert same(take(batches, 3), expected)
    batches.close()
    again = batches_of(digits)
    again.restore(state)
    assert same(take(again, 3), expected)
    with pytest.raises(UserError, match="seed = 5, this run 6"):
        batches_of(digits, seed=6).restore(state)


def test_crops_and_masks_follow_the_seed_and_differ_between_epochs():
    split = Split("train", [photograph()] * 4, {"label": np.zeros(4, np.int32)}, ("a",))
    batches = batches_of(split, batch_size=4)
    assert batches.steps_per_epoch == 1
    first, second = take(batches, 2)
    other = next(batches_of(split, batch_size=4, seed=6))
    crops = [crop.tobytes() for batch in (first, second, other) for crop in batch["global"].reshape(-1, 32, 32, 3)]
    assert len(set(crops)) == 24
    assert not np.array_equal(first["mask"], second["mask"])
    np.random.seed(0)
    assert same([first], [next(batches_of(split, batch_size=4))])


def test_hosts_share_each_global_batch(digits):
    whole = take(batches_of(digits), 3)
    hosts = [batches_of(digits, process_index=i, process_count=2) for i in range(2)]
    for batch in whole:
        parts = [next(host) for host in hosts]
        for key, value in batch.items():
            assert np.array_equal(value, np.concatenate([part[key] for part in parts])), key


def test_masks_follow_the_place_in_the_batch(digits):
    expected = MASKING.counts(8, (4, 4), 2)
    for batch in take(batches_of(digits), 200)[::20]:  # beyond the first epoch too
        hidden = batch["mask"].sum(axis=(2, 3))
        assert np.array_equal(-np.sort(-hidden, axis=1), expected)


def bad_split(tmp_path):
    good, empty, text = (str(tmp_path / name) for name in ("good.png", "empty.png", "text.jpg"))
    Image.new("RGB", (9, 9), (200, 0, 0)).save(good)
    open(empty, "wb").close()
    with open(text, "w") as file:
        file.write("hello")
    return Split("train", [good, empty, good, text], {"label": np.zeros(4, np.int32)}, (), str(tmp_path))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_bad_images_are_black_named_and_counted(tmp_path, num_workers):
    batches = batches_of(bad_split(tmp_path), {"num_workers": num_workers}, batch_size=4)
    for batch in take(batches, 2):
        order = np.argsort(batch["index"])
        assert batch["weight"][order].tolist() == [1, 0, 1, 0]
        for kind in ("global", "local"):
            assert batch[kind].max(axis=(1, 2, 3, 4))[order].tolist() == [200, 0, 200, 0]
        assert (batch["mask"].sum(axis=(1, 2, 3)) > 0).all()
    batches.close()
    assert batches.bad.report() == (
        "2 bad image(s) skipped in train: empty.png (the file is empty), text.jpg (not an image Pillow knows)"
    )
    with pytest.raises(UserError, match=r"bad image (empty|text)\."):
        next(batches_of(bad_split(tmp_path), {"on_bad": "stop"}, batch_size=4))


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (50, 1), (2, 3), (8, 8)])
def test_tiny_images_give_crops_too(shape):
    split = Split("train", [np.full((*shape, 3), 90, np.uint8)] * 2, {"label": np.zeros(2, np.int32)}, ())
    turned = [dataclasses.replace(view, degrees=180.0) for view in SMALL]
    for views in (SMALL, turned):
        batch = next(batches_of(split, batch_size=2, views=views))
        assert (batch["global"] == 90).all() and (batch["local"] == 90).all()


def crops_of(record, views, draft=True, seed=3):
    views = [dataclasses.replace(view, hflip=0.0) for view in views]
    kinds = {kind: expanded(views, kind) for kind in ("global", "local") if expanded(views, kind)}
    crops = {kind: Crops((found[0].size,) * 2, found, several=True) for kind, found in kinds.items()}
    reader = Reader(crops, (), Resize(), Reading(), draft)
    return reader.read({"image": record, "index": 0}, np.random.default_rng(seed))


def test_crops_are_torchvisions():
    """The same boxes, drawn in the same order, cut and resized by torchvision."""
    functional = import_torchvision().transforms.functional
    record, rng = photograph(500, 375), np.random.default_rng(3)
    found = crops_of(record, DINO)
    for kind in ("global", "local"):
        for ours, view in zip(found[kind], expanded(DINO, kind), strict=True):
            left, top, right, bottom = random_crop_box(500, 375, view.scale, view.ratio, rng)
            share = (right - left) * (bottom - top) / (500 * 375)
            assert view.scale[0] * 0.98 < share < view.scale[1] * 1.02
            box = (top, left, bottom - top, right - left)
            bicubic = functional.InterpolationMode.BICUBIC
            size = (view.size, view.size)
            theirs = functional.resized_crop(Image.fromarray(record), *box, size, bicubic)
            assert np.array_equal(ours, np.asarray(theirs))


def difference(first, second):
    """Root mean square in levels, over all crops."""
    return np.sqrt(np.mean([np.square(first[k].astype(float) - second[k]).mean() for k in first]))


def test_a_large_jpeg_is_decoded_smaller_only_where_every_crop_stays_large(tmp_path, monkeypatch):
    path, parts = str(tmp_path / "large.jpg"), []
    Image.fromarray(photograph(1600, 1200)).save(path, quality=95)

    def spying(record, reading, draft, decoder):
        return open_image(record, reading, lambda full: parts.append(draft(full)) or parts[-1], decoder)

    monkeypatch.setattr("jaxdino.data.reader.open_image", spying)
    views = (View(size=64, count=2), View("local", 32, (0.05, 0.4), count=4))
    small, whole = crops_of(path, views), crops_of(path, views, draft=False)
    assert [part.scale for part in parts] == [8, 1]
    assert difference(small, whole) < 4 and small["local"].std() > 20
    one_small_crop = (*views, View("local", 32, (1e-3, 1e-3)))
    crops_of(path, one_small_crop)
    assert parts[-1].scale == 1


def test_large_crops_are_nearly_those_of_the_full_filter(monkeypatch):
    record, views = photograph(1600, 1200), (View(size=64, count=2), View("local", 32, (0.05, 0.4), count=4))
    quick = crops_of(record, views)
    monkeypatch.setattr("jaxdino.data.random_geometry.REDUCING_GAP", None)
    full = crops_of(record, views)
    assert not np.array_equal(quick["global"], full["global"])
    assert difference(quick, full) < 1


def test_a_turned_jpeg_is_cropped_upright(tmp_path):
    path = str(tmp_path / "turned.jpg")
    upright = photograph(300, 500)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    Image.fromarray(np.ascontiguousarray(np.rot90(upright))).save(path, quality=98, exif=exif)
    views = (View(size=64, count=2, scale=(0.5, 1.0)),)
    assert difference(crops_of(path, views), crops_of(upright, views)) < 4


def levels_away(first, second):
    return np.abs(np.asarray(first).astype(float) - np.asarray(second))


@pytest.mark.parametrize("degrees", [-170.0, -30.0, 12.0, 90.0])
def test_a_turned_crop_is_cut_from_torchvisions_rotated_image(degrees):
    functional = import_torchvision().transforms.functional
    image, box = Image.fromarray(photograph(400, 300)), (140, 90, 260, 210)
    modes = functional.InterpolationMode
    middle = [(box[0] + box[2]) / 2, (box[1] + box[3]) / 2]
    rotated = functional.rotate(image, degrees, modes.BICUBIC, center=middle)
    for size in ((120, 120), (30, 40), (150, 130)):
        found = turned_crop(image, image.size, box, size, "bicubic", None, degrees=degrees)
        expected = resized_crop(rotated, image.size, box, size, "bicubic")
        straight = resized_crop(image, image.size, box, size, "bicubic")
        assert levels_away(found, expected).mean() < 4 < 20 < levels_away(straight, expected).mean()


def test_a_crop_turned_by_nothing_is_the_crop():
    image, box = Image.fromarray(photograph(400, 300)), (100, 50, 220, 140)
    for size, most in (((90, 120), 0), ((45, 60), 6)):  # the filter also looks at what lies beside the box
        found = turned_crop(image, image.size, box, size, "bicubic", None, degrees=0.0)
        assert levels_away(found, resized_crop(image, image.size, box, size, "bicubic")).max() <= most


def test_a_quarter_turn_of_a_whole_image_and_what_lies_beyond_its_edges():
    image = Image.fromarray(photograph(60, 60))
    turned = turned_crop(image, image.size, (0, 0, 60, 60), (60, 60), "bicubic", None, degrees=90.0)
    assert levels_away(turned, image.rotate(90)).max() <= 1
    half = np.zeros((40, 40, 3), np.uint8)
    half[:, 20:] = 200
    whole = (Image.fromarray(half), (40, 40), (0, 0, 40, 40), (40, 40), "bicubic", None)
    found = np.asarray(turned_crop(*whole, degrees=45.0))
    assert (found[-1, 0] == 0).all() and (found[0, -1] == 200).all()


def test_angles_are_drawn_evenly_and_leave_the_boxes_alone(monkeypatch):
    drawn = []

    def noting(*crop, degrees, **others):
        drawn.append(degrees)
        assert others.pop("decoder") == PILLOW
        assert set(others.values()) == {None}
        return resized_crop(*crop)

    monkeypatch.setattr("jaxdino.data.geometry.turned_crop", noting)
    record, turned = photograph(), (SMALL[0], dataclasses.replace(SMALL[1], degrees=20.0))
    for seed in range(200):
        found, expected = crops_of(record, turned, seed=seed), crops_of(record, SMALL, seed=seed)
        assert all(np.array_equal(found[kind], expected[kind]) for kind in found)
    assert len(drawn) == 600
    np.testing.assert_allclose(np.quantile(drawn, np.linspace(0, 1, 11)), np.linspace(-20, 20, 11), atol=3)


def test_turned_crops_of_a_jpeg_decoded_smaller(tmp_path):
    path = str(tmp_path / "large.jpg")
    Image.fromarray(photograph(1600, 1200)).save(path, quality=95)
    views = (View(size=64, count=2, degrees=30.0), View("local", 32, (0.05, 0.4), count=4, degrees=180.0))
    small, whole = crops_of(path, views), crops_of(path, views, draft=False)
    assert difference(small, whole) < 4 and small["local"].std() > 20
    assert difference(small, crops_of(path, [dataclasses.replace(view, degrees=0.0) for view in views])) > 20


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 2000}, "batch_size 2000 is larger than the 1079 images of train; set it to 1079"),
        ({"batch_size": 0}, "batch_size 0 must be"),
        ({"batch_size": 9, "process_count": 2}, r"multiple of the 2 host\(s\)"),
        ({"views": SMALL[1:]}, "at least 2"),
        ({"masking": {"patch": 7}}, "32 pixels are not a whole number of 7-pixel patches; try 35"),
        ({"masking": {"prb": 1}}, "nearest: prob"),
        ({"resize": Resize(interpolation="cubic")}, "nearest: bicubic"),
    ],
)
def test_errors(digits, options, message):
    with pytest.raises(UserError, match=message):
        batches_of(digits, **options)
