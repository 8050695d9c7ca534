"""A long tiny run that records its own memory and open files: `python long_run_case.py DIR STEPS VALIDATIONS`.

Every 1 % of the steps a line goes to DIR.samples.jsonl: {"step", "rss" (bytes), "files" (open file descriptors),
"threads"}.
"""

import json
import os
import sys
from pathlib import Path

import tiny

from jaxdino.core.host_memory import in_huge_pages, keep_freed
from jaxdino.train.loop import run

IMAGES = 1042  # training images of the bundled digits


def sample(step: int) -> dict[str, int]:
    """Return the memory, open files and threads of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    files, threads = (len(os.listdir(f"/proc/self/{name}")) for name in ("fd", "task"))
    return {"step": step, "rss": pages * os.sysconf("SC_PAGESIZE"), "files": files, "threads": threads}


def main(folder: str, steps: int, validations: int) -> None:
    """Run `steps` steps, with as many epochs as validations."""
    batch = IMAGES // (steps // validations)
    with open(f"{folder}.samples.jsonl", "w") as stream:

        def on_step(step: int) -> None:
            if step % max(1, steps // 100) == 0:
                stream.write(json.dumps(sample(step)) + "\n")
                stream.flush()

        length = max(1, steps // 50)
        how = dict(checkpoint__every_steps=length, ema_decay=0.9, data__name="digits")
        run(tiny.config(validations, batch_size=batch, **how), folder, on_step)


if __name__ == "__main__":
    in_huge_pages()  # as jaxdino.main does
    keep_freed()
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
