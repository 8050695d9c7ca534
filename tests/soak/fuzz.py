"""Run a reader's mutants in worker processes, and name what crashes, hangs, leaks or raises something else.

By hand: `python -m tests.soak.fuzz READER [FIRST LAST] [--seed N]`.
"""

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
HANG, START = 10.0, 180.0  # seconds
EACH = 10_000  # mutants of one worker: TensorStore keeps about 6 KB for each array of a checkpoint that is read
MOST_FAILURES = 20  # kinds of failures after which a reader is left


@dataclass
class Report:
    """What the mutants of a reader did.

    Attributes:
      outcomes: counts. failures: {kind: the first failure of this kind}. failed: how many of each kind.
      slowest: milliseconds. growth: of memory, bytes.
    """

    reader: str
    outcomes: Counter = field(default_factory=Counter)
    failures: dict[str, str] = field(default_factory=dict)
    failed: Counter = field(default_factory=Counter)
    slowest: float = 0.0
    growth: int = 0
    seconds: float = 0.0

    def __str__(self) -> str:
        shown = ", ".join(f"{count} {name}" for name, count in sorted(self.outcomes.items()))
        return (
            f"{self.reader}: {self.outcomes.total()} mutants ({shown}), {self.failed.total()} failures, slowest "
            f"{self.slowest:.0f} ms, memory +{self.growth >> 20} MB, {self.seconds:.0f} s"
        )

    def texts(self) -> list[str]:
        """Return the failures, one of each kind, with their numbers."""
        return [f"{self.failed[kind]} x {text}" for kind, text in self.failures.items()]


def fuzz(reader: str, seed: int, first: int, last: int, folder: Path, hang: float = HANG) -> Report:
    """Read the mutants `first` to `last` (not included) of a reader.

    Args:
      folder: the inputs of failures are kept there. hang: seconds after which a mutant is given up.
    """
    report, begin, number = Report(reader), time.monotonic(), first
    while number < last and len(report.failures) < MOST_FAILURES:
        number = _worker(report, seed, number, min(last, number + EACH), folder, hang)
    shutil.rmtree(folder / "work" / reader, ignore_errors=True)
    report.seconds = time.monotonic() - begin
    return report


def environment() -> dict[str, str]:
    """Return the variables of a worker: one device, compiled as the suite compiles."""
    flags = "--xla_force_host_platform_device_count=1 --xla_backend_optimization_level=0"
    quiet = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, "MPLBACKEND": "agg", "TQDM_DISABLE": "1"}
    path = f"{ROOT}:{ROOT / 'tests' / 'train'}"
    return os.environ | quiet | {"PYTHONPATH": path, "PYTHONFAULTHANDLER": "1"}


def _worker(report: Report, seed: int, first: int, last: int, folder: Path, hang: float) -> int:
    """Run one worker until it has read all, dies or hangs. Return the next mutant to read."""
    work = folder / "work" / report.reader
    work.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "tests.soak.worker", report.reader, *map(str, (seed, first, last)), str(work)]
    with open(work.with_suffix(".stderr"), "w+b") as errors:
        process = subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=errors)
        try:
            state = _Events(report, seed, first, work, folder).follow(process, hang)
        finally:
            process.kill()
            process.communicate()
        if state.number is None and process.returncode != 0:
            errors.seek(0)
            what = f"the worker failed before mutant {state.next}:\n{errors.read().decode()[-3000:]}"
            raise RuntimeError(f"{report.reader}: {what}")
        if state.number is not None:
            how = "hangs" if process.returncode == -signal.SIGKILL and state.hangs else f"dies ({process.returncode})"
            errors.seek(0)
            said = errors.read().decode("utf-8", "replace")[-1500:]
            state.fail(state.number, how, said)
            return state.number + 1
    return last


class _Events:
    """The lines of a worker (see `tests.soak.worker`)."""

    def __init__(self, report: Report, seed: int, first: int, work: Path, folder: Path):
        self.report, self.seed, self.work, self.folder = report, seed, work, folder
        self.number: int | None = None  # the mutant that is being read
        self.file, self.next, self.ready, self.hangs = "", first, False, False

    def follow(self, process: subprocess.Popen, hang: float) -> "_Events":
        """Handle all lines until the end of the worker, or until it is silent for too long.

        The wait has two halves: a machine that sleeps for a while, as virtual ones do, ends only one of them.
        """
        assert process.stdout is not None
        rest, out = b"", process.stdout
        while True:
            reading = self.ready and self.number is not None  # otherwise the worker starts, or makes the next mutant
            wait = (hang if reading else START) / 2
            if not (select.select([out], [], [], wait)[0] or select.select([out], [], [], wait)[0]):
                self.hangs = True
                process.kill()
                process.wait()
                return self
            block = os.read(out.fileno(), 1 << 16)
            if not block:
                process.wait()
                return self
            *lines, rest = (rest + block).split(b"\n")
            for line in lines:
                self.handle(line.decode("utf-8", "replace"))

    def handle(self, line: str) -> None:
        kind, _, text = line.partition(" ")
        if kind == "ready":
            self.ready = True
        elif kind == ">":
            number, _, self.file = text.partition(" ")
            self.number = int(number)
        elif kind == "=":
            number, outcome, took = text.split()
            self.number, self.next = None, int(number) + 1
            self.report.outcomes[outcome] += 1
            self.report.slowest = max(self.report.slowest, float(took))
        elif kind == "!":
            number, kind, what = json.loads(text)
            self.fail(number, kind, what)
        elif kind == "#":
            self.report.growth = int(text)

    def fail(self, number: int, kind: str, what: str) -> None:
        """Record a failure; of the first one of a kind, keep the text and the input."""
        self.report.failed[kind] += 1
        if kind in self.report.failures:
            return
        kept = self.folder / f"{self.report.reader}-{self.seed}-{number}"
        shutil.rmtree(kept, ignore_errors=True)
        shutil.copytree(self.work / "case", kept, symlinks=True)
        where = f"seed {self.seed}, mutant {number}, changed {self.file}, input kept in {kept}"
        self.report.failures[kind] = text = f"{self.report.reader}: {kind}; {where}\n{what}"
        kept.with_suffix(".txt").write_text(text, encoding="utf-8", errors="replace")  # a long run may be ended


def main() -> None:
    import argparse
    import tempfile

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("reader")
    parser.add_argument("first", type=int, nargs="?", default=1)
    parser.add_argument("last", type=int, nargs="?", default=1001)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path(tempfile.gettempdir()) / "jaxdino-soak")
    given = parser.parse_args()
    report = fuzz(given.reader, given.seed, given.first, given.last, given.keep)
    for text in report.texts():
        print(f"{text}\n")
    print(report)


if __name__ == "__main__":
    main()
