"""The script of all measurements on an accelerator: its page, and what it does when a case fails."""

import argparse
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest

from benchmarks import accelerator
from benchmarks.accelerator import page
from benchmarks.harness import Contender
from tests.conftest import QUICK

FACTS = {"card": "a card", "machine": "machine: a card", "command": "a command", "rate": 1e12}


def row(**more) -> dict:
    return {"name": "step", "work": {"jaxdino, xla": 8, "timm": 4}, "flops": 5e9, "seconds": {}, "errors": {}} | more


def test_the_page_compares_the_time_of_one_image():
    seconds = {"jaxdino, xla": 0.08, "timm": 0.06}
    text = page(FACTS, [row(seconds=seconds, errors={"jaxdino, cudnn": "no cuDNN"})], ["probe"])
    assert "| step | 80 ms | no cuDNN | 60 ms |  |  | 1.50 | 50% |" in text
    assert "time was over: probe" in text


def test_the_page_has_rows_that_failed():
    lines = page(FACTS, [row(failed="time limit"), row()], []).splitlines()
    assert "| step | failed: time limit |  |  |  |  |  |  |" in lines
    assert "| step |  |  |  |  |  |  |  |" in lines


@pytest.mark.filterwarnings("default")
def test_a_contender_that_fails_leaves_the_others():
    pytest.importorskip("timm")
    from benchmarks import accelerator_cases as cases

    def broken():
        raise RuntimeError("out | of\nmemory")

    works = lambda: Contender("any", lambda: np.ones(3).sum(), work=2)  # noqa: E731
    found = cases.measured(cases.Case("one", {"jaxdino, xla": broken, "timm": works}), rounds=1)
    assert found["errors"] == {"jaxdino, xla": "RuntimeError: out / of memory"}
    assert list(found["seconds"]) == ["timm"]
    json.dumps(found)


def test_every_case_has_a_column_for_each_contender():
    from benchmarks import accelerator_cases as cases

    found = list(cases.cases(tiny=False))
    assert len({case.name for case in found}) == len(found)
    assert {column for case in found for column in case.makers} == set(accelerator.COLUMNS)


WORKER = """
import json, sys, time
log, first = sys.argv[1], int(sys.argv[2])
with open(log, "a") as file:
    print(json.dumps({"names": ["a", "b", "c", "d"], "facts": {"card": "x", "machine": "m"}}), file=file, flush=True)
    for name in "abcd"[first:]:
        if name == "b":
            sys.exit("a crash")
        if name == "c":
            time.sleep(60)
        row = {"name": name, "work": {}, "flops": None, "seconds": {}, "errors": {}}
        print(json.dumps({"row": row}), file=file, flush=True)
"""


def test_a_case_that_crashes_or_hangs_does_not_end_the_run(tmp_path, monkeypatch):
    def start(self, log, *flags):
        with open(f"{log}.err", "wb") as errors:
            return subprocess.Popen([sys.executable, "-c", WORKER, str(log), flags[1]], stderr=errors)

    monkeypatch.setattr(accelerator.Run, "start", start)
    args = argparse.Namespace(seconds=60.0, limit=2.0, output=str(tmp_path / "page.md"), only="", tiny=True)
    rows = accelerator.Run(args, tmp_path).measure_all()
    assert [row.get("failed") for row in rows] == [None, "a crash", "time limit", None]
    assert [row["name"] for row in rows] == ["a", "b", "c", "d"]
    assert "| b | failed: a crash |" in (tmp_path / "page.md").read_text()


@pytest.mark.slow
def test_every_case_runs_at_the_size_for_a_cpu(tmp_path):
    pytest.importorskip("timm")
    from benchmarks import accelerator_cases as cases

    written = tmp_path / "page.md"
    flags = ["--tiny", "--seconds", "900", "--limit", "400", "--output", str(written)]
    one_device = os.environ | {"XLA_FLAGS": QUICK}
    subprocess.run([sys.executable, "-m", "benchmarks.accelerator", *flags], check=True, timeout=950, env=one_device)
    text = written.read_text()
    rows = dict(re.findall(r"^\| ([^|]+) \| (.*) \|$", text, re.MULTILINE))
    for case in cases.cases(tiny=True):
        cells = dict(zip(accelerator.COLUMNS, rows[case.name].split(" | "), strict=False))
        assert all(cells[column].endswith(" ms") for column in case.makers.keys() - {"jaxdino, cudnn"}), rows[case.name]
    assert "Not measured" not in text
