"""What a run refuses, or says aloud: settings at odds, heads of other classes, images that cannot be read."""

import dataclasses
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny
from flax import nnx
from PIL import Image

from convert.store import Card, load_model, save_model
from jaxdino import predict
from jaxdino.core.errors import UserError
from jaxdino.core.params import split
from jaxdino.data.config import DataConfig
from jaxdino.models.heads.patches import PatchesHeadConfig
from jaxdino.objectives.distill_settings import Distill
from jaxdino.train import data, loop, weights
from jaxdino.train.loop import run
from jaxdino.train.recorded import plain, recorded
from jaxdino.train.setup import prepare
from jaxdino.train.tasks.classify import Classification
from jaxdino.train.workdir import Workdir, write_json

ROOT = Path(__file__).parents[2]
DIGITS = tuple("0123456789")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data__name": "digits", "data__root": "photos"}, "after the colon"),
        ({"model__name": "dinov3_vits16"}, "made for 'tiny'"),
        ({"model__attention": "xls"}, "nearest: xla"),
        ({"model__attention": "cudnn"}, "needs an NVIDIA GPU"),
        ({"seed": -1}, r"seed=-1 must be in \[0, "),
        ({"data__num_threads": 10**6}, r"data.num_threads=1000000 must be in \[0, 512\]"),
        ({"data__num_workers": -1}, r"data.num_workers=-1 must be in"),
        ({"data__image_size": 10**12}, "image_size=1000000000000 must be in"),
        (
            {"data__name": "digits", "data__image_size": 16_000, "data__batch_size": 1024},
            "1024 images of 16000 x 16000 pixels alone need",
        ),
        ({"model__in_channels": 10**12}, "in_channels=1000000000000 must be in"),
        ({"checkpoint__every_steps": 0}, "at least 1"),
        ({"ema_decay": 1.0}, "ema_decay"),
    ],
)
def test_settings_at_odds_are_refused(changes, words):
    with pytest.raises(UserError, match=words):
        prepare(tiny.config(1, **changes))


def test_class_names_that_no_model_can_hold_are_refused_before_the_run(tmp_path):
    for part in ("train", "val"):
        for name in ("a", "b\udcff"):
            (tmp_path / part / name).mkdir(parents=True)
            Image.new("RGB", (8, 8)).save(tmp_path / part / name / "1.png")
    with pytest.raises(UserError, match=r"not valid UTF-8 .*: b\\udcff\. Rename"):
        data.validated(DataConfig(name="folder", root=str(tmp_path)))


def test_an_objective_needs_its_settings():
    with pytest.raises(UserError, match=r"needs the settings of self-distillation .*configs/ssl.py"):
        Distill.start(tiny.config(1, objective__name="distill").objective)


def test_rematerialisation_is_reached_by_the_config_and_the_data_are_told_in_a_line():
    lines = []
    setup = prepare(tiny.config(1, model__remat="dots", data__name="digits"), lines.append)
    assert lines == ["data: digits, 10 classes; images: train 1079, val 359, test 359"]
    assert "('remat', Static(value='dots'))" in str(setup.parts[0].skeleton.graphdef)


@pytest.mark.parametrize(
    ("objective", "given", "words"),
    [
        ("classify", {"dice": 1.0}, "stage 'head': the objective has no field 'dice'"),
        ("multilabel", {"pos_wieght": 2.0}, "pos_wieght.*nearest: pos_weight"),
        ("semantic", {"blocks": 2}, "stage 'head': objective.blocks holds for the whole run"),
    ],
)
def test_a_stage_overrides_only_settings_of_its_objective(objective, given, words):
    made = tiny.config(1)
    made.objective.name = objective
    with made.unlocked():
        made.stages[0].objective = given
    with pytest.raises(UserError, match=words):
        prepare(made)


@pytest.mark.parametrize(
    "names", [DIGITS, (), tuple(f"LABEL_{i}" for i in range(10)), ("ant", "bee", "cat", "dog", *"456789")]
)
def test_a_head_goes_on_only_for_the_same_classes(tmp_path, names):
    _, flat = split(tiny.SPEC.build(10, rngs=nnx.Rngs(0)))
    card = Card(tiny.SPEC, tiny.SPEC.linear(10), names)
    save_model(tmp_path / "w", card, {k: np.asarray(v) for k, v in flat.items()})
    config, lines = tiny.config(1, model__weights=str(tmp_path / "w")), []
    if names[:1] == ("ant",):
        with pytest.raises(UserError, match=r"ant, bee, cat, \.\.\..*0, 1, 2, .*drop_head"):
            weights.start(config, DIGITS, lines.append)
        config.model.drop_head = True
    card, _ = weights.start(config, DIGITS, lines.append)
    assert card.class_names == DIGITS
    assert any("not known" in line for line in lines) == (names == () or "LABEL_0" in names)


def test_a_task_can_have_another_head(tmp_path):
    wanted, names = PatchesHeadConfig(10, 2, 0.1), DIGITS
    card, flat = weights.start(tiny.config(1), names, print, wanted)
    assert card.head == wanted and flat["head.conv_seg.kernel"].shape == (64, 10)
    save_model(tmp_path / "w", dataclasses.replace(card, head=PatchesHeadConfig(10, 2)), flat)
    config = tiny.config(1, model__weights=str(tmp_path / "w"))
    again, kept = weights.start(config, names, print, wanted)
    assert again.head == wanted and np.array_equal(kept["head.conv_seg.kernel"], flat["head.conv_seg.kernel"])
    for other in (None, PatchesHeadConfig(10, 1)):
        with pytest.raises(UserError, match=r"a head of another kind.*drop_head"):
            weights.start(config, names, print, other)
    config.model.drop_head = True
    card, flat = weights.start(config, names, print, PatchesHeadConfig(10, 1))
    assert flat["head.conv_seg.kernel"].shape == (32, 10) and weights.has_new_head(config, card, flat)


def test_a_shape_that_nobody_published_is_told_by_its_weights(tmp_path):
    spec = dataclasses.replace(tiny.SPEC, name="dinov3_custom")
    _, flat = split(spec.build(0, rngs=nnx.Rngs(0)))
    save_model(tmp_path / "w", Card(spec), {k: np.asarray(v) for k, v in flat.items()})
    own = {"model__name": "dinov3_custom", "model__configured_for": "dinov3_custom"}
    setup = prepare(tiny.config(1, **own, model__weights=str(tmp_path / "w")))
    assert setup.task.card.spec == spec and setup.task.card.num_classes == 10
    for given in (None, "random"):
        with pytest.raises(UserError, match="comes from its weights"):
            prepare(tiny.config(1, **own, model__weights=given))
    other = dict.fromkeys(own, "resnet_custom")
    with pytest.raises(UserError, match="weights are of a dinov3_custom, not a resnet_custom"):
        prepare(tiny.config(1, **other, model__weights=str(tmp_path / "w")))
    with pytest.raises(UserError, match="there is no model 'unet_custom'"):
        prepare(tiny.config(1, **dict.fromkeys(own, "unet_custom")))


def photos(root: Path, bad: dict[str, int], each: int = 10) -> Path:
    """Two classes of grey images in train and val; of each split, the first so many of every class unreadable."""
    for name in ("train", "val"):
        for label, grey in (("dark", 40), ("light", 200)):
            folder = root / name / label
            folder.mkdir(parents=True)
            for i in range(each):
                file = folder / f"{i}.png"
                Image.new("RGB", (8, 8), (grey,) * 3).save(file)
                if i < bad.get(name, 0):
                    file.write_text("no image")
    return root


@pytest.mark.parametrize("name", ["train", "val"])
def test_a_pass_without_a_readable_image_is_an_error(tmp_path, name):
    config = tiny.config(1, batch_size=8, data__name="folder")
    config.data.update(root=str(photos(tmp_path / "data", {name: 10})))
    with pytest.raises(UserError, match=rf"no image of {name} could be read.*{name}/dark/\d.png"):
        run(config, tmp_path / "run")


def test_many_unreadable_images_are_a_warning_and_best_is_tested_at_its_own_size(tmp_path, capsys, monkeypatch):
    root = photos(tmp_path / "data", {"val": 3})
    (root / "val").rename(root / "test")
    config = tiny.config(1, 1, batch_size=8, data__name="folder")
    config.data.update(root=str(root), val_ratio=0.4)
    config.stages[0].image_size, config.stages[1].image_size = 16, 8
    sizes, evaluation, measure = {}, Classification.evaluation, Classification.measure

    def spied(self, session, part, skeleton):
        evaluate = evaluation(self, session, part, skeleton)
        return lambda split, flat: sizes.update({split: part.image_size}) or evaluate(split, flat)

    def judged(self, session, part):
        measured = measure(self, session, part)
        return lambda current: measured(current) | {"val/accuracy": 1.0 - part.index}  # the first stage wins

    monkeypatch.setattr(Classification, "evaluation", spied)
    monkeypatch.setattr(Classification, "measure", judged)
    assert loop.run(config, tmp_path / "run")["finished"]
    assert sizes == {"val": (8, 8), "test": (16, 16)}
    assert "WARNING: 6 of 20 images could not be read" in capsys.readouterr().out
    assert load_model(tmp_path / "run" / "best")[0].spec.preprocess.size == (16, 16)


def test_the_most_frequent_class_is_measured_on_the_images_that_could_be_read(tmp_path):
    root = photos(tmp_path / "data", {})
    for i in range(8):
        (root / "val" / "dark" / f"{i}.png").write_text("no image")
    config = tiny.config(1, batch_size=8, data__name="folder")
    config.data.update(root=str(root))
    found = loop.run(config, tmp_path / "run")
    assert found["val/most_frequent_class"] == {"class": "dark", "accuracy": 2 / 12, "balanced_accuracy": 0.5}
    (row,) = [line for line in found["result"] if line.startswith("(most frequent class)")]
    assert "0.1667" in row


def test_nan_in_the_weights_is_named(tmp_path):
    _, flat = split(tiny.SPEC.build(10, rngs=nnx.Rngs(0)))
    flat = {k: np.asarray(v) for k, v in flat.items()}
    flat["head.bias"] = np.full(10, np.nan, np.float32)
    save_model(tmp_path / "w", Card(tiny.SPEC, tiny.SPEC.linear(10), DIGITS), flat)
    with pytest.raises(UserError, match="nan"):
        run(tiny.config(1, model__weights=str(tmp_path / "w"), log_every=1000), tmp_path / "run")


def test_numbers_that_json_lacks_are_written_as_null(tmp_path):
    write_json(tmp_path / "config.json", {"a": math.inf, "b": [math.nan, 1]})
    assert json.loads((tmp_path / "config.json").read_text()) == {"a": None, "b": [None, 1]}
    assert not Workdir(tmp_path, {"a": math.inf, "b": [math.nan, 1]}).finished
    with pytest.raises(UserError, match="cannot be written"):
        Workdir(tmp_path / "config.json" / "run", {})


def test_a_config_without_an_objective_is_of_another_task(tmp_path):
    write_json(tmp_path / "config.json", plain(tiny.config(1)) | {"objective": None})
    with pytest.raises(UserError, match="holds a run of another task"):
        Workdir(tmp_path, tiny.config(1))


BROKEN = ["{", "", "\0\0\0", "[]", "[" * 100_000, '{"model": []}', '{"stages": [1]}', '{"stages": {}}']
BROKEN += ['{"stages": [{}]}', '{"data": {"views": {"a": 1}}}', '{"data": 3}', '{"a": NaN}', '{"a": 1, "a": 2}']


@pytest.mark.parametrize("text", BROKEN)
def test_a_damaged_config_is_named(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    for read in (lambda: Workdir(tmp_path, tiny.config(1)), lambda: recorded(tmp_path)):
        with pytest.raises(UserError, match=r"config.json (cannot be read|was not written by a run) .*new --workdir"):
            read()


STAGE = {"name": "head", "epochs": 1, "max_epochs": 1}
WRONG = [
    {"stages": []},
    {"stages": [STAGE | {"name": "tail"}]},
    {"stages": [STAGE], "result": [1]},
    {"stages": [STAGE], "result": 5},
]
WRONG += [{"stages": 3}, {"stages": [{"name": "head"}]}, {}]


@pytest.mark.parametrize(
    "text", ["{", "", "[]", "\0", '{"a":' * 99_999, *(json.dumps(one | {"finished": True}) for one in WRONG)]
)
def test_a_damaged_summary_is_put_aside_and_written_again(tmp_path, capsys, text):
    config = tiny.config(1)
    write_json(tmp_path / "config.json", plain(config))
    (tmp_path / "summary.json").write_text(text)
    folder = Workdir(tmp_path, config)
    assert not folder.finished
    with pytest.raises(UserError, match=r"summary.json is damaged .*: the same command writes it again"):
        folder.summary()
    folder.open()
    assert "summary.json is damaged (" in capsys.readouterr().out and folder.summary() == {}
    assert (tmp_path / "summary.json.damaged").read_text() == text


@pytest.mark.parametrize("name", ["events", "checkpoints", "best", "metrics.jsonl", "summary.json"])
def test_a_file_in_place_of_a_folder_is_named(tmp_path, name):
    write_json(tmp_path / "config.json", plain(tiny.config(1)))
    (tmp_path / name).mkdir() if "." in name else (tmp_path / name).write_text("")
    with pytest.raises(UserError, match=rf"{tmp_path}/{name} is not a (file|folder), .*: move it away"):
        run(tiny.config(1), tmp_path)


@pytest.mark.parametrize("name", ["a" * 300, "a\0b", "b" * 5000])
def test_a_name_that_no_folder_has(tmp_path, name):
    for read in (lambda folder: run(tiny.config(1), folder), recorded):
        with pytest.raises(UserError, match="is not a valid name of a folder") as error:
            read(str(tmp_path / name))
        assert len(str(error.value)) < 250 and "\0" not in str(error.value)


def test_a_folder_of_another_task_or_strategy_is_named_in_short(tmp_path):
    there = {"objective": {"name": "classify"}, "stages": [{"name": "head", "rules": []}, {"name": "all", "rules": []}]}
    write_json(tmp_path / "config.json", there)
    with pytest.raises(UserError, match="objective 'classify', this is 'distill'") as error:
        Workdir(tmp_path, {"objective": {"name": "distill"}, "stages": []})
    assert "stages" not in str(error.value)
    with pytest.raises(UserError, match="stages: head, all there, linear now"):
        Workdir(tmp_path, {"objective": {"name": "classify"}, "stages": [{"name": "linear", "rules": []}]})


def test_a_new_run_inside_its_images_is_refused(tmp_path):
    config = {"data": {"root": str(tmp_path), "classes": "top"}}
    with pytest.raises(UserError, match="give a folder outside"):
        Workdir(tmp_path / "runs" / "mine", config)
    Workdir(tmp_path.parent / f"{tmp_path.name}_run", config)
    (tmp_path / "old").mkdir()
    write_json(tmp_path / "old" / "config.json", config)
    Workdir(tmp_path / "old", config)  # which began before


def test_a_run_from_before_a_setting_goes_on_with_what_it_did(tmp_path):
    write_json(tmp_path / "config.json", {"data": {"root": "a", "val_split": None}})
    now = {"data": {"root": "a", "val_split": None, "train_split": None, "classes": "top"}}
    assert Workdir(tmp_path, now).config == now
    with pytest.raises(UserError, match=r'data.classes: "top" there, "leaf" now'):
        Workdir(tmp_path, {"data": now["data"] | {"classes": "leaf"}})


def test_predict_says_that_no_stage_is_finished(tmp_path, capsys):
    (tmp_path / "checkpoints").mkdir()
    assert predict.main(["--workdir", str(tmp_path), "--batch_size", "2", "x.png"]) == 2
    assert "has not finished a stage yet" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("setting", ["stages[7].epochs=1", "stage[0].epochs=1", "optimizer.lr=1.0"])
def test_a_flag_that_names_no_setting_ends_in_one_line(setting):
    command = [sys.executable, "-m", "jaxdino.main", "--config=configs/linear.py", f"--config.{setting}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith(f"error: --config.{setting}: there is no such setting")
