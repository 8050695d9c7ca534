"""The same command again: a time limit, a longer stage, a run that is finished; and what a stage was given is kept."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny
from measured import MEASURED

from convert.store import load_model
from jaxdino.core.errors import UserError
from jaxdino.train.loop import run
from jaxdino.train.stop import Stop, seconds

ROOT = Path(__file__).parents[2]


def lines(folder: Path) -> list[dict]:
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in MEASURED} for line in found]


@pytest.fixture(scope="module")
def short(tmp_path_factory) -> Path:
    """The folder of a run of two steps, in one stage of one epoch."""
    folder = tmp_path_factory.mktemp("short") / "run"
    run(tiny.config(1, batch_size=128), folder)
    return folder


@pytest.mark.parametrize(
    ("text", "expected"),
    [("2h", 7200), ("90m", 5400), ("45s", 45), ("1h30m", 5400), ("120", 120), ("0.5h", 1800), ("1d 2h", 93600)],
)
def test_a_time_limit_is_read(text, expected):
    assert seconds(text) == expected


@pytest.mark.parametrize("text", ["2 hours", "", "0", "h", "-5", "30m1h", "nan"])
def test_what_is_no_time_is_refused_before_anything_is_written(tmp_path, text):
    with pytest.raises(UserError, match=r"time_limit=.*1h30m"):
        run(tiny.config(1, time_limit=text), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_time_limit_counts_only_after_a_step():
    stop = Stop("0.000001s")
    assert not stop.asked()
    stop.stepped()
    assert stop.asked() and "time limit of 0.000001s" in stop.reason
    assert not Stop("1h").asked()


def test_a_limit_below_a_step_comes_to_the_same_end(short, tmp_path, capsys):
    config = tiny.config(1, batch_size=128, time_limit="0.001s")
    first = run(config, tmp_path)
    assert not first["finished"] and first["stopped"]["step"] == 1
    assert "stopped at the time limit of 0.001s after step 1; the same command resumes" in capsys.readouterr().out
    assert [run(config, tmp_path)["finished"] for _ in range(2)] == [False, True]
    assert lines(short) == lines(tmp_path)
    assert load_model(short / "best")[0].digest == load_model(tmp_path / "best")[0].digest


def test_ctrl_c_saves_and_leaves(short, tmp_path):
    def on_step(step: int) -> None:
        if step == 1:
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    found = run(tiny.config(1, batch_size=128), tmp_path, on_step)
    assert found["stopped"] == {"why": "by Ctrl-C", "step": 1} and signal.getsignal(signal.SIGINT) is before
    assert run(tiny.config(1, batch_size=128), tmp_path)["finished"] and lines(short) == lines(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_leaves_at_once(number):
    code = (
        "import os\nfrom jaxdino.train.stop import Stop\n"
        f"with Stop():\n  os.kill(os.getpid(), {int(number)})\n  print('saving', flush=True)\n"
        f"  os.kill(os.getpid(), {int(number)})\n  print('still here')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == -number and done.stdout == "saving\n" and "a second one leaves" in done.stderr


def test_a_finished_run_prints_its_results_again(short, capsys):
    found = run(tiny.config(1, batch_size=128), short)
    out = capsys.readouterr().out
    assert all(line in out for line in found["result"]) and "delivered" in found["result"][0]
    assert "test (model of stage 'head', epoch 1): accuracy" in out and "most frequent class" in out
    assert "--config.stages[0].epochs" in out and f"--config.model.weights={short} --workdir=NEW" in out


def test_a_finished_run_trains_on_when_its_last_stage_becomes_longer(tmp_path, capsys):
    run(tiny.config(1, 1, batch_size=128), tmp_path)
    old = lines(tmp_path)
    for changes in ((2, 1), (1, 0)):  # a stage that is over; a shorter one
        with pytest.raises(
            UserError, match=f"(?s)cannot be resumed with other settings.*--config.model.weights={tmp_path}"
        ) as err:
            run(tiny.config(*changes, batch_size=128), tmp_path)
        assert ("is over" in str(err.value)) == (changes == (2, 1))
    with pytest.raises(UserError, match="holds a run of another config"):
        run(tiny.config(1, 3, batch_size=128, seed=1), tmp_path)
    capsys.readouterr()
    found = run(tiny.config(1, 3, batch_size=128), tmp_path)
    out = capsys.readouterr().out
    assert "takes 6 steps instead of 2" in out and "from 0% of its peak to 75%" in out
    assert found["finished"] and [entry["epochs"] for entry in found["stages"]] == [1, 3]
    assert lines(tmp_path)[: len(old)] == old and [line["step"] for line in lines(tmp_path)] == [*range(1, 9)]
    assert lines(tmp_path)[-3]["learning_rates"]["head"] == pytest.approx(3e-3 * 0.5, rel=1e-5)  # step 3 of 6
    assert run(tiny.config(1, 3, batch_size=128), tmp_path)["finished"]
    with pytest.raises(UserError, match="can only become longer"):
        run(tiny.config(1, 1, batch_size=128), tmp_path)
    other = tiny.config(1, 3, batch_size=128)
    with other.unlocked():
        other.stages[1].epochs, other.stages[1].steps = None, 100
    with pytest.raises(UserError, match="is in epochs or in steps, as it began: change that number alone"):
        run(other, tmp_path)


@pytest.fixture
def learned(tmp_path) -> Path:
    """The folder of a run that is clearly better than chance."""
    config = tiny.config(0, 0, 6, batch_size=32, data__augment="none", optimizer__schedule__name="constant")
    for group in config.stages[2].groups.values():
        group.lr = 5e-3
    assert run(config, tmp_path / "learned")["stages"][0]["val/accuracy"] > 0.3
    return tmp_path / "learned"


def test_a_stage_that_gets_worse_hands_on_what_it_was_given(learned, tmp_path, capsys):
    config = tiny.config(0, 0, 3, batch_size=128, model__weights=str(learned), early_stopping__patience=1)
    config.early_stopping.min_delta = 1.0
    for group in config.stages[2].groups.values():
        group.lr = 10.0
    found = run(config, tmp_path / "run")
    out = capsys.readouterr().out
    before, after = load_model(learned / "best")[1], load_model(tmp_path / "run" / "best")[1]
    assert all(np.array_equal(before[path], after[path]) for path in before)
    assert found["delivered"] == {} and found["stages"][0]["best_epoch"] == 0
    assert found["stages"][0]["val/accuracy"] == max(line.get("val/accuracy", 0) for line in lines(learned))
    assert "test (the model that the run started from)" in out and "as given" in out and "(start)" in out
    assert "stage 'all' stopped early at epoch 2 of 3: val/accuracy has not gained 1 for 1 epoch" in out
    longer = tiny.config(0, 0, 9, batch_size=128, model__weights=str(learned), early_stopping__patience=1)
    longer.early_stopping.min_delta = 1.0
    longer.stages[2].groups = config.stages[2].groups
    with pytest.raises(UserError, match="stopped early at epoch 2: more epochs would have no effect"):
        run(longer, tmp_path / "run")
