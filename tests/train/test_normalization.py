"""Mean and std by name or measured, and the resize of evaluation, in a run and in its model's card."""

import dataclasses
import json

import numpy as np
import pytest
import tiny
from PIL import Image

import jaxdino
from jaxdino.core.errors import UserError
from jaxdino.data.config import MEASURED, NORMALIZATIONS, DataConfig
from jaxdino.models.spec import Preprocess
from jaxdino.train.loop import run
from jaxdino.train.normalization import NAMED, given
from jaxdino.train.pixels import resize_of
from jaxdino.train.setup import prepare

LEVELS = {"dark": (40, 60, 20), "light": (200, 180, 120)}


@pytest.fixture
def root(tmp_path):
    """Two classes of wide images of one colour each."""
    for split, count in (("train", 6), ("val", 2)):
        for name, levels in LEVELS.items():
            for i in range(count):
                file = tmp_path / "images" / split / name / f"{i}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (24 + i, 12), levels).save(file)
    return tmp_path / "images"


def config(root, **changes):
    return tiny.config(1, batch_size=4, data__name="folder", data__root=str(root), data__augment="none", **changes)


def preprocess_of(config):
    lines = []
    return prepare(config, lines.append).task.card.spec.preprocess, "\n".join(lines)


def test_measured_statistics_are_those_of_the_training_images(root):
    how, said = preprocess_of(config(root, data__normalization=MEASURED))
    levels = np.array(list(LEVELS.values())) / 255
    np.testing.assert_allclose(how.mean, levels.mean(axis=0), atol=1e-4)
    np.testing.assert_allclose(how.std, levels.std(axis=0), atol=1e-4)
    assert "normalization: measured on 12 of 12 training images: --config.data.mean=0.4706,0.4706,0.2745" in said
    by_hand, _ = preprocess_of(config(root, data__mean=how.mean, data__std=how.std))
    assert by_hand == how


def test_names_of_statistics(root):
    assert set(NORMALIZATIONS) == {*NAMED, MEASURED}
    for name, (mean, std) in NAMED.items():
        how, said = preprocess_of(config(root, data__normalization=name))
        assert (how.mean, how.std) == (mean, std) and f"normalization: {name}, mean {mean}" in said
    assert "normalization" not in preprocess_of(config(root))[1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(normalization="imagnet"), "data.normalization='imagnet' is not known; nearest: imagenet"),
        (dict(normalization="clip", mean=(0.5,)), r"data.normalization=clip and data.mean are both given"),
        (dict(crop_mode="pad"), "data.crop_mode='pad' is not known"),
        (dict(crop_pct=0.0), r"data.crop_pct=0.0 must be in \(0, 4\]"),
    ],
)
def test_wrong_settings(changes, message):
    with pytest.raises(UserError, match=message):
        DataConfig(**changes)


@pytest.mark.parametrize("value", ["imagenet", ("imagenet",)])
def test_a_name_in_place_of_numbers_says_where_it_belongs(value):
    with pytest.raises(UserError, match=r"by name it is data\.normalization=imagenet"):
        DataConfig.of({"mean": value})
    assert DataConfig.of({"mean": 0.5}).mean == (0.5,) and DataConfig.of({"mean": None}).mean is None


def test_named_statistics_need_three_channels():
    with pytest.raises(UserError, match="of red, green and blue, and the model takes 1 channel: give measured"):
        given(DataConfig(normalization="clip"), 1)


def test_the_crop_mode_is_that_of_validation_and_of_training_without_a_random_crop(root):
    """Padded, the whole of a wide image is seen, above and below it the mean colour; squashed, it fills the square."""
    for mode, above in (("border", True), ("squash", False), ("center", False)):
        setup_config = config(root, data__crop_mode=mode)
        setup = prepare(setup_config, lambda line: None)
        task, (part,) = setup.task, setup.parts
        batch = next(task.train_batches(part))
        padded = np.ptp(batch["image"][..., 0].astype(int).reshape(4, -1), axis=1) > 0
        assert padded.all() == above and padded.any() == above
        assert setup.task.card.spec.preprocess.crop_pct == 1
    own = tiny.SPEC.preprocess
    how, said = preprocess_of(config(root, data__crop_mode="border", data__crop_pct=0.5))
    assert (how.crop_mode, how.crop_pct) == ("border", 0.5)
    assert "crop_mode=border, crop_pct=0.5 in evaluation, and in training where augment has scale=None" in said
    same, said = preprocess_of(config(root, data__crop_mode=own.crop_mode, data__crop_pct=own.crop_pct))
    assert dataclasses.replace(same, sixteen_bit="auto") == own and "images: crop_mode" not in said


def test_another_crop_mode_shows_the_whole_image_unless_a_share_is_given():
    own, said = Preprocess(crop_pct=0.875), []
    for settings, expected in (
        ({}, ("center", 0.875)),
        (dict(crop_mode="border"), ("border", 1.0)),
        (dict(crop_mode="squash", crop_pct=0.9), ("squash", 0.9)),
        (dict(crop_pct=0.95), ("center", 0.95)),
    ):
        assert tuple(resize_of(DataConfig(**settings), own, said.append).values()) == expected
    assert len(said) == 3 and said[0].endswith("(the weights had center, 0.875)")


def test_a_resumed_run_keeps_what_was_measured(root, tmp_path, capsys):
    folder = tmp_path / "run"
    measured = dict(data__normalization=MEASURED, data__accept_change=True, data__crop_mode="border")
    assert not run(config(root, time_limit="0.001s", **measured), folder)["finished"]
    kept = json.loads((folder / "pixels.json").read_text())
    assert set(kept) == {"mean", "std"}
    Image.new("RGB", (24, 12), (255, 255, 255)).save(root / "train" / "dark" / "0.png")
    assert run(config(root, **measured), folder)["finished"]
    how = jaxdino.load(folder).card.spec.preprocess
    assert (list(how.mean), list(how.std)) == (kept["mean"], kept["std"]) and how.crop_mode == "border"
    assert capsys.readouterr().out.count("normalization: measured") == 1
