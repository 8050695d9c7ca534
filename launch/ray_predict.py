"""Classify images as a Ray Data pipeline: `python -m launch.ray_predict --workers 2 --workdir DIR --out X.csv IMAGES`.

All other arguments are those of `jaxdino predict`, or of the command that `--command` names. The images are divided
into parts; each is a task of Ray that calls `jaxdino predict --shard I/N`. Ray starts the tasks of a lost worker again,
which go on with their first missing block. The last part to finish writes the table, the same as that of one process.
With RAY_ADDRESS the workers are those of that cluster, which share the folders; else Ray is started on this machine.
Needs `pip install 'jaxdino[ray]'`.
"""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxdino import results
from jaxdino.core.command import finish
from jaxdino.core.errors import UserError
from jaxdino.parts import folder_of

COMMANDS = ("predict", "embed", "segment", "detect")
PARTS = 4
"""Parts for each worker: what is lost with a worker, at most, is started again on another one."""


def main(argv: Sequence[str] | None = None) -> int:
    """Classify the images; return 1 if one could not be read, else see `finish`."""
    parser = argparse.ArgumentParser(
        prog="python -m launch.ray_predict", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workers", type=int, required=True, help="number of workers, each with a CPU")
    parser.add_argument("--parts", type=int, help=f"number of parts (default {PARTS} for each worker)")
    parser.add_argument("--command", default="predict", choices=COMMANDS, help="what is done (default predict)")
    parser.add_argument("--out", required=True, help="the file or folder of the results, a new one")
    given, rest = parser.parse_known_args(argv)
    parts = given.parts or PARTS * given.workers
    return finish(lambda: run(given.workers, parts, given.out, rest, given.command))


def run(workers: int, count: int, out: str, flags: Sequence[str], command: str = "predict") -> int:
    """Run a command on the images in `count` parts; return the highest status of a part.

    Raises:
      UserError: without Ray, for less than one worker or part, and for an `out` that exists.
    """
    if workers < 1 or count < 1:
        raise UserError(f"--workers {workers} and --parts {count} must be at least 1")
    if command == "predict":
        results.check("--out", out, overwrite=False)
    if _joined(out):
        raise UserError(f"--out {out} exists already: give another one")
    try:
        import ray
        import ray.data
    except ImportError:
        raise UserError("Ray is not installed: pip install 'jaxdino[ray]'") from None
    os.environ.setdefault("RAY_raylet_start_wait_time_s", "300")  # a busy machine takes longer than Ray's 30 s
    ray.init(**({} if os.environ.get("RAY_ADDRESS") else {"num_cpus": workers, "include_dashboard": False}))
    try:
        what = {"flags": [*flags, "--out", out], "count": count, "out": out, "folder": os.getcwd(), "command": command}
        numbers = ray.data.range(count, override_num_blocks=count)
        found = numbers.map_batches(part, batch_size=1, fn_kwargs=what, concurrency=workers, num_cpus=1)
        return max(row["status"] for row in found.take_all())
    finally:
        ray.shutdown()


def part(
    batch: dict[str, Any], flags: Sequence[str], count: int, out: str, folder: str, command: str = "predict"
) -> dict[str, Any]:
    """Run a command on one part, in a worker; return its number and its status."""
    os.chdir(folder)
    number, status = int(batch["id"][0]) + 1, 0
    if not _joined(out):  # else only the answer of a lost worker is missing
        status = importlib.import_module(f"jaxdino.{command}").main([*flags, "--shard", f"{number}/{count}"])
        if status == 2 and _joined(out):
            status = 0  # the others were joined meanwhile, and nothing was left for this part
    return {"id": batch["id"], "status": [status]}


def _joined(out: str) -> bool:
    """Return whether all parts are in the results."""
    return Path(out).exists() and not folder_of(out).exists()


if __name__ == "__main__":
    sys.exit(main())
