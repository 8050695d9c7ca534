"""A dry run: its lines, its estimate of memory against the measured one, and that it writes nothing."""

import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest

from jaxdino.core.errors import UserError
from jaxdino.core.host_memory import HUGE
from jaxdino.train.begin import begin_stage
from jaxdino.train.dry_run import dry_run
from jaxdino.train.memory import parse_size, size_words
from jaxdino.train.setup import prepare
from jaxdino.train.trial import Trial
from tests.conftest import QUICK
from tests.train import tiny

ROOT = Path(__file__).parents[2]
SCALE = {"MiB": 2**20, "GiB": 2**30}
SETTINGS = """
from configs import gradual
config = gradual.get_config()
config.stages = config.stages[0], config.stages[2]  # only the head; everything
config.data.batch_size = 256
for stage in config.stages:
    stage.epochs = 2
"""
DRY = """
from jaxdino.train import dry_run, trial
trial.STEPS = 2
dry_run.dry_run(config)
"""
REAL = """
from benchmarks.dry_run_memory import run
run(config, 0, ".")  # one step: more of them overlap with other work of a run
"""
AT_ONCE = {"GLIBC_TUNABLES": HUGE}  # as the commands run


def test_every_stage_is_tried_and_nothing_is_written(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    config = tiny.config(1, 1, checkpoint__every_steps=3, ema_decay=0.9)
    dry_run(config, memory=2**40)
    out = capsys.readouterr().out
    assert out.startswith("data: few_digits, 10 classes; images: train 270")
    for name in ("stage head", "stage last"):
        assert name in out
    found = re.findall(r"steps: 4 of 64 images \(1 epochs of 4\), .* images/s, .* waiting for data; ", out)
    assert len(found) == 2
    assert out.count("largest batch in 1024.0 GiB: 270 (") == 2 and "all of the training images" in out
    assert re.search(r"\nhead( +[\d,.]+ [MG]iB){7}", out) and re.search(r"time: about .*, of which validation ", out)
    assert list(tmp_path.iterdir()) == []


def test_a_batch_that_no_memory_fits():
    said = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jaxdino.train.dry_run.say", said.append)
        dry_run(tiny.config(1), memory=1000)
    assert any(line.startswith("largest batch in 0 MiB: none; ") for line in said)


def test_a_batch_of_another_size_has_that_many_images(monkeypatch):
    config, seen = tiny.config(1, data__batch_size=22), []
    setup = prepare(config, lambda line: None)
    part = setup.parts[0]
    trial = Trial(setup, part, begin_stage(setup, part, None))
    trial.compiled = None
    monkeypatch.setattr("jaxdino.train.trial.measure", lambda *given: seen.append(given[-1]))
    trial.memory(15)  # 22 * (15 / 22) is below 15
    assert {x.shape[0] for x in seen[0].values()} == {15}


def size(text):
    number, unit = text.split()
    return int(float(number.replace(",", "")) * SCALE[unit])


def child(code, folder):
    env = os.environ | AT_ONCE | {"XLA_FLAGS": QUICK, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", SETTINGS + code]
    run = subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True, timeout=500)
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the peak is measured on Linux with glibc")
def test_the_peaks_are_within_15_percent_of_those_that_a_run_measures(tmp_path):
    """Of a stage that trains only a head, and of all; a batch so large that activations decide."""
    said = child(DRY, tmp_path)
    assert list(tmp_path.iterdir()) == []
    rows = {
        name: [size(one) for one in row.split("  ") if one] for name, row in re.findall(r"\n(head|all) +(.*iB)", said)
    }
    real = size(re.search(r"measured in a run: (.*)", child(REAL, tmp_path))[1])
    print({name: [x >> 20 for x in row] for name, row in rows.items()}, real >> 20)
    assert abs(rows["head"][-1] - real) < 0.15 * real
    *_, libraries, peak = rows["all"]
    assert libraries < 0.15 * peak  # the compiler's figures alone


@pytest.mark.parametrize(("text", "count"), [("16GiB", 2**34), ("80GB", 80 * 10**9), ("1.5Gi", 3 * 2**29), ("7", 7)])
def test_sizes(text, count):
    assert parse_size(text) == count


@pytest.mark.parametrize("text", ["", "16 TB", "GiB", "-1GiB", "0GB", "16gib"])
def test_wrong_sizes(text):
    with pytest.raises(UserError, match="give a size such as 16GiB"):
        parse_size(text)


def test_words_of_sizes():
    assert (size_words(2**30), size_words(5 * 2**20)) == ("1.0 GiB", "5 MiB")
