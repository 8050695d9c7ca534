"""Batches by aspect ratio and of several sizes: every image once, the same on all hosts, exact after a pause."""

import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image, ImageFile

from jaxdino.core.errors import UserError
from jaxdino.core.image_sizes import Sizes
from jaxdino.core.resize import Resize
from jaxdino.data.aspect import EpochOrder, groups_of
from jaxdino.data.dimensions import dimensions
from jaxdino.data.pipeline import make_train_iter
from jaxdino.data.random_geometry import drawn
from jaxdino.data.recipe import View
from jaxdino.data.record import Split

RATIOS = (0.5, 1.0, 2.0)
WIDTHS = [(6, 12, 24)[i % 3] for i in range(47)]  # of images 12 pixels high
SIZES = Sizes(((0, (16, 16)), (1, (24, 24))), (), RATIOS, 4)
SCALES = Sizes(((0, (16, 16)),), ((12, 12), (16, 16)), RATIOS, 4)
FITTED = {16: [(24, 12), (16, 16), (12, 24)], 24: [(32, 16), (24, 24), (16, 32)]}


@pytest.fixture(scope="module")
def split():
    rng = np.random.default_rng(0)
    records = [rng.integers(0, 256, (12, width, 3), np.uint8) for width in WIDTHS]
    return Split("train", records, {"label": np.arange(47, dtype=np.int32) % 4}, tuple("abcd"))


def train(split, sizes=SIZES, cfg=None, **how):
    given = dict(seed=3, batch_size=6, sizes=sizes, shapes=dimensions(split)) | how
    return make_train_iter(split, cfg or {"num_threads": 0}, **given)


def same(first, second):
    return all(
        a.keys() == b.keys() and all(np.array_equal(a[key], b[key]) for key in a)
        for a, b in zip(first, second, strict=True)
    )


def take(batches, count):
    return [next(batches) for _ in range(count)]


def test_each_image_once_an_epoch_in_batches_of_its_shape(split):
    batches, left, crossing = train(split), [], 0
    assert batches.steps_per_epoch == 7  # as without groups
    for epoch in range(3):
        seen = []
        for batch in take(batches, 7):
            shape = batch["image"].shape[1:3]
            group = FITTED[16 if epoch == 0 else 24].index(shape)
            own = [WIDTHS.index(WIDTHS[row]) for row in batch["index"]]  # 0, 1, 2: the group
            assert np.median(own) == group or own.count(group) == 3
            crossing += len(own) - own.count(group)
            seen += batch["index"].tolist()
            assert batch["label"].tolist() == [row % 4 for row in batch["index"]]
        assert len(seen) == len(set(seen)) == 42
        left.append(set(range(47)) - set(seen))
    assert left[0] != left[1] and crossing <= 3 * 2 * 3  # two batches an epoch, half of each at most


def test_an_epoch_has_another_order(split):
    batches = train(split)
    first, second = ([tuple(batch["index"]) for batch in take(batches, 7)] for _ in range(2))
    assert first != second and [len(set(one)) for one in first] == [6] * 7


@pytest.mark.parametrize("sizes", [SIZES, SCALES, Sizes(SIZES.schedule), Sizes(SCALES.schedule, SCALES.scales)])
@pytest.mark.parametrize("cfg", [{"num_threads": 3}, {"num_workers": 1}])
def test_batches_do_not_depend_on_threads_workers_or_pauses(split, sizes, cfg):
    expected = take(train(split, sizes), 12)
    assert len({batch["image"].shape for batch in expected}) > 1
    batches = train(split, sizes, cfg)
    assert same(take(batches, 5), expected[:5])
    state = json.loads(json.dumps(batches.state()))
    batches.close()
    again = train(split, sizes)
    again.restore(state)
    assert same(take(again, 7), expected[5:])
    with pytest.raises(UserError, match="saved data position has sizes"):
        train(split, Sizes(SIZES.schedule, ratios=(1.0, 2.0))).restore(state)


def test_hosts_have_the_same_size_in_each_step(split):
    whole = take(train(split, SCALES), 9)
    hosts = [train(split, SCALES, process_index=i, process_count=2) for i in range(2)]
    for batch in whole:
        parts = [next(host) for host in hosts]
        for key, value in batch.items():
            assert np.array_equal(value, np.concatenate([part[key] for part in parts]))


def test_a_size_for_each_batch_does_not_change_which_images_it_has(split):
    plain = train(split, sizes=None, shapes=None, image_size=16)
    drawn = train(split, Sizes(((0, (16, 16)),), ((12, 12), (16, 16))), shapes=None)
    for one, other in zip(take(plain, 14), take(drawn, 14), strict=True):
        assert np.array_equal(one["index"], other["index"])
        if other["image"].shape == one["image"].shape:
            assert np.array_equal(one["image"], other["image"])


def test_classes_are_drawn_as_often_as_the_sampling_says():
    labels = np.array([0] * 40 + [1] * 8, np.int32)
    how = dict(batch_size=4, total=48, seed=1)
    order = EpochOrder(np.arange(48).astype(np.int8) % 3, labels, "balanced", **how)
    counts = Counter()
    for epoch in range(5):
        rows, _ = order[epoch]
        assert np.bincount(labels[rows]).tolist() == [24, 24]
        counts.update(rows.tolist())
    assert {counts[row] for row in range(40)} == {3} and {counts[row] for row in range(40, 48)} == {15}


def test_an_order_is_its_own_after_pickling():
    import pickle

    order = EpochOrder(np.arange(30).astype(np.int8) % 2, np.empty(0), "uniform", batch_size=4, total=28, seed=2)
    other = pickle.loads(pickle.dumps(order))
    for epoch in (5, 0, 3, 5):
        assert all(map(np.array_equal, order[epoch], other[epoch]))


def test_the_nearest_ratio_as_a_factor():
    shapes = np.array([(70, 100), (72, 100), (0, 0), (141, 100), (142, 100), (900, 10)])
    assert groups_of(shapes, RATIOS).tolist() == [0, 1, 1, 1, 2, 2]


def test_an_image_that_cannot_be_read_has_its_batchs_size(split, tmp_path):
    records = [*split.records[:11], str(tmp_path / "none.png")]
    broken = Split("train", records, {"label": np.zeros(12, np.int32)}, ("a",), str(tmp_path))
    assert dimensions(broken)[-1].tolist() == [0, 0]
    batches = train(broken)
    assert sum(batch["weight"].sum() for batch in take(batches, 2)) == 11 and len(batches.bad) == 1


def test_sizes_come_from_headers_upright(tmp_path, monkeypatch):
    image = Image.fromarray(np.zeros((20, 30, 3), np.uint8))
    exif = Image.Exif()
    exif[274] = 6
    image.save(tmp_path / "turned.jpg", exif=exif)
    image.save(tmp_path / "plain.png")
    image.save(tmp_path / "plain.tif")
    np.save(tmp_path / "raw.npy", np.zeros((20, 31, 3), np.uint8))
    (tmp_path / "text.jpg").write_text("no image")
    names = ("turned.jpg", "plain.png", "plain.tif", "raw.npy", "text.jpg")
    records = [*(str(tmp_path / name) for name in names), np.zeros((5, 7), np.uint8)]
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("decoded"))
    found = dimensions(Split("train", records, {}))
    assert found.tolist() == [[20, 30], [30, 20], [30, 20], [31, 20], [0, 0], [7, 5]]
    assert found.dtype == np.int32


@pytest.mark.parametrize("size", [(10, 20), (20, 10), (12, 12)])
def test_a_crop_has_about_the_shape_of_its_result(size):
    view, rng = View(scale=(0.1, 0.3), ratio=(0.9, 1.2)), np.random.default_rng(0)
    boxes = [drawn([view], [size], (300, 300), Resize(), rng)[0].box for _ in range(50)]
    shapes = [(right - left) / (bottom - top) for left, top, right, bottom in boxes]
    own = size[1] / size[0]
    assert 0.88 * own < min(shapes) < 0.95 * own and 1.15 * own < max(shapes) < 1.22 * own
