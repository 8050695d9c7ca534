"""A Ray Data pipeline of two workers, one of which is killed: the table is that of one process."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convert.store import Card, save_model
from jaxdino import embed, predict
from jaxdino.core.params import split
from jaxdino.models.registry import get
from launch import ray_predict
from tests.conftest import QUICK

ROOT = Path(__file__).parents[2]


def below(top):
    """Return {process: its command} of the processes that a process has started, at any depth."""
    parents, words = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
            words[int(folder.name)] = (folder / "cmdline").read_text()
        except OSError:
            continue
    found = {top}
    for _ in range(4):
        found |= {process for process, parent in parents.items() if parent in found}
    return {process: words[process] for process in found if process in words}


@pytest.mark.slow
def test_a_killed_worker_is_replaced(tmp_path, monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.chdir(tmp_path)
    spec = get("dinov3_digits")
    flat = {path: np.asarray(leaf) for path, leaf in split(spec.build(3))[1].items()}
    save_model("run", Card(spec, spec.linear(3), class_names=("cat", "dog", "emu")), flat)
    Path("photos").mkdir()
    for number in range(4 * predict.BLOCK):
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(pixels).save(f"photos/{number:04d}.png", compress_level=0)
    flags = ["--workdir", "run", "photos"]
    env = os.environ | {"XLA_FLAGS": QUICK, "PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0"}
    env |= {"TMPDIR": "/tmp"}  # the paths of Ray's sockets must be short
    command = [sys.executable, "-m", "launch.ray_predict", "--workers=2", "--parts=4", "--out=ray.csv", *flags]
    with open("log.txt", "w") as log, subprocess.Popen(command, env=env, stdout=log, stderr=log) as driver:
        killed = None
        while driver.poll() is None and killed is None:
            time.sleep(0.2)
            if any(Path("ray.csv.parts").glob("*.jsonl")):
                working = [one for one, words in below(driver.pid).items() if words.startswith("ray::MapBatches")]
                if working:
                    killed = working[0]
                    os.kill(killed, signal.SIGKILL)
        status = driver.wait(500)
    said = Path("log.txt").read_text()
    assert killed is not None and status == 0, said[-3000:]
    assert predict.main([*flags, "--out", "one.csv"]) == 0
    assert Path("ray.csv").read_bytes() == Path("one.csv").read_bytes()


def test_a_part_of_another_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    called = []
    monkeypatch.setattr(embed, "main", lambda words: called.append(words) or 1)
    given = {"flags": ["--root", "x"], "count": 3, "out": "e.npy", "folder": str(tmp_path), "command": "embed"}
    assert ray_predict.part({"id": np.array([1])}, **given)["status"] == [1]
    assert called == [["--root", "x", "--shard", "2/3"]]
    Path("e.npy").touch()  # joined meanwhile
    assert ray_predict.part({"id": np.array([1])}, **given)["status"] == [0] and len(called) == 1
