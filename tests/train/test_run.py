"""Whole runs: what they leave behind, how they go on after a kill, what they refuse."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import child
import numpy as np
import pytest
import tiny
from measured import MEASURED
from PIL import Image

from convert.store import load_model
from jaxdino import predict
from jaxdino.core.errors import UserError
from jaxdino.train.loop import run
from jaxdino.train.setup import prepare

DRAWN = True

ROOT = Path(__file__).parents[2]


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def timeless(folder: Path) -> list[dict]:
    return [{k: v for k, v in line.items() if k not in MEASURED} for line in lines(folder)]


def config():
    """The config of `python tiny.py`."""
    return tiny.config(2, 2, 2, checkpoint__every_steps=3, ema_decay=0.9)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """The folder of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("run") / "undisturbed"
    run(config(), folder)
    return folder


def assert_same_run(folder: Path, other: Path) -> None:
    assert timeless(folder) == timeless(other)
    (card, flat), (other_card, other_flat) = load_model(folder / "best"), load_model(other / "best")
    assert card.digest == other_card.digest
    for path, value in flat.items():
        assert np.array_equal(value, other_flat[path]), path


@pytest.mark.slow
def test_killed_at_a_step_and_started_again_the_result_is_bit_identical(finished, tmp_path):
    step = np.random.default_rng().integers(2, 20)  # a checkpoint may be being written
    command = [sys.executable, str(Path(tiny.__file__)), str(tmp_path), str(step), "9"]
    done = subprocess.run(command, env=child.environment(), cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == -9, done.stderr
    assert (
        not (tmp_path / "summary.json").exists() or not json.loads((tmp_path / "summary.json").read_text())["finished"]
    )
    run(config(), tmp_path)
    assert_same_run(finished, tmp_path)


@pytest.mark.slow
def test_sigterm_saves_and_goes_on(finished, tmp_path, capsys):
    def on_step(now: int) -> None:
        if now == step:
            os.kill(os.getpid(), signal.SIGTERM)

    for step in (11, 12):  # within an epoch; at its end, before it is validated
        assert run(config(), tmp_path, on_step)["stopped"] == {"why": "by SIGTERM", "step": step}
        assert f"stopped by SIGTERM after step {step}" in capsys.readouterr().out
        assert (tmp_path / "checkpoints" / str(step) / "manifest.json").exists()
    run(config(), tmp_path)
    assert "resuming after step 12" in capsys.readouterr().out
    assert_same_run(finished, tmp_path)


def test_the_folder_holds_what_is_promised(finished):
    names = {path.name for path in finished.iterdir()}
    pictures = {"loss.png", "learning_rates.png", "val_accuracy.png", "speed.png", "memory.png"}
    files = {"config.json", "metrics.jsonl", "summary.json", "confusion.csv", "events", "checkpoints", "best"}
    files |= {"mistakes.csv", "report.html", "augmentations.png"}
    assert names == files | pictures | {"data.json", "data_files.gz"}
    assert json.loads((finished / "config.json").read_text())["model"]["name"] == "tiny"
    first, last = lines(finished)[0], lines(finished)[-1]
    assert {"stage", "epoch", "step", "loss", "learning_rates", "images_per_second"} <= first.keys()
    assert all(line["process_memory_gib"] > 0.1 for line in lines(finished))
    measured = [line["waiting"] for line in lines(finished) if line["images_per_second"]]
    assert measured and all(0 <= share <= 1 for share in measured)
    assert (first["stage"], first["epoch"], first["step"]) == ("head", 1, 1)
    assert (last["stage"], last["epoch"], last["step"]) == ("all", 2, 24)
    assert first["learning_rates"] == {"head": 3e-3} and set(last["learning_rates"]) == {"head", "backbone"}
    assert [line["step"] for line in lines(finished) if "val/accuracy" in line] == [4, 8, 12, 16, 20, 24]
    for name in pictures:
        with Image.open(finished / name) as picture:
            assert picture.size > (500, 300)


def test_the_summary_holds_what_is_promised(finished):
    summary = json.loads((finished / "summary.json").read_text())
    assert summary["finished"] and summary["model"] == "tiny" and summary["class_names"] == list("0123456789")
    assert [entry["name"] for entry in summary["stages"]] == ["head", "last", "all"]
    for entry in summary["stages"]:
        assert {"trainable_params", "trainable_fraction", "val/accuracy", "val/loss", "seconds"} <= entry.keys()
        assert (entry["epochs"], entry["steps"]) == (2, 8)
    assert summary["stages"][-1]["trainable_fraction"] == 1.0
    assert {"test/accuracy", "test/macro_f1", "test/loss"} <= summary.keys()


def test_events_hold_each_number_once(finished):
    from tensorboardX.event_file_writer import EventsWriter  # noqa: F401  (the package is there)
    from tensorboardX.proto import event_pb2

    tags = []
    for file in (finished / "events").iterdir():
        content, at = file.read_bytes(), 0
        while at < len(content):
            length = int.from_bytes(content[at : at + 8], "little")
            event = event_pb2.Event.FromString(content[at + 12 : at + 12 + length])
            tags += [(event.step, value.tag) for value in event.summary.value]
            at += length + 16
    assert len(tags) == len(set(tags))
    assert (24, "val/accuracy") in tags and (1, "learning_rates/head") in tags and (24, "loss") in tags


def test_a_finished_run_is_left_alone_and_another_config_refused(finished, capsys):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    same = config()
    assert run(same, finished)["finished"]
    assert "finished" in capsys.readouterr().out
    same.optimizer.weight_decay = 0.5
    with pytest.raises(UserError, match=r"optimizer.weight_decay: 0.05 there, 0.5 now"):
        run(same, finished)
    assert before == {path: path.stat().st_mtime_ns for path in finished.rglob("*")}


def test_predict_prints_class_and_probability(finished, tmp_path, capsys):
    Image.new("RGB", (8, 8), "white").save(tmp_path / "white.png")
    (tmp_path / "bad.png").write_text("no image")
    names = [str(tmp_path / name) for name in ("white.png", "bad.png")]
    assert predict.main(["--workdir", str(finished), "--top", "2", *names]) == 1
    out, err = capsys.readouterr()
    name, first, odds, _, second = out.strip().split("\t")
    assert name == names[0] and first in "0123456789" and 1 >= float(odds) >= float(second) > 0
    assert names[1] in err
    assert predict.main(["--workdir", str(finished), names[0]]) == 0
    assert predict.main(["--workdir", str(tmp_path / "none"), names[0]]) == 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"batch_size": 30}, r"batch_size=30 .* 4 device"),
        ({"batch_size": 4096}, "larger than the 2.. training images: lower it, as in --config.data.batch_size=2"),
        ({"precision": "float23"}, "nearest: float32"),
        ({"mesh__fsdp": 3}, "4 devices"),
        ({"early_stopping__monitor": "val_acuracy"}, "val/accuracy"),
        ({"data__augment": "lihgt"}, "light"),
        ({"data__image_size": 9}, "multiples of 4"),
        ({"model__weights": "nowhere.pth"}, "nowhere.pth"),
        ({"optimizer__schedule__name": "cosin"}, "cosine"),
        ({"checkpoint__keep": 1}, "at least 2"),
    ],
)
def test_what_cannot_work_is_refused_at_once_and_leaves_no_folder(all_devices, tmp_path, changes, words):
    with pytest.raises(UserError, match=words):
        run(tiny.config(1, **changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_stage_without_epochs_is_skipped():
    setup = prepare(tiny.config(0, 1, 0))
    assert [part.stage.name for part in setup.parts] == ["last"]
    with pytest.raises(UserError, match="nothing to train"):
        prepare(tiny.config(0, 0))


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_trains_float32_masters_on_four_devices(all_devices, tmp_path, precision):
    whole = dict(data__name="digits", batch_size=256)  # of few images the loss of a batch is mostly chance
    summary = run(tiny.config(0, 3, precision=precision, log_every=2, **whole), tmp_path)
    losses = [line["loss"] for line in lines(tmp_path)]
    assert losses[-1] < losses[0] and summary["finished"]
    assert {value.dtype for value in load_model(tmp_path / "best")[1].values()} == {np.dtype(np.float32)}


@pytest.mark.slow
def test_help_imports_no_jax():
    code = "import sys, jaxdino.main; sys.exit(any(name in sys.modules for name in ('jax', 'flax', 'torch')))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
