"""All measurements of one accelerator against PyTorch, in under eight minutes, as a page of Markdown.

python -m benchmarks.accelerator --output=docs/performance_gpu.md
python -m benchmarks.accelerator --only='step .*vit_large' --output=large.md
python -m benchmarks.accelerator --tiny --output=tiny.md

Forward passes and training steps of ViT-S, B and L and of DINOv3 at 224 and 512 pixels, attention by XLA and by cuDNN;
self-distillation steps; steps of a head, and linear heads on features. The peers are timm and transformers under
`torch.compile` with scaled dot-product attention, in bfloat16; both sides in turns in one process, as in the other
benchmarks. `--tiny` runs every case at a size for a CPU, with eager peers: it tests the script.

Several processes first compile all cases, and leave their programs in the caches of jax and torch. Another process then
measures the cases one by one. What fails is a cell with its error. If the process dies, or a case exceeds its limit, a
new process goes on with the next case. The page is written anew after each case. A second run finds all programs.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from jaxdino.core.program_cache import keep_programs

POLL = 0.2  # seconds
COMPILING = 0.4  # share of the time
COLUMNS = ("jaxdino, xla", "jaxdino, cudnn", "timm", "transformers", "torch")
HEAD = """# Measured speed on {card}

Written by `{command}`.

{machine}.

Times are medians of one call; `ratio` is the fastest peer's time to our faster one (above 1, jaxdino is faster).
{rate}
"""


def page(facts: dict[str, Any], rows: Sequence[dict[str, Any]], left: Sequence[str]) -> str:
    """Return the page.

    Args:
      facts: `card`, `machine`, `command`, and `rate`, FLOP/s of a matrix product, if it was measured.
      rows: for each case: `name`, `work`, `flops` of a call or None, `seconds` and `errors` by column; or `failed`.
      left: names of the cases that have not run.
    """
    rate = facts.get("rate")
    known = f"`matrix rate`: share of {rate / 1e12:.4g} TFLOP/s, a bfloat16 product here." if rate else ""
    lines = ["| case | " + " | ".join(COLUMNS) + " | ratio | matrix rate |", "|---" * (len(COLUMNS) + 3) + "|"]
    lines += ["| " + " | ".join(_cells(row, rate)) + " |" for row in rows]
    unmeasured = f"\nNot measured, since the time was over: {', '.join(left)}.\n" if left else ""
    return HEAD.format(**{**facts, "rate": known}) + "\n" + "\n".join(lines) + "\n" + unmeasured


def _cells(row: dict[str, Any], rate: float | None) -> list[str]:
    if "failed" in row:
        return [row["name"], f"failed: {row['failed']}", *[""] * (len(COLUMNS) + 1)]
    seconds, works = row["seconds"], row["work"]
    found = [f"{seconds[one] * 1e3:.4g} ms" if one in seconds else row["errors"].get(one, "") for one in COLUMNS]
    each = {one: value / works[one] for one, value in seconds.items()}
    ours = min((value for one, value in each.items() if one.startswith("jaxdino")), default=None)
    peer = min((value for one, value in each.items() if not one.startswith("jaxdino")), default=None)
    ratio = f"{peer / ours:.2f}" if peer and ours else ""
    share = f"{row['flops'] / ours / rate:.0%}" if row["flops"] and ours and rate else ""
    return [row["name"], *found, ratio, share]


class Run:
    """A run of worker processes over the cases, within a time limit."""

    def __init__(self, args: argparse.Namespace, folder: Path):
        self.args, self.folder = args, folder
        self.until = time.monotonic() + args.seconds
        self.command = " ".join(["python -m benchmarks.accelerator", *sys.argv[1:]])

    def start(self, log: Path, *flags: str) -> subprocess.Popen:
        """Start a worker that writes its lines to `log`."""
        command = [sys.executable, "-m", "benchmarks.accelerator", "--worker", str(log), "--only", self.args.only]
        command += ["--tiny"] if self.args.tiny else []
        first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]  # the peers use one GPU
        with open(f"{log}.err", "ab") as errors:
            env = {**os.environ, "CUDA_VISIBLE_DEVICES": first}
            return subprocess.Popen([*command, *flags], stdout=errors, stderr=errors, env=env)

    def compile_all(self) -> None:
        """Fill the caches, in several processes at once."""
        count, until = self.args.processes, time.monotonic() + COMPILING * self.args.seconds
        each = [self.start(self.folder / f"compile{i}", "--share", f"{i}/{count}") for i in range(count)]
        for one in each:
            try:
                one.wait(max(1.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                one.kill()
                one.wait()

    def measure_all(self) -> list[dict[str, Any]]:
        """Measure the cases; write the page after each. Return the rows."""
        rows, facts, names = [], {}, None
        while names is None or (len(rows) < len(names) and time.monotonic() < self.until):
            log = self.folder / f"measure{len(rows)}"
            worker = self.start(log, "--skip", str(len(rows)))
            for line in self._lines(log, worker):
                facts |= line.get("facts", {})
                names = line.get("names", names)
                if "row" in line:
                    rows.append(line["row"])
                    self._write(facts, rows, names or [])
            if names is None:
                raise SystemExit(f"the worker failed before its first case:\n{_last(log, 2000)}")
            if len(rows) < len(names) and time.monotonic() < self.until:
                late = "time limit" if worker.returncode == -9 else _last(log, 120)
                rows.append({"name": names[len(rows)], "failed": late})
            self._write(facts, rows, names)
        return rows

    def _lines(self, log: Path, worker: subprocess.Popen) -> Iterator[dict[str, Any]]:
        """Yield the lines of a worker until it ends; kill it if it is silent for too long."""
        read, heard = 0, time.monotonic()
        while True:
            over = worker.poll() is not None
            text = log.read_bytes()[read:] if log.exists() else b""
            whole = text[: text.rfind(b"\n") + 1]
            for line in whole.splitlines():
                yield json.loads(line)
            read, heard = read + len(whole), time.monotonic() if whole else heard
            if over:
                return
            if time.monotonic() > min(self.until, heard + self.args.limit):
                worker.kill()
                worker.wait()
            time.sleep(POLL)

    def _write(self, facts: dict[str, Any], rows: Sequence[dict[str, Any]], names: Sequence[str]) -> None:
        target = Path(self.args.output)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(page(facts | {"command": self.command}, rows, names[len(rows) :]))
        if rows:
            print(" | ".join(_cells(rows[-1], facts.get("rate"))), flush=True)


def _last(log: Path, length: int) -> str:
    lines = Path(f"{log}.err").read_text(errors="replace").strip()[-length:]
    return " ".join(lines.replace("|", "/").split()) or "the process ended"


def main() -> None:
    """Run all cases, or be one of the processes that do."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--output", default="performance_gpu.md", help="the page")
    flags.add_argument("--only", default="", metavar="PATTERN", help="cases whose name has this regular expression")
    flags.add_argument("--seconds", type=float, default=470, help="for everything")
    flags.add_argument("--limit", type=float, default=90, help="seconds for one case")
    flags.add_argument("--processes", type=int, default=0, help="that compile; 0: 4, with --tiny none")
    flags.add_argument("--tiny", action="store_true", help="sizes for a CPU, to test this script")
    flags.add_argument("--worker", help=argparse.SUPPRESS)
    flags.add_argument("--share", help=argparse.SUPPRESS)
    flags.add_argument("--skip", type=int, default=0, help=argparse.SUPPRESS)
    args = flags.parse_args()
    re.compile(args.only)
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # torch needs memory of the same device
    keep_programs()
    if args.worker:
        from benchmarks import accelerator_cases

        accelerator_cases.work(args)
        return
    args.processes = args.processes or (0 if args.tiny else 4)
    with tempfile.TemporaryDirectory() as folder:
        run = Run(args, Path(folder))
        run.compile_all()
        run.measure_all()


if __name__ == "__main__":
    main()
