"""RandAugment, TrivialAugment and AugMix: operations and magnitudes of torchvision, drawn for each record."""

import collections
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from photographs import levels, photographs, planes
from PIL import Image
from torchvision_stub import import_torchvision

from jaxdino.core.errors import UserError
from jaxdino.core.resize import Resize
from jaxdino.data import photometric, policies, policy_geometry
from jaxdino.data.config import DataConfig
from jaxdino.data.geometry import Geometry
from jaxdino.data.photometric import policy
from jaxdino.data.pipeline import make_train_iter
from jaxdino.data.presets import PRESETS, get_preset
from jaxdino.data.recipe import GLOBAL_1, GLOBAL_2, View
from jaxdino.data.record import Split

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
KEY = jax.random.key(0)


def autoaugment():
    import_torchvision()
    from torchvision.transforms import InterpolationMode, autoaugment

    return autoaugment, InterpolationMode


@pytest.mark.parametrize(
    ("ours", "theirs", "count"),
    [("randaugment", "RandAugment", 31), ("trivialaugment", "TrivialAugmentWide", 31), ("augmix", "AugMix", 10)],
)
def test_the_magnitudes_are_torchvisions(ours, theirs, count):
    module, _ = autoaugment()
    size = () if ours == "trivialaugment" else ((200, 331),)
    expected = getattr(module, theirs)()._augmentation_space(count, *size)
    moving = ("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate")
    assert set(policies.SPACES[ours]) == set(expected) - (set(moving) if ours == "augmix" else set())
    for name, scale in policies.SPACES[ours].items():
        magnitudes, signed = expected[name]
        side = {"TranslateX": 331, "TranslateY": 200}[name] if scale.of_side else 1
        found = [scale.at(step, count) * side for step in range(count)]
        np.testing.assert_allclose(found, np.broadcast_to(magnitudes.numpy(), count), rtol=1e-5, atol=1e-6)
        assert scale.signed == signed and policies.STEPS[ours] == count


@functools.cache
def operated():
    return jax.jit(policy.operated)


@pytest.mark.parametrize("size", [(40, 48), (33, 57)])
@pytest.mark.parametrize("name", policies.OPERATIONS)
def test_each_operation_is_torchvisions_at_every_magnitude(name, size):
    """On uint8 tensors and on Pillow images: within a level, where rounding falls on the other side."""
    import torch

    module, interpolation = autoaugment()
    scale, image = policies.SPACES["randaugment"][name], photographs(1, *size)[0]
    magnitudes = [scale.at(step, 31) * sign for step in range(0, 31, 6) for sign in ((1, -1) if scale.signed else (1,))]
    count = len(magnitudes)
    numbers = jnp.full(count, policies.OPERATIONS.index(name))
    images = planes(np.broadcast_to(image, (count, *image.shape)))
    found = levels(operated()(images, numbers, jnp.array(magnitudes, jnp.float32)))
    np.testing.assert_allclose(found, np.round(found), atol=1e-3)
    for ours, magnitude in zip(found, magnitudes, strict=True):
        how = dict(magnitude=magnitude, interpolation=interpolation.NEAREST, fill=None)
        tensor = module._apply_op(torch.from_numpy(image.transpose(2, 0, 1).copy()), name, **how)
        away = np.abs(ours - tensor.numpy().transpose(1, 2, 0))
        assert away.max() <= 1.01 and (away > 0.01).mean() < 0.1
        pillow = np.abs(ours - np.asarray(module._apply_op(Image.fromarray(image), name, **how), float))
        assert pillow.max() <= 2.01 and pillow.mean() < 0.6


def test_each_image_gets_its_own_operation():
    images = planes(photographs(len(policies.OPERATIONS)) // 2 + 40)
    numbers = jnp.arange(len(policies.OPERATIONS))
    magnitudes = jnp.array([0, 0.4, -0.4, 0.4, 0.8, 3, 99, 0, 0], jnp.float32)
    together = operated()(images, numbers, magnitudes)
    for row in range(len(numbers)):
        alone = operated()(images[row : row + 1], numbers[row : row + 1], magnitudes[row : row + 1])
        assert np.abs(levels(together)[row] - levels(alone)[0]).max() < 1.01
        assert np.array_equal(levels(together)[row], levels(images)[row]) == (row == 0)


@pytest.mark.parametrize("bands", [1, 5])
def test_other_bands_have_all_operations_but_color(bands):
    images = planes(photographs(9, bands=bands) // 2 + 40)
    found = operated()(images, jnp.arange(9), jnp.array([0, 0.4, -0.4, 0.4, 0.8, 3, 99, 0, 0], jnp.float32))
    changed = [not np.allclose(a, b, atol=1e-6) for a, b in zip(found, images, strict=True)]
    assert changed == [name not in ("Identity", "Color") for name in policies.OPERATIONS]


@pytest.mark.parametrize("magnitude", [0.3, -0.3])
@pytest.mark.parametrize("name", ["ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate"])
def test_moves_are_torchvisions(name, magnitude):
    """Where both show the image: beyond its edges torchvision is black and we repeat them."""
    module, interpolation = autoaugment()
    image, size = photographs(1, 48, 64)[0], (48, 64)
    magnitude *= {"Rotate": 100, "TranslateX": 40, "TranslateY": 40}.get(name, 1)
    own = policy_geometry.moving(name, magnitude, size)
    found = Geometry((64, 48), size, Resize(), box=(0, 0, 64, 48), transform=own).image(Image.fromarray(image))
    how = dict(magnitude=magnitude, interpolation=interpolation.BILINEAR, fill=None)
    theirs = np.asarray(module._apply_op(Image.fromarray(image), name, **how))
    inside = np.asarray(module._apply_op(Image.fromarray(np.full((48, 64), 255, np.uint8)), name, **how)) == 255
    away = np.abs(found.astype(float) - theirs)[inside]
    assert inside.mean() > 0.4 and away.mean() < 2 and np.abs(image.astype(float) - theirs)[inside].mean() > 10


def test_translations_of_a_share_of_the_side_are_whole_pixels():
    found = policy_geometry.moving("TranslateY", -0.26, (50, 70), of_side=True)
    np.testing.assert_array_equal(found, [[1, 0, 0], [0, 1, -13], [0, 0, 1]])


def test_moves_are_composed_in_order_after_those_of_the_view():
    before = policy_geometry.moving("Rotate", 20.0, (32, 32))
    geometry = Geometry((32, 32), (32, 32), Resize(), box=(0, 0, 32, 32), transform=before)
    seen = set()
    for seed in range(300):
        drawn = policies.draw(policies.parsed("randaugment:2:9"), np.random.default_rng(seed))
        rng = np.random.default_rng(seed)
        moved, others = policy_geometry.applied("randaugment:2:9", geometry, rng, 3)
        expected, rows = before, []
        for name, magnitude in drawn:
            inside = name in policies.OPERATIONS
            rows.append((policies.OPERATIONS.index(name), magnitude) if inside else (0, 0))
            if not inside:
                of_side = name.startswith("Translate")
                expected = policy_geometry.moving(name, magnitude, (32, 32), of_side) @ expected
        np.testing.assert_allclose(moved.transform, expected)
        np.testing.assert_allclose(others, [*rows, (0, 0)], rtol=1e-6)
        seen |= {name for name, _ in drawn}
    assert seen == set(policies.SPACES["randaugment"])


@pytest.mark.parametrize("auto", ["randaugment:1:30", "trivialaugment"])
def test_operations_signs_and_magnitudes_are_drawn_evenly(auto):
    chosen, rng = policies.parsed(auto), np.random.default_rng(0)
    drawn = [pair for _ in range(7000) for pair in policies.draw(chosen, rng)]
    counts = collections.Counter(name for name, _ in drawn)
    assert len(counts) == 14 and all(400 < count < 600 for count in counts.values())
    turns = np.array([magnitude for name, magnitude in drawn if name == "Rotate"])
    assert 0.4 < (turns > 0).mean() < 0.6
    assert len(set(np.abs(turns).round(3))) == (1 if chosen.magnitude else 31)


def reference_mix(image, numbers, magnitudes, shares):
    import torch

    module, interpolation = autoaugment()
    whole = torch.from_numpy(image.transpose(2, 0, 1).copy())
    found = shares[0] * whole.numpy().astype(float)
    for chain, share in enumerate(shares[1:]):
        changed = whole
        for number, magnitude in zip(numbers[chain], magnitudes[chain], strict=True):
            name = policies.OPERATIONS[number]
            how = dict(magnitude=float(magnitude), interpolation=interpolation.NEAREST, fill=None)
            changed = module._apply_op(changed, name, **how)
        found += share * changed.numpy()
    return found.transpose(1, 2, 0)


def test_augmix_mixes_as_torchvisions_operations_do(monkeypatch):
    seen = {}
    mixed = policy.mixed
    monkeypatch.setattr(policy, "mixed", lambda *given: seen.update(given=given[1:]) or mixed(*given))
    images = photographs(6, 33, 40)
    found = levels(policy.augmix(jax.random.split(KEY, 6), planes(images), policies.parsed("augmix:3")))
    numbers, magnitudes, shares = map(np.asarray, seen["given"])
    assert numbers.shape == (6, 3, 3) and shares.shape == (6, 4)
    np.testing.assert_allclose(shares.sum(1), 1, atol=1e-6)
    assert shares.min() >= 0 and len({tuple(row) for row in shares}) == 6
    for row in range(6):
        expected = reference_mix(images[row], numbers[row], magnitudes[row], shares[row])
        away = np.abs(found[row] - expected)
        assert np.median(away) < 0.5 and away.mean() < 0.5  # a level before equalising may be several after


def test_augmix_draws_chains_of_one_to_three_and_its_smallest_magnitudes(monkeypatch):
    seen = {}
    monkeypatch.setattr(policy, "mixed", lambda *given: seen.update(given=given[1:]) or given[0])
    policy.augmix(jax.random.split(KEY, 3000), jnp.zeros((3000, 3, 1, 1)), policies.parsed("augmix:3"))
    numbers, magnitudes, shares = map(np.asarray, seen["given"])
    lengths = (numbers > 0).sum(-1).ravel()
    assert np.allclose(np.bincount(lengths, minlength=4) / lengths.size, [0, 1 / 3, 1 / 3, 1 / 3], atol=0.02)
    bright = magnitudes[numbers == 1]
    np.testing.assert_allclose(np.unique(bright.round(5)), [-0.2, -0.1, 0, 0.1, 0.2], atol=1e-5)
    assert shares[:, 0].mean() == pytest.approx(0.5, abs=0.02)
    inner = shares[:, 1:] / shares[:, 1:].sum(1, keepdims=True)
    assert inner.mean(0) == pytest.approx([1 / 3] * 3, abs=0.02) and inner.std() == pytest.approx(18**-0.5, abs=0.01)


@pytest.mark.parametrize(
    ("auto", "message"),
    [
        ("randaugmnt:2:9", "'randaugmnt' is not an automatic augmentation; nearest: randaugment"),
        ("randaugment:2:31", "magnitude must be a whole number from 0 to 30, such as randaugment:2:9"),
        ("randaugment:0", "operations must be a whole number from 1 to 10"),
        ("randaugment:two", "operations must be a whole number"),
        ("randaugment:2:9:1", "more numbers than randaugment reads: write randaugment:OPERATIONS:MAGNITUDE"),
        ("trivialaugment:3", "more numbers than trivialaugment reads: write trivialaugment, such as trivialaugment"),
        ("augmix:0", "severity must be a whole number from 1 to 10, such as augmix:3"),
    ],
)
def test_errors(auto, message):
    with pytest.raises(UserError, match=message):
        View(auto=auto)


def test_policies_by_name_in_a_preset():
    assert get_preset("light,auto=randaugment:2:9").auto == "randaugment:2:9"
    assert get_preset("light,auto='augmix',noise=0.1") == dataclasses.replace(
        PRESETS["light"], auto="augmix", noise=0.1
    )
    assert policies.parsed("randaugment") == policies.parsed("randaugment:2:9")
    with pytest.raises(UserError, match="nearest: trivialaugment"):
        get_preset("light,auto=trivialaugmnt")
    with pytest.raises(UserError, match="it must be a text"):
        get_preset("light,auto=3")


def split_of(count=24):
    return Split("train", list(photographs(count, 24, 24)), {"label": np.zeros(count, np.int32)}, ("a",))


def test_batches_hold_the_operations_and_resume_with_them():
    how = dict(seed=3, batch_size=8, image_size=24, preset=get_preset("light,auto=randaugment:3:9"))
    batches = make_train_iter(split_of(), DataConfig(), **how)
    first, position = next(batches), batches.state()
    assert first["image_operations"].shape == (8, 3, 2) and first["image_operations"].dtype == np.float32
    assert len({row.tobytes() for row in first["image_operations"]}) > 4
    expected = next(batches)
    again = make_train_iter(split_of(), DataConfig(num_threads=3), **how)
    again.restore(position)
    found = next(again)
    assert all(np.array_equal(found[key], expected[key]) for key in expected)
    plain = next(make_train_iter(split_of(), DataConfig(), **how | {"preset": "light"}))
    assert "image_operations" not in plain and not np.array_equal(plain["image"], first["image"])


def test_a_policy_changes_no_other_draw():
    """Images for which no operation that moves pixels was drawn are those of the preset without a policy."""
    how = dict(seed=3, batch_size=24, image_size=24)
    plain = next(make_train_iter(split_of(), DataConfig(), **how, preset="light"))
    drawn = next(make_train_iter(split_of(), DataConfig(), **how, preset=get_preset("light,auto=trivialaugment")))
    same = (plain["image"] == drawn["image"]).all(axis=(1, 2, 3))
    assert np.array_equal(plain["index"], drawn["index"]) and 4 < same.sum() < 24
    assert same[drawn["image_operations"][:, 0, 0] > 0].all()


def test_views_of_self_distillation_have_policies_of_their_own():
    small = dict(size=16, blur_prob=0.0)
    views = [
        dataclasses.replace(GLOBAL_1, auto="randaugment:2:9", **small),
        dataclasses.replace(GLOBAL_2, **small),
        View("local", 8, (0.1, 0.4), count=2),
        View("local", 8, (0.1, 0.4), auto="augmix"),
    ]
    batch = next(make_train_iter(split_of(), DataConfig(), seed=0, batch_size=8, views=views))
    operations = batch["global_operations"]
    assert operations.shape == (8, 2, 2, 2) and operations[:, 0].any() and not operations[:, 1].any()
    assert "local_operations" not in batch
    given = photometric.given(batch, "global")
    found = photometric.augment_views(KEY, batch["global"], views[:2], MEAN, STD, **given)
    assert found.shape == batch["global"].shape and np.isfinite(found).all()


def test_unreadable_images_have_no_operations(tmp_path):
    records = [*photographs(7, 24, 24), str(tmp_path / "none.png")]
    split = Split("train", records, {"label": np.zeros(8, np.int32)}, ("a",))
    preset = get_preset("light,auto=randaugment")
    batch = next(make_train_iter(split, DataConfig(), seed=0, batch_size=8, image_size=24, preset=preset))
    bad = batch["weight"] == 0
    assert bad.sum() == 1 and not batch["image_operations"][bad].any() and batch["image_operations"][~bad].any()


def test_four_devices_and_the_whole_step():
    view = get_preset("light,auto=randaugment:2:9")
    images = photographs(8, 16, 24)
    operations = np.stack(
        [policy_geometry.applied(view.auto, _still(), np.random.default_rng(row), 2)[1] for row in range(8)]
    )
    step = jax.jit(lambda x, ops: photometric.augment_view(KEY, x, view, MEAN, STD, operations=ops))
    alone = step(images, operations)
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:4]), ("data",))
    where = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    spread = step(jax.device_put(images, where), jax.device_put(operations, where))
    away = np.abs(np.asarray(alone) - np.asarray(spread)) * 255 * max(STD)
    assert away.max() < 1.5 and (away > 0.01).mean() < 0.01
    with pytest.raises(ValueError, match="needs the operations"):
        photometric.augment_view(KEY, images, view, MEAN, STD)


def _still():
    return Geometry((24, 16), (16, 24), Resize(), box=(0, 0, 24, 16))


@pytest.mark.parametrize("auto", ["randaugment:3:20", "trivialaugment"])
def test_masks_move_with_the_image(auto):
    mask = np.zeros((64, 96), np.uint8)
    mask[10:40, 20:60], mask[30:60, 50:90] = 1, 2
    image = Image.fromarray(np.choose(mask, (20, 130, 240)).astype(np.uint8)).convert("RGB")
    still, moved = Geometry((96, 64), (48, 64), Resize(), box=(8, 4, 88, 60), hflip=True), 0
    for seed in range(100):
        geometry, _ = policy_geometry.applied(auto, still, np.random.default_rng(seed), 3)
        moved += geometry.transform is not None
        found, plane = geometry.image(image)[..., 0].astype(int), geometry.plane(mask, 255)
        nearest = np.abs(found[..., None] - np.array([20, 130, 240])).argmin(-1)
        clear = (np.abs(found[..., None] - np.array([20, 130, 240])).min(-1) < 5) & (plane != 255)
        assert (nearest == plane)[clear].mean() > 0.98
    assert moved > 20
