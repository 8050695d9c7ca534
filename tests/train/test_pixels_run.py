"""Runs on images of other bit depths and channels: what is chosen at the start is kept, and used ever after."""

import json
from pathlib import Path

import numpy as np
import pytest
import tiny
from PIL import Image

import jaxdino
from jaxdino import evaluate, predict
from jaxdino.core.errors import UserError
from jaxdino.train.loop import run
from jaxdino.train.setup import prepare

BLACK_AND_WHITE = "0,1023"


def write(path: Path, high: int, shape: tuple[int, ...] = (8, 8)) -> None:
    """A file of random values from half of `high` to `high`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(len(str(path)) + high).integers(high // 2, high + 1, shape)
    values.flat[0] = high
    Image.fromarray(values.astype(np.uint16)).save(path)


@pytest.fixture
def root(tmp_path):
    """Two classes of grey 10-bit images, the first darker."""
    for split, count in (("train", 8), ("val", 3)):
        for name, high in (("dark", 200), ("light", 1000)):
            for i in range(count):
                write(tmp_path / "images" / split / name / f"{i}.png", high)
    return tmp_path / "images"


def settings(root: Path, **changes):
    """A run of one channel, of a few steps."""
    given = dict(data__name="folder", data__root=str(root), model__in_channels=1, data__mean=(0.4,), data__std=(0.2,))
    return tiny.config(1, batch_size=8, **given | changes)


def test_a_run_that_goes_on_reads_in_the_range_chosen_at_its_start(root, tmp_path, capsys):
    config, folder = settings(root, data__accept_change=True), tmp_path / "run"
    stopped = settings(root, time_limit="0.001s")
    assert not run(stopped, folder)["finished"]
    assert json.loads((folder / "pixels.json").read_text()) == {"sixteen_bit": BLACK_AND_WHITE}
    assert "up to 1000 (16 decoded): read as 10-bit; --config.data.sixteen_bit=0,1023" in capsys.readouterr().out
    write(root / "train" / "light" / "0.png", 60_000)  # whose range would be that of 16 bits
    assert run(config, folder)["finished"]
    assert "read with data.sixteen_bit=0,1023" in capsys.readouterr().out
    how = jaxdino.load(folder).card.spec.preprocess
    assert (how.sixteen_bit, how.mean, how.std) == (BLACK_AND_WHITE, (0.4,), (0.2,))
    with pytest.raises(UserError, match=r"pixels\.json was not written by a run"):
        (folder / "pixels.json").write_text("{}")
        (folder / "summary.json").unlink()
        run(config, folder)


def test_the_model_of_a_run_reads_new_images_as_the_run_did(root, tmp_path, capsys):
    folder = tmp_path / "run"
    run(settings(root), folder)
    model, path = jaxdino.load(folder), str(root / "val" / "light" / "0.png")
    found = model.preprocess([path])
    stored = np.asarray(Image.open(path)).astype(float)
    assert found.shape == (1, 8, 8, 1) and np.array_equal(found[0, ..., 0], np.rint(stored / 1023 * 255))
    assert np.array_equal(model.preprocess([np.asarray(Image.open(path))]), found)
    by_hand = (found.astype(np.float32) / 255 - 0.4) / 0.2
    np.testing.assert_allclose(model(found).logits, model(by_hand).logits, atol=1e-5)
    (expected,) = model.predict([path], topk=1)
    capsys.readouterr()
    assert predict.main(["--workdir", str(folder), path]) == 0
    assert capsys.readouterr().out.split("\t")[1] == expected[0][0]
    assert predict.main(["--workdir", str(folder), path, "--sixteen_bit", "9,3"]) == 2
    assert "sixteen_bit=9,3" in capsys.readouterr().err
    flags = ["--root", str(root), "--k", "3", "--batch_size", "4", "--json", f"{tmp_path}/f.json"]
    assert evaluate.main(["--weights", str(folder), *flags]) == 0
    assert "read with data.sixteen_bit=0,1023, as the weights' images were" in capsys.readouterr().err
    assert json.loads((tmp_path / "f.json").read_text())["skipped"] == {"train": 0, "val": 0}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (dict(data__mean=(0.4, 0.5)), r"data\.mean=.*has 2 numbers, and the model takes 1 channels"),
        (dict(data__std=(0.0,)), "every standard deviation must be above 0"),
        (dict(model__in_channels=4, data__mean=None, data__std=None), "1 channel and the model takes 4"),
        (dict(data__sixteen_bit="9,3"), r"data\.sixteen_bit=9,3"),
    ],
)
def test_what_cannot_work_is_refused_at_the_start(root, changes, words):
    with pytest.raises(UserError, match=words):
        prepare(settings(root, **changes))
