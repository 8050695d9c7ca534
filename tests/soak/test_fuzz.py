"""Damaged and hostile files of every kind: each is read, or refused in one clear message.

`python -m pytest -n0 -m soak tests/soak/test_fuzz.py --mutations 100000 --seed 0 [--reader images]`. A failure names
the reader, the seed, the mutant and the file, and keeps the input; `python -m tests.soak.fuzz READER N N+1 --seed S`
reads that mutant again.
"""

import warnings
from collections import Counter
from pathlib import Path

import pytest

from tests.soak.faulty import FAULTS
from tests.soak.fuzz import fuzz
from tests.soak.readers import READERS
from tests.soak.worker import Cases

SMOKE = 100  # mutants of each reader in the normal suite
ORBAX = ("model_folder", "training_folder", "run_folder")  # its threads complain later about damaged files
QUICK = ("json", "safetensors", "torch", "shards", "coco", "manifest_csv")


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.soak
def test_mutants(reader, request, soak, keep, capsys):
    if reader not in (request.config.getoption("--reader", None) or READERS):
        pytest.skip("not asked for")
    report = fuzz(reader, soak("seed"), 1, 1 + soak("mutations"), keep)
    with capsys.disabled():
        print(f"\n{report}")
    assert not report.failures, "\n\n".join([str(report), *report.texts()])


@pytest.mark.parametrize(
    "reader",
    [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in READERS if n not in ORBAX],
)
def test_a_few_mutants(reader, tmp_path):
    """In this process: what crashes or hangs is for the long test."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cases, outcomes = Cases(reader, 0, tmp_path), Counter()
        for number in range(1, SMOKE + 1):
            changed = cases.write(number)
            outcome, fault = cases.read(changed)
            assert fault is None, f"mutant {number} of {changed}: {fault[0]}\n{fault[1]}"
            outcomes[outcome] += 1
            cases.restore(changed)
    assert 0 < outcomes["fine"] < SMOKE


@pytest.mark.slow
def test_whatever_goes_wrong_is_found_and_its_input_kept(tmp_path):
    report = fuzz("faulty", 0, 1, 40, tmp_path, hang=3.0)
    kinds = {"dies (-11)", "hangs", "KeyError at faulty.py", "memory", "a control character in the message"}
    assert {kind.partition(":")[0] for kind in report.failures} == kinds
    assert report.outcomes.total() + report.failed["dies (-11)"] + report.failed["hangs"] == 39
    for fault in ("crash", "hang", "raise", "memory", "control"):
        text = next(text for text in report.texts() if f"changed {fault}.txt" in text)
        kept = text.partition("input kept in ")[2].partition("\n")[0]
        assert {path.stem for path in Path(kept).iterdir()} >= set(FAULTS) - {fault}
