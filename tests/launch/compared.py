"""Runs of tasks in several processes, and how close they are to those of one process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from convert.store import load_model
from launch.local import free_port
from tests.train import child
from tests.train.measured import MEASURED

RUNNER = Path(__file__).with_name("runner.py")
DIVISIONS = {2: (2,), 4: (2, 4), 8: (4,)}
"""{devices: numbers of processes that share them}."""


def assert_divisions_equal(folder: Path, devices: int, tasks: tuple[str, ...]) -> None:
    """Compare the tasks in one process with those in several, with the same number of devices in all."""
    runs = {count: run_all(folder / f"{count}", count, devices // count, tasks) for count in (1, *DIVISIONS[devices])}
    for count in DIVISIONS[devices]:
        for task in tasks:
            assert_equal(runs[1] / task, runs[count] / task)


def run_all(folder: Path, count: int, devices: int, tasks: tuple[str, ...], seconds: float = 900) -> Path:
    """Run the tasks in `count` processes with so many devices each; return the folder, which has one for each task."""
    folder.mkdir()
    settings = child.environment() | {"XLA_FLAGS": os.environ["XLA_FLAGS"].replace("count=4", f"count={devices}")}
    port, started, outs = free_port(), [], [folder / f"out{index}" for index in range(count)]
    for index, file in enumerate(outs):
        command = [sys.executable, str(RUNNER), str(index), str(count), str(port), str(folder), *tasks]
        with file.open("wb") as out:
            started.append(subprocess.Popen(command, env=settings, cwd=child.ROOT, stdout=out, stderr=out))
    try:
        codes = [one.wait(seconds) for one in started]
    finally:
        for one in started:
            one.kill()
    assert not any(codes), "\n".join(file.read_text(errors="replace")[-2000:] for file in outs)
    return folder


def assert_equal(one: Path, other: Path, rel: float = 1e-5, atol: float = 1e-5) -> None:
    """Compare losses, metrics, results and weights of two runs of a task."""
    logs = [[json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()] for run in (one, other)]
    assert len(logs[0]) == len(logs[1]) > 1
    for line, theirs in zip(*logs, strict=True):
        assert line.keys() == theirs.keys()
        for name in line.keys() - set(MEASURED):
            wanted = theirs[name]
            wanted = wanted if isinstance(wanted, str) else pytest.approx(wanted, rel=rel, abs=1e-6)
            assert line[name] == wanted, (name, line["step"])
    found = [json.loads((run / "summary.json").read_text()) for run in (one, other)]
    assert found[0]["result"][-1] == found[1]["result"][-1] and all(summary["finished"] for summary in found)
    weights = [load_model(run / "best")[1] for run in (one, other)]
    assert weights[0].keys() == weights[1].keys()
    for path, leaf in weights[0].items():
        np.testing.assert_allclose(np.asarray(leaf), np.asarray(weights[1][path]), rtol=0, atol=atol, err_msg=path)
