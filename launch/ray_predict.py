"""Classify images as a Ray Data pipeline: `python -m launch.ray_predict --workers 2 --workdir DIR --out X.csv IMAGES`.

All other arguments are those of `jaxdino predict`. The images are divided into parts; each is a task of Ray that calls
`jaxdino predict --shard I/N`. Ray starts the tasks of a lost worker again, which go on with their first missing block.
The last part to finish writes the table, the same as that of one process. With RAY_ADDRESS the workers are those of
that cluster, which share the folders; else Ray is started on this machine. Needs `pip install 'jaxdino[ray]'`.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxdino import predict, results
from jaxdino.core.command import finish
from jaxdino.core.errors import UserError
from jaxdino.parts import folder_of

PARTS = 4
"""Parts for each worker: what is lost with a worker, at most, is started again on another one."""


def main(argv: Sequence[str] | None = None) -> int:
    """Classify the images; return 1 if one could not be read, else see `finish`."""
    parser = argparse.ArgumentParser(
        prog="python -m launch.ray_predict", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workers", type=int, required=True, help="number of workers, each with a CPU")
    parser.add_argument("--parts", type=int, help=f"number of parts (default {PARTS} for each worker)")
    parser.add_argument("--out", required=True, metavar="FILE", help="the table, a new file: .csv, .json or .jsonl")
    given, rest = parser.parse_known_args(argv)
    return finish(lambda: run(given.workers, given.parts or PARTS * given.workers, given.out, rest))


def run(workers: int, count: int, out: str, flags: Sequence[str]) -> int:
    """Classify the images in `count` parts; return the highest status of a part.

    Raises:
      UserError: without Ray, for less than one worker or part, and for an `out` that exists.
    """
    if workers < 1 or count < 1:
        raise UserError(f"--workers {workers} and --parts {count} must be at least 1")
    results.check("--out", out, overwrite=False)
    try:
        import ray
        import ray.data
    except ImportError:
        raise UserError("Ray is not installed: pip install 'jaxdino[ray]'") from None
    os.environ.setdefault("RAY_raylet_start_wait_time_s", "300")  # a busy machine takes longer than Ray's 30 s
    ray.init(**({} if os.environ.get("RAY_ADDRESS") else {"num_cpus": workers, "include_dashboard": False}))
    try:
        what = {"flags": [*flags, "--out", out], "count": count, "out": out, "folder": os.getcwd()}
        numbers = ray.data.range(count, override_num_blocks=count)
        found = numbers.map_batches(part, batch_size=1, fn_kwargs=what, concurrency=workers, num_cpus=1)
        return max(row["status"] for row in found.take_all())
    finally:
        ray.shutdown()


def part(batch: dict[str, Any], flags: Sequence[str], count: int, out: str, folder: str) -> dict[str, Any]:
    """Classify one part, in a worker; return its number and its status."""
    os.chdir(folder)
    number, status = int(batch["id"][0]) + 1, 0
    if not Path(out).exists():  # else all parts are joined, and only the answer of a lost worker is missing
        status = predict.main([*flags, "--shard", f"{number}/{count}"])
        if status == 2 and Path(out).exists() and not folder_of(out).exists():
            status = 0  # the others were joined meanwhile, and nothing was left for this part
    return {"id": batch["id"], "status": [status]}


if __name__ == "__main__":
    sys.exit(main())
