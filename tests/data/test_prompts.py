import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from jaxdino.core.errors import UserError
from jaxdino.core.resize import Resize
from jaxdino.data import reader
from jaxdino.data.fields import Prompts
from jaxdino.data.mask_reading import FileMask
from jaxdino.data.pipeline import make_eval_iter, make_train_iter
from jaxdino.data.presets import PRESETS, get_preset
from jaxdino.data.prompted import Prompt, in_groups
from jaxdino.data.prompts import PromptConfig
from jaxdino.data.recipe import unmixed
from jaxdino.data.record import Split
from tests.data.pair_folders import Pair, load_pairs

FAST = {"num_threads": 0}
OF_PROMPTS = ("mask", "masked", "asked", "label", "points", "point_labels")
SPATIAL = {"points": 3, "boxes": True, "spatial_prob": 1.0}
FLIPS = {"base": "light", "vflip": 0.5}


@pytest.fixture(scope="module")
def shapes():
    return in_groups(load_pairs({"name": "shapes"}).split("train"), 1)


def fields(split, prompts, slots=1, **more):
    return (Prompts(PromptConfig.of(prompts), slots, len(split.class_names), 2**20, **more),)


def one_each(batch):
    """A batch of one prompt for each image, without the axis of prompts."""
    return {name: value[:, 0] if name in OF_PROMPTS else value for name, value in batch.items()}


class OneEach:
    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        return map(one_each, self.batches)

    def __next__(self):
        return one_each(next(self.batches))

    def __len__(self):
        return len(self.batches)

    def __getattr__(self, name):
        return getattr(self.batches, name)


def train(split, cfg=FAST, prompts=None, **options):
    options = {"seed": 5, "batch_size": 8, "image_size": 48, **options}
    return OneEach(make_train_iter(split, cfg, fields=fields(split, prompts), **options))


def evaluate(split, prompts=None, cfg=FAST, spatial=False, **options):
    options = {"batch_size": 8, "image_size": 48, "resize": Resize(1.0), **options}
    return OneEach(make_eval_iter(split, cfg, fields=fields(split, prompts, spatial=spatial), **options))


def take(batches, count):
    return [next(batches) for _ in range(count)]


def same(first, second):
    return len(first) == len(second) and all(
        a.keys() == b.keys() and all(np.array_equal(a[key], b[key]) for key in a)
        for a, b in zip(first, second, strict=True)
    )


def split_of(*pairs, names=("a", "b", "c"), labels=None, root=None):
    labels = labels or [0] * len(pairs)
    prompts = [(dataclasses.replace(pair.prompt, label=n),) for pair, n in zip(pairs, labels, strict=True)]
    return Split("train", [pair.image for pair in pairs], {"prompts": prompts}, names, root)


def pair_of(image, mask, present=()):
    return Pair(image, Prompt(0, mask, present))


def told(seed=0, size=(40, 60)):
    """An image whose red tells its mask: 200 where it is 1, 50 where 0, 120 where 255."""
    rng = np.random.default_rng(seed)
    mask = np.kron(
        rng.choice(np.array([0, 1, 255], np.uint8), (size[0] // 10, size[1] // 10)), np.ones((10, 10), np.uint8)
    )
    image = np.zeros((*size, 3), np.uint8)
    image[..., 0] = np.choose(np.minimum(mask, 2), (50, 200, 120))
    image[..., 1:] = rng.integers(0, 256, (*size, 2))
    return pair_of(image, mask, (0,))


def agrees(image, mask):
    """Whether the mask is where the image says."""
    return np.array_equal(np.choose(np.minimum(mask, 2), (50, 200, 120)), image[..., 0])


def test_batch_layout(shapes):
    batch = next(train(shapes, prompts=SPATIAL, image_size=(40, 48)))
    assert {key: (value.dtype.name, value.shape) for key, value in batch.items()} == {
        "image": ("uint8", (8, 40, 48, 3)),
        "mask": ("uint8", (8, 40, 48)),
        "masked": ("float32", (8,)),
        "asked": ("float32", (8,)),
        "label": ("int32", (8,)),
        "points": ("float32", (8, 5, 2)),
        "point_labels": ("int32", (8, 5)),
        "weight": ("float32", (8,)),
        "index": ("int64", (8,)),
        "place": ("int32", (8,)),
    }
    prompts = shapes.fields["prompts"]
    assert batch["label"].tolist() == [prompts[index][0].label for index in batch["index"]]
    assert batch["masked"].tolist() == batch["weight"].tolist() == [1] * 8
    assert next(train(shapes)).keys() == batch.keys() - {"points", "point_labels"}
    evaluated = next(iter(evaluate(shapes, SPATIAL, image_size=(40, 48))))
    del batch["place"]  # of training alone
    assert {key: value.dtype for key, value in evaluated.items()} == {key: value.dtype for key, value in batch.items()}


@pytest.mark.parametrize("cfg", [{"num_threads": 3}, {"num_workers": 2, "num_threads": 1}])
def test_resume_is_exact_whatever_the_threads_and_workers(shapes, cfg):
    options = {"prompts": SPATIAL | {"negatives": 0.3}, "preset": FLIPS}
    batches, reference = train(shapes, cfg, **options), train(shapes, **options)
    assert same(take(batches, 4), take(reference, 4))
    state = json.loads(json.dumps(batches.state()))
    expected = take(reference, 3)
    assert same(take(batches, 3), expected)
    batches.restore(state)
    assert same(take(batches, 3), expected)
    batches.close()
    again = train(shapes, **options)
    again.restore(state)
    assert same(take(again, 3), expected)
    with pytest.raises(UserError, match="seed = 5, this run 6"):
        train(shapes, seed=6).restore(state)


def test_hosts_share_each_global_batch(shapes):
    options = {"prompts": SPATIAL, "preset": FLIPS}
    whole = take(train(shapes, **options), 2)
    hosts = [train(shapes, process_index=i, process_count=2, **options) for i in range(2)]
    for batch in whole:
        parts = [next(host) for host in hosts]
        for key, value in batch.items():
            assert np.array_equal(value, np.concatenate([part[key] for part in parts])), key


def test_crops_and_flips_are_of_image_and_mask_together():
    """Nearest for both, so that the image says exactly where its mask is."""
    split = split_of(*[told(seed) for seed in range(8)])
    options = {"preset": FLIPS, "resize": Resize(interpolation="nearest"), "image_size": (32, 40)}
    for batch in take(train(split, **options), 4):
        assert all(agrees(*row) for row in zip(batch["image"], batch["mask"], strict=True))
        assert set(np.unique(batch["mask"])) == {0, 1, 255}
    batch = next(iter(evaluate(split, resize=Resize(0.8, "nearest"))))
    assert all(agrees(*row) for row in zip(batch["image"], batch["mask"], strict=True))


@pytest.mark.parametrize("axis", ["hflip", "vflip"])
def test_flips_mirror_image_and_mask(axis):
    pair = told()
    whole = {"scale": (1.0, 1.0), "ratio": (1.0, 1.0)}
    options = {"image_size": (40, 60), "batch_size": 1}
    plain = next(train(split_of(pair), preset=whole, **options))
    turned = next(train(split_of(pair), preset=whole | {axis: 1.0}, **options))
    assert np.array_equal(plain["mask"][0], pair.prompt.mask)
    for key in ("image", "mask"):
        assert np.array_equal(np.flip(plain[key], 2 if axis == "hflip" else 1), turned[key])


def test_a_jpeg_decoded_smaller_keeps_its_mask_in_place(tmp_path):
    mask = np.zeros((800, 1200), np.uint8)
    mask[200:600, 300:800] = 1
    Image.fromarray(np.repeat(mask[..., None] * np.uint8(255), 3, axis=2)).save(tmp_path / "a.jpg", quality=95)
    split = split_of(*[pair_of(str(tmp_path / "a.jpg"), mask, (0,))] * 8)
    for batch in take(train(split, preset="light", image_size=64), 4):
        off = (batch["image"][..., 0] > 127) != (batch["mask"] == 1)
        assert off.mean() < 0.02 and batch["mask"].any(axis=(1, 2)).all()


def test_preset_none_crops_as_evaluation_does(shapes):
    batch = next(train(shapes, preset="none", resize=Resize(0.8)))
    rows = {}
    for seen in evaluate(shapes, resize=Resize(0.8), batch_size=64):
        rows.update({index: (seen["image"][i], seen["mask"][i]) for i, index in enumerate(seen["index"].tolist())})
    for index, image, mask in zip(batch["index"], batch["image"], batch["mask"], strict=True):
        assert np.array_equal(image, rows[index][0]) and np.array_equal(mask, rows[index][1])


def test_eval_gives_every_pair_once_and_pads():
    split = split_of(*[told(seed) for seed in range(9)], labels=[0, 1, 2] * 3)
    batches = evaluate(split, SPATIAL, batch_size=4, spatial=True)
    first, second = list(batches), list(batches)
    assert same(first, second) and len(batches) == 3
    assert np.concatenate([batch["index"] for batch in first]).tolist() == [*range(9), -1, -1, -1]
    assert np.concatenate([batch["label"] for batch in first]).tolist() == [0, 1, 2] * 3 + [0] * 3
    for key in ("weight", "masked"):
        assert np.concatenate([batch[key] for batch in first]).tolist() == [1] * 9 + [0] * 3
    assert (first[-1]["point_labels"][1:] == -1).all() and not first[-1]["mask"][1:].any()


def test_a_crop_shows_what_is_asked_for_where_one_can():
    mask = np.zeros((100, 100), np.uint8)
    mask[:12, :12] = 1
    split = split_of(*[pair_of(np.zeros((100, 100, 3), np.uint8), mask, (0,))] * 8)
    preset = {"scale": (0.2, 0.5)}
    seen = np.concatenate([batch["mask"].any(axis=(1, 2)) for batch in take(train(split, preset=preset), 20)])
    assert 0.35 < seen.mean() < 1  # of single draws, less than a tenth shows it


def test_negatives_ask_for_what_is_not_there():
    mask = np.zeros((20, 20), np.uint8)
    mask[5:15, 5:15], mask[0, :] = 1, 255
    image = np.full((20, 20, 3), 7, np.uint8)
    split = split_of(*[pair_of(image, mask, (0, 2))] * 8)
    batch = next(train(split, prompts=SPATIAL | {"negatives": 1.0}, preset="none", image_size=20, resize=Resize(1.0)))
    assert batch["label"].tolist() == [1] * 8 and batch["masked"].tolist() == [1] * 8
    assert (batch["mask"] == np.where(mask == 255, 255, 0)).all()
    assert (batch["point_labels"] == -1).all()
    rows = np.concatenate([b["label"] for b in take(train(split, prompts={"negatives": 0.25}), 100)])
    assert set(rows.tolist()) == {0, 1} and 0.2 < (rows == 1).mean() < 0.3
    everything = split_of(*[pair_of(image, mask, (0, 1, 2))] * 8)
    assert next(train(everything, prompts={"negatives": 1.0}))["label"].tolist() == [0] * 8


def check_points(row, mask, points):
    """What a row's points say agrees with its mask."""
    for (x, y), label in zip(row[0][:points].astype(int), row[1][:points], strict=True):
        assert label in (-1, 0, 1)
        assert label == -1 or mask[y, x] == label


def test_points_and_boxes_follow_the_mask(shapes):
    clicks = []
    for batch in take(train(shapes, prompts=SPATIAL, preset=FLIPS), 10):
        for points, labels, mask in zip(batch["points"], batch["point_labels"], batch["mask"], strict=True):
            if not (mask == 1).any():
                assert (labels == -1).all()
                continue
            check_points((points, labels), mask, 3)
            assert labels[0] == 1 and labels[3:].tolist() == [2, 3]
            assert (points >= 0).all() and (points <= 47).all()
            rows, columns = np.nonzero(mask == 1)
            sides = np.array([np.ptp(columns), np.ptp(rows)]) + 1
            exact = np.array([[columns.min(), rows.min()], [columns.max(), rows.max()]])
            assert (abs(points[3:] - exact) <= 0.5 * sides + 1e-6).all()
            clicks += labels[1:3].tolist()
    assert set(clicks) == {-1, 0, 1}


def test_evaluated_points_are_exact_and_only_on_demand(shapes):
    batch = next(iter(evaluate(shapes, SPATIAL, spatial=True)))
    for points, labels, mask in zip(batch["points"], batch["point_labels"], batch["mask"], strict=True):
        check_points((points, labels), mask, 3)
        rows, columns = np.nonzero(mask == 1)
        assert points[3:].tolist() == [[columns.min(), rows.min()], [columns.max(), rows.max()]]
        assert (labels >= 0).all()
    assert (next(iter(evaluate(shapes, SPATIAL)))["point_labels"] == -1).all()


def test_rows_get_points_and_box_with_the_chance_given(shapes):
    labels = [b["point_labels"] for b in take(train(shapes, prompts=SPATIAL | {"spatial_prob": 0.3}), 60)]
    clicked, boxed = (np.concatenate(labels)[:, slot] != -1 for slot in (0, 3))
    assert 0.22 < clicked.mean() < 0.38 and 0.22 < boxed.mean() < 0.38
    assert 0.04 < (clicked & boxed).mean() < 0.16


def test_unmasked_pairs_travel_with_masked_0():
    pair = told()
    split = split_of(pair, pair_of(pair.image, None, (1,)), labels=[0, 1])
    batch = next(train(split, prompts=SPATIAL | {"negatives": 1.0}, batch_size=2))
    order = np.argsort(batch["index"])
    assert batch["weight"].tolist() == [1, 1] and batch["masked"][order].tolist() == [1, 0]
    row = order[1]
    assert not batch["mask"][row].any() and batch["label"][row] == 1 and batch["image"][row].any()
    assert (batch["point_labels"][row] == -1).all()


def bad_split(tmp_path):
    names = {"good": (9, 9), "wide": (12, 9), "empty": (9, 9), "lost": (9, 9)}
    for name, size in names.items():
        Image.new("RGB", (9, 9), (200, 0, 0)).save(tmp_path / f"{name}.png")
        Image.new("L", size, 0 if name == "empty" else 7).save(tmp_path / f"{name}.gif")
    (tmp_path / "lost.gif").write_text("hello")
    pairs = [pair_of(str(tmp_path / f"{name}.png"), FileMask(str(tmp_path / f"{name}.gif"))) for name in names]
    return split_of(*pairs, labels=[0, 1, 2, 0], root=str(tmp_path))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_bad_pairs_are_skipped_named_and_counted(tmp_path, num_workers):
    (tmp_path / "some").mkdir()
    split = bad_split(tmp_path / "some")
    batches = train(split, {"num_workers": num_workers}, SPATIAL, batch_size=4, image_size=9)
    for batch in take(batches, 2):
        order = np.argsort(batch["index"])
        assert batch["weight"][order].tolist() == batch["masked"][order].tolist() == [1, 0, 0, 0]
        assert batch["image"].max(axis=(1, 2, 3))[order].tolist() == [200, 0, 0, 0]
        assert batch["label"][order].tolist() == [0, 1, 2, 0]
        assert (batch["point_labels"][order][1:] == -1).all()
    batches.close()
    assert batches.bad.report() == (
        "3 bad image(s) skipped in train: wide.png (the image has 9 x 9 pixels, its mask 12 x 9), empty.png (its mask "
        'is empty (prompts.empty = "keep" keeps it)), lost.png (its mask some/lost.gif cannot be read: '
        "UnidentifiedImageError)"
    )
    kept = next(train(split, prompts={"empty": "keep"}, batch_size=4))
    assert kept["weight"][np.argsort(kept["index"])].tolist() == [1, 0, 1, 0]
    with pytest.raises(UserError, match=r"bad image wide.png: the image has 9 x 9 pixels, its mask 12 x 9"):
        list(evaluate(split, cfg={"on_bad": "stop"}, batch_size=1))


def test_the_prompts_of_an_image_share_its_decoding(tmp_path, monkeypatch):
    """Three prompts in groups of two: every one is seen once, with its own mask; the empty slot is not asked."""
    pair = told()
    masks = [np.where(pair.prompt.mask == 1, 1, 0).astype(np.uint8), pair.prompt.mask, np.ones((40, 60), np.uint8)]
    Image.fromarray(pair.image).save(tmp_path / "a.png")
    prompts = tuple(Prompt(label, mask, (0, 1, 2), label) for label, mask in enumerate(masks))
    split = in_groups(Split("train", [str(tmp_path / "a.png")], {"prompts": [prompts]}, ("a", "b", "c")), 2)
    opened = []
    open_image = reader.open_image
    monkeypatch.setattr(reader, "open_image", lambda *given: opened.append(given[0]) or open_image(*given))
    how = {"batch_size": 2, "image_size": (40, 60), "resize": Resize(1.0, "nearest")}
    (batch,) = make_eval_iter(split, FAST, fields=fields(split, SPATIAL, 2, spatial=True), **how)
    assert len(opened) == 2 and batch["label"].tolist() == [[0, 1], [2, 0]]
    assert batch["asked"].tolist() == batch["masked"].tolist() == [[1, 1], [1, 0]]
    for mask, found in zip(masks, (batch["mask"][0, 0], batch["mask"][0, 1], batch["mask"][1, 0]), strict=True):
        assert np.array_equal(found, mask)
    whole = split_of(*[pair_of(pair.image, mask) for mask in masks], labels=[0, 1, 2])
    alone = next(iter(evaluate(in_seeds(whole), SPATIAL, spatial=True, **how | {"batch_size": 3})))
    assert np.array_equal(batch["points"].reshape(4, 5, 2)[:3], alone["points"])


def in_seeds(split):
    """The split with clicks that depend on the place of a prompt, as sources list it."""
    prompts = [(dataclasses.replace(one, seed=seed),) for seed, (one,) in enumerate(split.fields["prompts"])]
    return dataclasses.replace(split, fields={"prompts": prompts})


def test_a_mask_that_cannot_be_read_leaves_the_other_prompts(tmp_path):
    pair = told()
    (tmp_path / "lost.gif").write_text("hello")
    prompts = (Prompt(0, pair.prompt.mask), Prompt(1, FileMask(str(tmp_path / "lost.gif"))))
    split = Split("train", [pair.image] * 2, {"prompts": [prompts, prompts[:1]]}, ("a", "b"))
    batches = make_train_iter(split, FAST, fields=fields(split, None, 2), seed=0, batch_size=2, image_size=32)
    batch = next(batches)
    order = np.argsort(batch["index"])
    assert batch["weight"].tolist() == [1, 1] and batch["asked"][order].tolist() == [[1, 0], [1, 0]]
    assert "1 of 2 prompts are left out: its mask" in batches.bad.remarked() and len(batches.bad.remarks) == 1


def test_colours_are_left_to_the_device():
    kept = unmixed(get_preset({"base": "strong", "vflip": 0.5}))
    assert kept == dataclasses.replace(PRESETS["strong"], vflip=0.5, erase_prob=0.0, mixup=0.0, cutmix=0.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 9}, "batch_size 9 is larger"),
        ({"preset": "storng"}, "nearest: strong"),
        ({"resize": Resize(interpolation="cubic")}, "nearest: bicubic"),
        ({"prompts": {"point": 1}}, "prompts has no field 'point'; nearest: points"),
    ],
)
def test_errors(options, message):
    with pytest.raises(UserError, match=message):
        train(split_of(*[told()] * 8), **options)
