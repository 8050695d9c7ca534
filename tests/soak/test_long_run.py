"""A long run keeps its memory and its open files, and leaves nothing behind.

`python -m pytest -n0 -m soak tests/soak/test_long_run.py --steps 10000 --validations 500`: about ten minutes.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.train import child

WARM = 0.2  # share of the steps after which memory is compared
GROWTH = 1.05


def ours(folder: Path) -> set[str]:
    """Return the names in a folder for temporary files or shared memory that are not those of other programs."""
    return {name for name in os.listdir(folder) if re.match(r"jaxdino|tmp|psm_|sem\.mp|torch_|grain", name)}


@pytest.mark.soak
def test_memory_files_and_what_is_left(soak, tmp_path, capsys):
    steps, validations = soak("steps"), soak("validations")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    shared = Path("/dev/shm")
    before = ours(shared) if shared.is_dir() else set()
    case, folder = Path(__file__).with_name("long_run_case.py"), tmp_path / "run"
    command = [sys.executable, str(case), str(folder), str(steps), str(validations)]
    path = f"{child.ROOT}:{child.ROOT / 'tests' / 'train'}"
    env = child.environment() | {"PYTHONPATH": path, "TMPDIR": str(temporary), "TQDM_DISABLE": "1"}
    out = subprocess.run(command, env=env, cwd=child.ROOT, capture_output=True, text=True, check=False)
    assert out.returncode == 0, out.stdout[-2000:] + out.stderr[-2000:]
    assert json.loads((folder / "summary.json").read_text())["finished"]
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert sum("val/loss" in line for line in lines) == validations
    samples = [json.loads(line) for line in Path(f"{folder}.samples.jsonl").read_text().splitlines()]
    warm = [one for one in samples if one["step"] >= WARM * steps]
    memory, files = [one["rss"] for one in warm], [one["files"] for one in warm]
    half = len(warm) // 2  # while a checkpoint is written more files are open: the fewest count
    with capsys.disabled():
        grown = 100 * (max(memory) / memory[0] - 1)
        shown = f"{memory[0] >> 20} MB, at most {max(memory) >> 20} MB (+{grown:.1f} %), {min(files)} files"
        print(f"\n{steps} steps: {shown}")
    assert max(memory) <= GROWTH * memory[0]
    assert min(files[:half]) == min(files[half:])
    assert not ours(temporary)
    assert not shared.is_dir() or ours(shared) <= before
