"""Reading processes and the signals that a terminal or a scheduler sends to the whole group."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import os, signal, threading

from jaxdino.data.pipeline import make_train_iter
from jaxdino.data.sources import load_source

if __name__ == "__main__":
    number = signal.Signals[os.sys.argv[1]]
    signal.signal(number, lambda *_: print("heard", flush=True))
    split = load_source(None).split("train")
    batches = make_train_iter(split, dict(num_workers=1), batch_size=8, image_size=8, preset="none", seed=0)
    if number == signal.SIGINT:  # while the process starts
        threading.Timer(0.5, lambda: os.killpg(0, number)).start()
    next(batches)
    os.killpg(0, number)
    print(sum(len(next(batches)["image"]) for _ in range(20)))
    batches.close()
"""


@pytest.mark.parametrize(("name", "times"), [("SIGINT", 2), ("SIGTERM", 1)])
def test_signals_of_the_group_are_left_to_the_main_process(tmp_path, name, times):
    (tmp_path / "read.py").write_text(SCRIPT)
    command = [sys.executable, str(tmp_path / "read.py"), name]
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    how = dict(env=env, capture_output=True, text=True, check=False, timeout=120, start_new_session=True)
    done = subprocess.run(command, **how)
    assert (done.returncode, done.stdout) == (0, "heard\n" * times + "160\n"), done.stderr
    assert "Traceback" not in done.stderr
