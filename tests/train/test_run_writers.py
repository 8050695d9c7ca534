"""TensorBoard, W&B and MLflow, with the real packages and without a network: every step once, also after a kill."""

import importlib.util
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny
import wandb_file
from child import ROOT, environment
from tensorboard_file import scalars

from jaxdino.core.errors import UserError
from jaxdino.settings import writers as names
from jaxdino.train import writers
from jaxdino.train.loop import run
from jaxdino.train.writers import background
from jaxdino.train.writers.writer import flattened, numbers

ALL = "tensorboard,wandb,mlflow"
CODE = """
import os, signal, sys
import tiny
from jaxdino.train.loop import run
from tests import one_device
one_device.use()
folder, after = sys.argv[1], int(sys.argv[2])
config = tiny.config(2, checkpoint__every_steps=3, writers="tensorboard,wandb,mlflow", tracking__name="mine")
run(config, folder, lambda step: step == after and os.kill(os.getpid(), signal.SIGKILL))
"""


@pytest.fixture(autouse=True)
def no_variables(monkeypatch):
    """No setting of the machine's own."""
    for name in ("WANDB_MODE", "WANDB_PROJECT", "WANDB_RUN_ID", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    for name in ("MLFLOW_ALLOW_FILE_STORE", "MLFLOW_DISABLE_TELEMETRY"):
        monkeypatch.setenv(name, "true")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")


def client(folder: Path):
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=json.loads((folder / "writers.json").read_text())["mlflow"]["uri"])


def ids(folder: Path) -> dict[str, str]:
    return {name: one["id"] for name, one in json.loads((folder / "writers.json").read_text()).items()}


def losses(folder: Path) -> dict[int, float]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines}


def wandb_losses(folder: Path) -> list[tuple[int, float]]:
    lines = [line for file in wandb_file.starts(folder) for line in wandb_file.logged(file)]
    return [(int(line["_step"]), float(line["loss"])) for line in lines]


def mlflow_losses(folder: Path) -> list[tuple[int, float]]:
    return [(one.step, one.value) for one in client(folder).get_metric_history(ids(folder)["mlflow"], "loss")]


@pytest.mark.slow
def test_a_killed_run_goes_on_in_the_same_records(tmp_path):
    command = [sys.executable, "-c", CODE, str(tmp_path / "run")]
    found = []
    for after in (5, 0):  # killed two steps after a checkpoint, then not
        done = subprocess.run(
            [*command, str(after)], env=environment(), cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == (-signal.SIGKILL if after else 0), done.stderr
        found.append(ids(tmp_path / "run"))
    assert found[0] == found[1] and set(found[0]) == {"wandb", "mlflow"}
    folder, whole = tmp_path / "run", losses(tmp_path / "run")
    assert list(whole) == [1, 2, 3, 4, 5, 6, 7, 8] and wandb_losses(folder) == list(whole.items())
    assert [step for step, _ in mlflow_losses(folder)] == list(whole) and dict(mlflow_losses(folder)) == whole
    assert [step for step, _ in scalars(folder / "events")["loss"]] == list(whole)
    (file,) = wandb_file.starts(folder)  # those of the killed starts are written again, and removed
    assert (wandb_file.run_of(file).run_id, wandb_file.run_of(file).display_name) == (found[0]["wandb"], "mine")
    results = json.loads((folder / "summary.json").read_text())
    assert float(wandb_file.summary(file)["test/accuracy"]) == results["test/accuracy"]
    at_end = client(folder).get_run(found[0]["mlflow"])
    assert at_end.data.metrics["test/accuracy"] == pytest.approx(results["test/accuracy"])
    assert at_end.info.status == "FINISHED" and at_end.data.params["optimizer.weight_decay"] == "0.05"
    assert at_end.data.params["stages.0.name"] == "head" and at_end.info.run_name == "mine"
    assert scalars(folder / "events")["test/accuracy"][0][0] == 8


class Recorder:
    """A writer of a test: keeps what it is given; raises at some steps."""

    made: list = []
    raises: tuple[int, ...] = ()
    opens = True
    slow = 0.0
    has = 0

    def __init__(self, target):
        if not type(self).opens:
            raise ConnectionError("no route to host")
        self.reached, self.kept, self.steps, self.closed = type(self).has, {"id": "1"}, [], []
        self.summary: dict = {}
        type(self).made.append(self)

    def write(self, values, step, time_):
        time.sleep(type(self).slow)
        if step in type(self).raises:
            raise OSError(28, "No space left on device")
        self.steps.append(step)

    def finish(self, summary, files):
        self.summary, self.files = dict(summary), list(files)

    def close(self, finished):
        self.closed.append(finished)


@pytest.fixture
def recorder(monkeypatch):
    """The class of a writer named "wandb"."""
    made = type("Made", (Recorder,), {"made": []})
    monkeypatch.setitem(writers.WRITERS, "wandb", made)
    return made


def config(**changes):
    return tiny.config(1, batch_size=128, **changes)


def test_a_failing_writer_is_named_once_and_counted(recorder, tmp_path, capsys):
    recorder.raises = (1, 2)
    found = run(tiny.config(1, writers="wandb"), tmp_path)
    said = [line for line in capsys.readouterr().out.splitlines() if "writer wandb" in line]
    assert found["finished"] and list(losses(tmp_path)) == [1, 2, 3, 4]
    assert recorder.made[0].steps == [3, 4] and recorder.made[0].closed == [True]
    assert recorder.made[0].summary["test/accuracy"] == found["test/accuracy"] and recorder.made[0].files == []
    assert len(said) == 2 and "wandb failed (OSError: [Errno 28] No space left on device)" in said[0]
    assert said[1] == "writer wandb: 2 of 7 writes failed; metrics.jsonl has all"


def test_a_slow_writer_does_not_delay_a_step(recorder, monkeypatch, tmp_path, capsys):
    recorder.slow = 0.3
    monkeypatch.setattr(background, "PATIENCE", 0.1)
    monkeypatch.setattr(background, "WAITING", 2)
    opened = writers.Writers(tmp_path, {"writers": "wandb"})
    opened.open([])
    begin = time.perf_counter()
    for step in range(1, 6):
        opened.write({"step": step, "time": 0.0, "loss": 1.0})
    assert time.perf_counter() - begin < 0.2
    opened.close()
    said = capsys.readouterr().out
    assert "2 lines are waiting for it" in said and "did not end within 0 s" in said


def test_a_writer_that_cannot_be_opened(recorder, tmp_path, capsys):
    recorder.opens = False
    with pytest.raises(UserError, match=r"'wandb' cannot be opened: ConnectionError: no route to host"):
        run(config(writers="wandb"), tmp_path / "new")
    first = run(config(writers="none", checkpoint__every_steps=1, time_limit="0.001s"), tmp_path / "run")
    assert not first["finished"]
    assert run(config(writers="wandb", checkpoint__every_steps=1), tmp_path / "run")["finished"]
    assert "cannot be opened (ConnectionError: no route to host); the training goes on" in capsys.readouterr().out


def test_a_writer_that_is_added_later_gets_the_earlier_lines(recorder, tmp_path):
    often = dict(checkpoint__every_steps=1)
    run(tiny.config(1, writers="none", time_limit="0.001s", **often), tmp_path)
    run(tiny.config(1, writers="wandb", time_limit="0.001s", **often), tmp_path)
    recorder.has = 3  # one line further than the checkpoint, as after a kill
    run(tiny.config(1, writers="wandb", **often), tmp_path)
    assert [one.steps for one in recorder.made] == [[1, 2], [4]] and list(losses(tmp_path)) == [1, 2, 3, 4]
    assert [one.closed for one in recorder.made] == [[False], [True]] and not (tmp_path / "events").exists()


def test_damaged_ids_are_said(recorder, tmp_path, capsys):
    (tmp_path / "writers.json").write_text("{")
    opened = writers.Writers(tmp_path, {"writers": "wandb"})
    opened.open([])
    opened.close()
    assert "writers.json is damaged" in capsys.readouterr().out
    assert json.loads((tmp_path / "writers.json").read_text()) == {"wandb": {"id": "1"}}


def test_the_page_is_given_if_asked(recorder, tmp_path):
    run(config(writers="wandb", tracking__artefacts=True), tmp_path)
    assert [file.name for file in recorder.made[0].files] == ["report.html"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (dict(writers="wandbb"), "writers='wandbb' is not known; nearest: wandb"),
        (dict(writers="none,wandb"), "'none' stands alone"),
        (dict(writers="wandb", tracking__mode="on"), "tracking.mode='on' is not known"),
        (dict(writers="mlflow", tracking__mode="offline", tracking__uri="https://x"), "is a server"),
    ],
)
def test_wrong_names_are_refused_before_anything_is_written(tmp_path, changes, words):
    with pytest.raises(UserError, match=words):
        run(config(**changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_missing_package_names_the_extra(monkeypatch, tmp_path):
    there = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "mlflow" else there(name))
    with pytest.raises(UserError, match=r"needs the package 'mlflow'.*pip install 'jaxdino\[mlflow\]'"):
        run(config(writers=ALL), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    run(config(), tmp_path / "run")


def test_mlflow_online_needs_a_server(tmp_path):
    with pytest.raises(UserError, match=r"needs a server of MLflow's: give --config.tracking.uri"):
        run(config(writers="mlflow", tracking__mode="online"), tmp_path / "run")


def test_names_and_numbers():
    assert names.chosen(" tensorboard, wandb,wandb") == ("tensorboard", "wandb") and names.chosen("none") == ()
    assert flattened({"a": {"b": 1}, "s": [{"x": (1, 2)}]}, ".") == {"a.b": 1, "s[0].x": (1, 2)}
    assert numbers({"loss": 1.5, "rates": {"head": 2}, "ok": True, "none": None}) == {"loss": 1.5, "rates/head": 2}
    assert names.is_remote("https://a") and names.is_remote("databricks://p") and not names.is_remote("file:///a")
    assert not names.is_remote("runs/mlruns") and not names.is_remote(None)
