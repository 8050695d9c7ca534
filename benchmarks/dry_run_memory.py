"""The peak that `--dry-run` prints beside that of a run: `python -m benchmarks.dry_run_memory linear:dinov2_vits14`.

Weights are random and the images generated. Two processes: a dry run, and a run that ends after as many steps of its
first stage as the dry run took. Of the run, the growth of the process (Linux) in these steps is added to what it holds
before them; nothing waits between its steps, as in training. Settings are flags: `--config.data.batch_size=8`.
"""

import argparse
import contextlib
import io
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from jaxdino.core.host_memory import in_huge_pages
from jaxdino.core.processor import prepare


def dry(config: Any, steps: int) -> None:
    """Print the row of the first stage of a dry run."""
    from jaxdino.train import dry_run, trial

    trial.STEPS = steps
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        dry_run.dry_run(config)
    said = out.getvalue()
    print(re.search(r"\nstage  .*\n.*\n.*", said)[0].strip())  # type: ignore[index]


def run(config: Any, steps: int, folder: str) -> None:
    """Print the peak of 1 + 2 `steps` steps of a run in `folder`, and end this process."""
    from jaxdino.core.host_memory import Peak
    from jaxdino.train import loop, memory, step

    compile_train_step, compiled, held, taken, peak = step.compile_train_step, step.compiled, [], [], Peak()

    def held_first(what: Any, current: Any, *args: Any, **how: Any) -> Any:
        held.append(memory.on_device(current))
        return compile_train_step(what, current, *args, **how)

    def measured(*given: Any) -> Any:
        program = compiled(*given)  # which takes memory for a while
        peak.__enter__()

        def stepped(moving: Any, frozen: Any, batch: Any) -> Any:
            found = program(moving, frozen, batch)
            taken.append(found[1]["loss"])
            if len(taken) == 1 + 2 * steps:
                taken[-1].block_until_ready()
                peak.__exit__()
                total = held[0] + memory.on_device(batch) + (peak.grown or 0)
                print(f"measured in a run: {memory.size_words(total)}", flush=True)
                os._exit(0)
            return found

        return stepped

    step.compile_train_step, step.compiled = held_first, measured
    loop.run(config, f"{folder}/run")


def main() -> None:
    """Compare, or be one of the two processes."""
    in_huge_pages()  # as jaxdino.main does
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="a config, as after --config=")
    parser.add_argument("--steps", type=int, default=10, help="timed steps of the dry run, with and without reading")
    parser.add_argument("--stage", type=int, default=0, help="index of the stage that is tried (default 0)")
    parser.add_argument("--part", choices=("dry", "run"), help=argparse.SUPPRESS)
    args, flags = parser.parse_known_args()
    if args.part:
        from jaxdino.settings.command_line import command

        prepare()
        config = command(args.config, flags).config().copy_and_resolve_references()
        with config.unlocked():
            config.stages = config.stages[args.stage : args.stage + 1]
        dry(config, args.steps) if args.part == "dry" else run(config, args.steps, str(Path(config.data.root).parent))
        return
    from benchmarks.config_memory import images

    with tempfile.TemporaryDirectory() as folder:
        count = 100 * (2 * args.steps + 1)
        flags = [f"--config.data.root={images(Path(folder), 256, count)}", "--config.model.weights=random", *flags]
        for part in ("dry", "run"):
            again = [sys.executable, "-m", "benchmarks.dry_run_memory", args.config, *flags]
            again += [f"--steps={args.steps}", f"--stage={args.stage}", f"--part={part}"]
            out = subprocess.run(again, capture_output=True, text=True)
            print(re.sub(r"(?s).*(stage  |measured)", r"\1", out.stdout).strip() if not out.returncode else out.stderr)


if __name__ == "__main__":
    main()
