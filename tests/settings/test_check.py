"""Values that cannot work are refused before JAX is imported."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("data.image_size=100000", "data.image_size=100000 must be in [1, 16384]"),
        ("model.in_channels=1000000000000", "model.in_channels=1000000000000 must be in [1, 4096]"),
        ("data.num_threads=1000000", "data.num_threads=1000000 must be in [0, 512]"),
        ("objective.name=distill", "start from configs/ssl.py"),
        ("optimizer.clip_norm=nan", "clip_norm=nan is no number"),
        ("precision=float23", "nearest: float32"),
        ("data.augment=stong", "unknown preset 'stong'; nearest: strong"),
    ],
)
def test_refused_without_jax(flag, words, tmp_path):
    args = ["--config=configs/linear.py", f"--config.{flag}", f"--workdir={tmp_path / 'run'}"]
    code = f"import sys; sys.modules['jax'] = None; import jaxdino.main; jaxdino.main.start({args!r})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.startswith("error: ") and words in done.stderr, done.stderr
    assert not (tmp_path / "run").exists()
