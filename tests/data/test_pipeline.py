import json

import numpy as np
import pytest
from PIL import Image

from jaxdino.core.errors import UserError
from jaxdino.core.resize import Resize
from jaxdino.data.pipeline import make_eval_iter, make_train_iter
from jaxdino.data.record import Split
from jaxdino.data.sources import load_source

FAST = {"num_threads": 0}


@pytest.fixture(scope="module")
def digits():
    return load_source({"name": "digits"})


def small_split(count=20):
    records = [np.full((6, 6, 3), i, np.uint8) for i in range(count)]
    return Split("train", records, {"label": np.arange(count, dtype=np.int32) % 3}, ("a", "b", "c"))


def take(batches, count):
    return [next(batches) for _ in range(count)]


def same(first, second):
    return len(first) == len(second) and all(
        a.keys() == b.keys() and all(np.array_equal(a[key], b[key]) for key in a)
        for a, b in zip(first, second, strict=True)
    )


def train(split, cfg=FAST, **options):
    return make_train_iter(split, cfg, **{"seed": 5, "batch_size": 8, "image_size": 12, **options})


def test_batch_layout(digits):
    split = digits.split("train")
    batch = next(train(split, image_size=(12, 16)))
    layout = {key: (value.dtype.name, value.shape) for key, value in batch.items()}
    assert layout == {
        "image": ("uint8", (8, 12, 16, 3)),
        "label": ("int32", (8,)),
        "weight": ("float32", (8,)),
        "index": ("int64", (8,)),
        "place": ("int32", (8,)),
    }
    assert np.array_equal(batch["label"], split.labels[batch["index"]])
    assert batch["weight"].tolist() == [1] * 8


@pytest.mark.parametrize("cfg", [{"num_threads": 3}, {"num_workers": 1}, {"num_workers": 2, "num_threads": 1}])
def test_batches_do_not_depend_on_threads_or_workers(digits, cfg):
    split = digits.split("train")
    batches, reference = train(split, cfg), train(split)
    assert same(take(batches, 5), take(reference, 5))
    state = batches.state()
    expected = take(reference, 3)
    assert same(take(batches, 3), expected)
    batches.restore(json.loads(json.dumps(state)))
    assert same(take(batches, 3), expected)
    batches.close()
    again = train(split, {"num_threads": 2})
    again.restore(state)
    assert same(take(again, 3), expected)


def test_every_epoch_has_another_order_and_other_crops():
    batches = train(small_split(), batch_size=10, image_size=6, preset={"scale": (0.1, 0.5)})
    assert batches.steps_per_epoch == 2
    epochs = [np.concatenate([batch["index"] for batch in take(batches, 2)]).tolist() for _ in range(3)]
    assert all(sorted(epoch) == list(range(20)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]


def test_what_an_epoch_leaves_over_differs():
    batches = train(small_split(), batch_size=6)
    assert batches.steps_per_epoch == 3
    left = []
    for _ in range(4):
        seen = np.concatenate([batch["index"] for batch in take(batches, 3)]).tolist()
        assert len(set(seen)) == 18
        left.append(frozenset(range(20)) - set(seen))
    assert len(set(left)) > 1


def test_crops_of_one_record_differ_between_epochs_and_seeds():
    one = np.random.default_rng(0).integers(0, 256, (60, 60, 3), np.uint8)
    split = Split("train", [one, one], {"label": np.zeros(2, np.int32)}, ("a",))
    crops = [batch["image"][row] for batch in take(train(split, batch_size=2), 4) for row in (0, 1)]
    other = next(train(split, batch_size=2, seed=6))["image"]
    assert len({crop.tobytes() for crop in [*crops, *other]}) == 10


def test_global_state_of_numpy_plays_no_part(digits):
    np.random.seed(1)
    first = next(train(digits.split("train")))
    np.random.seed(2)
    assert same([first], [next(train(digits.split("train")))])


def test_hosts_share_each_global_batch(digits):
    split = digits.split("train")
    whole = take(train(split), 3)
    hosts = [train(split, process_index=i, process_count=2) for i in range(2)]
    for batch in whole:
        parts = [next(host) for host in hosts]
        for key, value in batch.items():
            assert np.array_equal(value, np.concatenate([part[key] for part in parts]))
    hosts[1].restore(train(split).state())  # a position does not depend on the hosts
    assert np.array_equal(next(hosts[1])["image"], whole[0]["image"][len(whole[0]["image"]) // 2 :])


def test_restore_refuses_the_state_of_another_run(digits):
    batches = train(digits.split("train"))
    with pytest.raises(UserError, match="seed = 6, this run 5"):
        batches.restore(train(digits.split("train"), seed=6).state())


def test_eval_gives_every_record_once_and_pads(digits):
    split = digits.split("val")
    batches = make_eval_iter(split, FAST, batch_size=100, image_size=16)
    assert len(batches) == 4
    for _ in range(2):
        seen = list(batches)
        assert [batch["image"].shape for batch in seen] == [(100, 16, 16, 3)] * 4
        index = np.concatenate([batch["index"] for batch in seen])
        assert index.tolist() == [*range(359), *[-1] * 41]
        assert np.concatenate([batch["weight"] for batch in seen]).tolist() == [1] * 359 + [0] * 41
        label = np.concatenate([batch["label"] for batch in seen])
        assert np.array_equal(label[:359], split.labels)
        assert len(batches.bad) == 0


def test_eval_hosts_make_equally_many_batches():
    hosts = [
        list(make_eval_iter(small_split(9), FAST, batch_size=4, image_size=6, process_index=i, process_count=2))
        for i in range(2)
    ]
    assert [len(host) for host in hosts] == [3, 3]
    index = np.concatenate([batch["index"] for host in hosts for batch in host])
    assert sorted(index.tolist()) == [-1, -1, -1, *range(9)]


def test_preset_none_crops_as_evaluation_does(digits):
    split = digits.split("train")
    batch = next(train(split, preset="none"))
    images = {}
    for seen in make_eval_iter(split, FAST, batch_size=64, image_size=12):
        images.update(zip(seen["index"].tolist(), seen["image"], strict=True))
    assert all(np.array_equal(image, images[i]) for i, image in zip(batch["index"], batch["image"], strict=True))


def bad_split(tmp_path):
    good, empty, text = (str(tmp_path / name) for name in ("good.png", "empty.png", "text.jpg"))
    Image.new("RGB", (9, 9), (200, 0, 0)).save(good)
    open(empty, "wb").close()
    with open(text, "w") as file:
        file.write("hello")
    label = np.arange(4, dtype=np.int32)
    return Split("train", [good, empty, good, text], {"label": label}, tuple("abcd"), str(tmp_path))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_bad_images_are_skipped_named_and_counted(tmp_path, num_workers):
    batches = train(bad_split(tmp_path), {"num_workers": num_workers}, batch_size=4)
    for batch in take(batches, 3):
        order = np.argsort(batch["index"])
        assert batch["weight"][order].tolist() == [1, 0, 1, 0]
        assert batch["label"][order].tolist() == [0, 1, 2, 3]
        assert batch["image"].max(axis=(1, 2, 3))[order].tolist() == [200, 0, 200, 0]
    batches.close()
    assert batches.bad.report() == (
        "2 bad image(s) skipped in train: empty.png (the file is empty), text.jpg (not an image Pillow knows)"
    )


def test_bad_images_stop_the_run_by_flag(tmp_path):
    cfg = {"on_bad": "stop"}
    with pytest.raises(UserError, match=r"bad image empty.png: the file is empty\."):
        list(make_eval_iter(bad_split(tmp_path), cfg, batch_size=2, image_size=8))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 21}, "batch_size 21 is larger than the 20 images of train; set it to 20"),
        ({"batch_size": 0}, "positive"),
        ({"batch_size": 9, "process_count": 2}, r"multiple of the 2 host\(s\)"),
        ({"process_index": 2, "process_count": 2}, "process_index 2"),
        ({"preset": "storng"}, "nearest: strong"),
        ({"resize": Resize(interpolation="cubic")}, "nearest: bicubic"),
    ],
)
def test_errors(options, message):
    with pytest.raises(UserError, match=message):
        train(small_split(), **options)
