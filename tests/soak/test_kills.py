"""Runs that are killed at random moments and started again end as the run that nothing disturbed.

`python -m pytest -n0 -m soak tests/soak/test_kills.py --kills 100 --seed 0`. Half of the kills come after a random
time, half right after a random step, when a checkpoint or the best model is being written.
"""

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from convert.store import load_model
from tests.train import child, tiny
from tests.train.measured import MEASURED

AT_ONCE = 4  # kills of one run at most
STEPS = 24


def start(folder: Path) -> subprocess.Popen:
    """Start or resume the tiny run as a process of its own."""
    command = [sys.executable, str(Path(tiny.__file__)), str(folder)]
    with open(f"{folder}.out", "ab") as out:
        return subprocess.Popen(command, env=child.environment(), cwd=child.ROOT, stdout=out, stderr=out)


def finish(folder: Path) -> None:
    """Run until the end."""
    code = start(folder).wait(600)
    assert code == 0, Path(f"{folder}.out").read_text()[-3000:]


def lines_in(folder: Path) -> int:
    """Count the lines of metrics.jsonl: one for each step, and for each validation."""
    file = folder / "metrics.jsonl"
    return file.read_bytes().count(b"\n") if file.exists() else 0


def kill(folder: Path, rng: np.random.Generator, longest: float) -> str:
    """Start the run and kill it. Return when, in words."""
    process, step = start(folder), int(rng.integers(1, STEPS)) if rng.integers(2) else 0
    delay = rng.uniform(0, 0.4) if step else rng.uniform(0.2, longest)
    end = time.monotonic() + 2 * longest
    while step and process.poll() is None and lines_in(folder) < step and time.monotonic() < end:
        time.sleep(0.01)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(delay)
    process.kill()
    code = process.wait()
    return f"{f'step {step} and ' if step else ''}{delay:.2f} s ({'too late' if code == 0 else 'killed'})"


@pytest.mark.soak
def test_killed_at_random_moments_the_result_is_bit_identical(soak, tmp_path, capsys):
    rng, moments, runs = np.random.default_rng(soak("seed")), [], 0
    os.environ.setdefault("TQDM_DISABLE", "1")
    whole, begin = tmp_path / "undisturbed", time.monotonic()
    finish(whole)
    longest = time.monotonic() - begin
    while len(moments) < soak("kills"):
        folder = tmp_path / f"run{runs}"
        times = min(int(rng.integers(1, AT_ONCE + 1)), soak("kills") - len(moments))
        for _ in range(times):
            moments.append(kill(folder, rng, longest))
        finish(folder)
        try:
            assert_same_run(whole, folder)
            assert_same_checkpoint(whole, folder)
        except AssertionError as err:
            raise AssertionError(f"run {runs} of seed {soak('seed')}, killed after {moments[-times:]}: {err}") from err
        runs += 1
    with capsys.disabled():
        late = sum("too late" in moment for moment in moments)
        print(f"\n{len(moments)} kills ({late} after the end) of {runs} runs: all results are bit-identical")


def timeless(folder: Path) -> list[dict]:
    """Return the lines of metrics.jsonl without times."""
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: v for name, v in line.items() if name not in MEASURED} for line in found]


def assert_same_run(folder: Path, other: Path) -> None:
    """Compare the metrics, and the digests of the best models."""
    assert timeless(folder) == timeless(other)
    (card, _), (other_card, _) = load_model(folder / "best"), load_model(other / "best")  # checks the digests
    assert card.digest == other_card.digest


def assert_same_checkpoint(folder: Path, other: Path) -> None:
    """Compare the arrays of the last checkpoints bit by bit."""
    import orbax.checkpoint as ocp

    found = []
    for place in (folder, other):
        steps = sorted(int(path.name) for path in (place / "checkpoints").iterdir() if path.name.isdecimal())
        state = place / "checkpoints" / str(steps[-1]) / "state"
        with ocp.PyTreeCheckpointer() as checkpointer:
            tree = checkpointer.metadata(state).item_metadata.tree
            args = {name: ocp.RestoreArgs(restore_type=np.ndarray) for name in tree}
            found.append((steps[-1], checkpointer.restore(state, restore_args=args)))
    (step, arrays), (other_step, others) = found
    assert step == other_step and arrays.keys() == others.keys()
    for name, array in arrays.items():
        assert np.asarray(array).tobytes() == np.asarray(others[name]).tobytes(), name
