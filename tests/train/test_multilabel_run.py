"""Whole runs on images with several labels: what they measure, save and predict, and how they go on after a stop."""

import csv
import json
from functools import cache

import numpy as np
import pytest
import tiny
from measured import MEASURED
from ml_collections import ConfigDict
from PIL import Image

import jaxdino
from configs import common
from convert.export import export
from convert.load import load_pretrained
from convert.store import load_card, load_model
from jaxdino import predict
from jaxdino.core.errors import UserError
from jaxdino.data.sources.digits import _digit_arrays
from jaxdino.settings.command_line import command
from jaxdino.train.loop import run
from jaxdino.train.setup import prepare
from jaxdino.train.tasks.multilabel import MultilabelClassification

DRAWN = True

CLASSES = {"even": (0, 2, 4, 6, 8), "loops": (0, 6, 8, 9), "straight": (1, 4, 7)}
SPLITS = {0: "val", 3: "test"}
LORA = dict(
    rules=((common.LORA, "lora"), ("@head", "head"), ("@all", "frozen")),
    groups=dict(lora=dict(lr=1e-2, weight_decay=0.0), head=dict(lr=3e-3), frozen=dict(frozen=True)),
    lora=dict(rank=2, targets=("q", "v")),
)


@cache
def manifest(folder, many=240):
    """Write digits and their manifest; a seventh is of val, another of test."""
    lines = ["path,labels,split"]
    for n, (image, digit) in enumerate(zip(*(array[:many] for array in _digit_arrays()), strict=True)):
        Image.fromarray(image).save(folder / f"{n}.png")
        names = [name for name, digits in CLASSES.items() if digit in digits]
        lines.append(f"{n}.png,{'|'.join(names)},{SPLITS.get(n % 7, 'train')}")
    (folder / "m.csv").write_text("\n".join(lines))
    return folder / "m.csv"


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return manifest(tmp_path_factory.mktemp("digits"))


def config(file, *epochs, **changes):
    made = tiny.config(*epochs, batch_size=32, **changes)
    made.data.name, made.data.root, made.objective.name = "manifest", str(file), "multilabel"
    return made


@pytest.fixture(scope="module")
def done(file, tmp_path_factory):
    """A run of three stages: its folder, its summary, what it printed."""
    folder = tmp_path_factory.mktemp("run") / "run"
    return folder, run(config(file, 1, 1, 3), folder)


def test_metrics_and_summary(done):
    folder, summary = done
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    validated = [record for record in records if "val/map" in record]
    assert {f"val/{name}" for name in ("map", "macro_auc", "macro_f1", "micro_f1", "loss")} <= set(validated[-1])
    assert all("label_accuracy" in record for record in records)
    assert max(record["val/map"] for record in validated) > 0.55  # 0.39 for equal scores
    assert set(summary["test/per_class"]) == set(CLASSES) and summary["test/map"] > 0.55
    assert (folder / "val_map.png").exists() and not (folder / "val_accuracy.png").exists()
    text = "\n".join(summary["result"])
    assert "val/map" in text and "test, each class:" in text and "  loops: average precision" in text


def test_each_best_model_is_saved_with_the_thresholds_of_its_epoch(file, tmp_path, monkeypatch):
    """A run that ends here, as by a power cut, leaves a model that is complete."""
    saved = []

    def stop(self, session):
        saved.append(load_card(session.folder / "best").head.thresholds)
        raise InterruptedError

    monkeypatch.setattr(MultilabelClassification, "finish", stop)
    with pytest.raises(InterruptedError):
        run(config(file, 3), tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    validated = [line for line in lines if "val/map" in line]
    each = [tuple(line[f"val/threshold/{name}"] for name in CLASSES) for line in validated]
    best = max(range(3), key=lambda epoch: validated[epoch]["val/map"])
    assert saved == [each[best]] and len(set(each)) == 3 and 0.5 not in saved[0]


def test_thresholds_of_val_are_saved_and_used_on_test(done, file):
    folder, summary = done
    card = load_card(folder / "best")
    assert card.class_names == tuple(CLASSES)
    assert list(card.head.thresholds) == [one["threshold"] for one in summary["test/per_class"].values()]
    model, rows = jaxdino.load(folder), list(csv.DictReader(file.read_text().splitlines()))
    for split, best in (("val", True), ("test", False)):
        chosen = [row for row in rows if row["split"] == split]
        found = model.predict([str(file.parent / row["path"]) for row in chosen])
        right = sum(
            len({name for name, _ in one} & set(row["labels"].split("|")))
            for one, row in zip(found, chosen, strict=True)
        )
        total = sum(map(len, found)) + sum(len(row["labels"].split("|")) for row in chosen if row["labels"])
        measured = max(r.get("val/micro_f1", 0) for r in summary["stages"]) if best else summary["test/micro_f1"]
        assert 2 * right / total == pytest.approx(measured)


def test_predict_prints_all_classes_above_their_thresholds(done, file, capsys, tmp_path):
    folder, _ = done
    images = [str(file.parent / f"{n}.png") for n in range(40)]
    assert predict.main(["--workdir", str(folder), "--top", "2", *images]) == 0
    out, err = capsys.readouterr()
    assert "--top 2 has no effect: the model gives all classes above their thresholds" in err
    lines = [line.split("\t") for line in out.splitlines()]
    card, expected = load_card(folder / "best"), jaxdino.load(folder).predict(images)
    assert [line[0] for line in lines] == images and len({len(line) for line in lines}) > 1
    for line, classes in zip(lines, expected, strict=True):
        assert line[1:] == [text for name, odds in classes for text in (name, f"{odds:.4f}")]
        for name, odds in classes:
            assert odds >= card.head.thresholds[card.class_names.index(name)]
    for name in ("t.csv", "t.jsonl"):
        assert predict.main(["--workdir", str(folder), "--out", str(tmp_path / name), *images]) == 0
    rows = list(csv.DictReader((tmp_path / "t.csv").read_text().splitlines()))
    listed = [json.loads(line) for line in (tmp_path / "t.jsonl").read_text().splitlines()]
    assert list(rows[0]) == ["path", "labels", "probabilities", "error"]
    for row, entry, classes in zip(rows, listed, expected, strict=True):
        assert row["labels"] == "|".join(name for name, _ in classes) and entry["labels"] == [n for n, _ in classes]
        assert entry["probabilities"] == [round(odds, 6) for _, odds in classes]


def test_another_threshold_for_all_classes(done, file, capsys):
    folder, image = str(done[0]), str(file.parent / "0.png")
    assert predict.main([image, "--workdir", folder, "--threshold", "0"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in CLASSES)
    assert jaxdino.load(folder).predict([image], threshold=1.0) == [[]]
    assert predict.main([image, "--workdir", folder, "--threshold", "1.5"]) == 2
    assert "--threshold=1.5 must be in [0, 1]" in capsys.readouterr().err


@pytest.mark.parametrize("layout", ["hf", "meta"])
def test_exported_weights_keep_the_thresholds(done, tmp_path, layout):
    export(done[0], tmp_path / "out", layout=layout)
    before, after = load_card(done[0] / "best").head, load_pretrained(tmp_path / "out").card.head
    assert after == before and len(set(after.thresholds)) > 1


@pytest.mark.parametrize("strategy", ["linear", "full_llrd", "lora"])
def test_strategies(file, tmp_path, strategy):
    """What a stage freezes is data: the task is the same for all. The run above is gradual."""
    made = config(file, 1, 1, 1)
    if strategy == "lora":
        made.stages = (common.stage("lora", epochs=1, **LORA),)
    else:
        made.stages = made.stages[:1] if strategy == "linear" else made.stages[2:]
    start = {path: np.asarray(leaf) for path, leaf in prepare(made, lambda _: None).task.flat.items()}
    summary = run(made, tmp_path / "run")
    _, flat = load_model(tmp_path / "run" / "best")
    changed = {path for path in start if not np.array_equal(start[path], flat[path])}
    expected = {
        "linear": {"head.kernel", "head.bias"},
        "lora": {"head.kernel", "head.bias", *(f"backbone.blocks.{i}.attn.qkv.kernel" for i in range(2))},
    }
    assert changed == expected[strategy] if strategy in expected else len(changed) > 20
    assert "test/map" in summary


def test_a_stopped_run_goes_on_bit_for_bit(file, tmp_path):
    class Stop(Exception):
        """Ends the first half."""

    def on_step(step):
        if step == 7:
            raise Stop

    def made():
        return config(file, 2, checkpoint__every_steps=3, ema_decay=0.9)

    def timeless(folder):
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        return [{key: v for key, v in line.items() if key not in MEASURED} for line in lines]

    run(made(), tmp_path / "whole")
    with pytest.raises(Stop):
        run(made(), tmp_path / "halves", on_step)
    run(made(), tmp_path / "halves")
    assert timeless(tmp_path / "whole") == timeless(tmp_path / "halves")
    cards = [load_card(tmp_path / name / "best") for name in ("whole", "halves")]
    assert cards[0] == cards[1]


def test_weights_of_a_run_start_another_of_either_kind(done, file, tmp_path):
    """The head goes on with new thresholds in a task of several labels; in one of single labels it has none."""
    folder, _ = done
    card = prepare(config(file, 1, model__weights=str(folder)), lambda _: None).task.card
    assert card.head.thresholds == (0.5, 0.5, 0.5)
    for n, name in enumerate([*CLASSES] * 4):
        (tmp_path / name).mkdir(exist_ok=True)
        Image.new("RGB", (8, 8), (n, 0, 0)).save(tmp_path / name / f"{n}.png")
    single = tiny.config(1, batch_size=4, data__name="folder", data__root=str(tmp_path), model__weights=str(folder))
    assert prepare(single, lambda _: None).task.card.head.thresholds == ()


def test_a_split_without_classes_is_refused(file, tmp_path):
    for row in csv.DictReader(file.read_text().splitlines()):
        (tmp_path / row["path"]).write_bytes((file.parent / row["path"]).read_bytes())
    lines = [row.split(",") for row in file.read_text().splitlines()]
    text = "\n".join(",".join([path, "" if split == "test" else labels, split]) for path, labels, split in lines)
    (tmp_path / "m.csv").write_text(text)
    with pytest.raises(UserError, match="no image of test has a class"):
        prepare(config(tmp_path / "m.csv", 1), lambda _: None)


def test_the_monitor_is_the_mean_average_precision_and_a_wrong_one_is_named(file):
    made = config(file, 1)
    assert prepare(made, lambda _: None).parts[0].stage.monitor == "val/map"
    made.early_stopping.monitor = "val/accuracy"
    with pytest.raises(UserError, match=r"'val/accuracy' is not measured; nearest: val/ma"):
        prepare(made, lambda _: None)


@pytest.mark.parametrize(
    ("given", "line", "expected"),
    [
        (2.5, "pos_weight: 2.5 for every class", 2.5),
        ((1, 2, 0.5), "pos_weight: even 1, loops 2, straight 0.5", (1.0, 2.0, 0.5)),
        ("balanced", "pos_weight, images of train without the class / with it: even ", None),
    ],
)
def test_weights_of_classes_are_said(file, given, line, expected):
    made, said = config(file, 1, 1), []
    with made.unlocked():
        made.objective.pos_weight = given
        made.stages[1].objective = ConfigDict(dict(pos_weight=3.0, sum_classes=True))
    setup = prepare(made, said.append)
    lines = [one for one in said if one.startswith("pos_weight")]
    assert len(lines) == 2 and lines[0].startswith(line) and lines[1] == "pos_weight: 3 for every class"
    labels = setup.task.source.split("train").fields["labels"]
    expected = expected or tuple((labels == 0).sum(0) / (labels == 1).sum(0))
    first, second = (setup.task.objective(part, {}) for part in setup.parts)
    assert first.pos_weight == expected and not first.sum_classes
    assert (second.pos_weight, second.sum_classes) == (3.0, True)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (dict(pos_weight=(1.0, 2.0)), r"pos_weight has 2 values for 3 classes: .* order: even, loops, straight"),
        (dict(pos_weight="balansed"), "pos_weight='balansed' is not known; nearest: balanced"),
        (dict(pos_weight=-1.0), "pos_weight=-1.0 must be in"),
        (dict(pos_weight=True), "pos_weight=True: give a number"),
        (dict(pos_weight=()), "give a number"),
        (dict(target_threshold=1.0), "target_threshold=1.0 must be in"),
        (dict(dice=1.0), "the objective has no field 'dice'"),
    ],
)
def test_wrong_settings_of_the_loss_are_refused(file, given, words):
    made = config(file, 1)
    with made.unlocked():
        made.objective.update(given)
    with pytest.raises(UserError, match=words):
        prepare(made, lambda _: None)


def test_any_config_has_the_settings_of_the_objective_on_the_command_line(file):
    flags = [f"--config.objective.{one}" for one in ("name=multilabel", "pos_weight=balanced", "sum_classes")]
    given = command("full_llrd", flags)
    made = given.config()
    assert (made.objective.pos_weight, made.objective.sum_classes, made.objective.target_threshold) == (
        "balanced",
        True,
        None,
    )
    assert set(given.changed(made)) == {"objective.name", "objective.pos_weight", "objective.sum_classes"}
    (weights,) = (command("multilabel", ["--config.objective.pos_weight=1,2.5,3"]).config().objective.pos_weight,)
    assert weights == (1, 2.5, 3)
    with pytest.raises(UserError, match="there is no such setting"):
        command("full_llrd", flags[1:]).config()
