"""Compare strategies: `python -m jaxdino.compare --configs linear,gradual,full_llrd,lora --seeds 3 --out OUT`.

Trains each strategy with each seed, as `train` does, and writes comparison.html, .json and .md into OUT: results with
mean and spread, time, memory, curves, calibration, forgetting, and a recommendation with its reason. The same command
again goes on where it stopped: finished runs are not repeated. Without --root, the embedded digits are used.
Settings of all runs are given as for training: `--config.data.batch_size=32`.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxdino.core.arguments import Parser
from jaxdino.core.command import described, expanded, finish, program
from jaxdino.core.errors import UserError
from jaxdino.core.options import check_range
from jaxdino.core.processor import prepare
from jaxdino.core.program_cache import keep_programs
from jaxdino.core.words import few, printable
from jaxdino.core.writable import check_writable

STRATEGIES = "linear,gradual,full_llrd,lora"
COLUMNS = ("run", "status", "seed", "val", "at_the_end", "stages", "seconds", "folder")


def main(argv: Sequence[str] | None = None) -> int:
    """Train what is missing, and write the page; return the exit status, see `finish`; 1 if a run failed."""
    return finish(lambda: run(expanded(argv)))


def parser() -> argparse.ArgumentParser:
    """Return the flags of the command, without the settings."""
    made = Parser(
        prog=program("compare"),
        description=described("compare", __doc__),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = made.add_argument
    add("--configs", default=STRATEGIES, help=f"strategies, with commas; :MODEL may follow each (default {STRATEGIES})")
    add("--seeds", default="3", help="their number, or a list such as 4,7 (default 3: the seeds 0, 1, 2)")
    add("--out", required=True, metavar="DIR", help="where the runs and the page are")
    add("--root", metavar="DIR", help="the data set; by default the embedded digits")
    add("--name", help="its format, a data.name (default folder with --root)")
    add("--model", help="published model of all strategies (default: the embedded one, or that of the weights)")
    add("--weights", metavar="SRC", help="weights that all runs start from: a file, folder, hub name, run, or random")
    add("--probe_root", metavar="DIR", help="held-back data to measure forgetting on (default the embedded digits)")
    add("--probe_name", help="its format (default folder with --probe_root)")
    add(
        "--probe_most",
        type=int,
        default=1000,
        help="most images known and asked of it; 0 measures none (default 1000)",
    )
    add("--max_minutes", type=float, help="recommend no strategy whose runs take longer")
    add("--max_memory", metavar="SIZE", help="recommend no strategy that needs more, such as 16GiB")
    add("--keep_stage_models", action="store_true", help="keep the models of all stages after they are measured")
    add("--in_process", action="store_true", help="train in this process: faster to start; memory is then that of all")
    add("--batch_size", type=int, default=64, help="images per batch when measuring (default 64)")
    return made


def run(argv: Sequence[str]) -> int:
    """Compare as the flags say.

    Raises:
      UserError: for invalid flags and settings, before the first run.
    """
    from jaxdino.settings.command_line import split

    settings, rest = split(list(argv))
    args = parser().parse_args(rest)
    prepare()
    keep_programs()
    from jaxdino.comparison.forgetting import probe_set
    from jaxdino.comparison.plan import checked, metric_of, planned, seeds_of
    from jaxdino.data.config import settings_of_data
    from jaxdino.data.sources import load_source
    from jaxdino.evaluation.finished_run import FIELDS, OTHERS

    out, limits = _checked(args)
    strategies = [name.strip() for name in args.configs.split(",") if name.strip()]
    if not strategies:
        raise UserError("--configs is empty: name strategies, such as linear,gradual")
    runs = planned(strategies, seeds_of(args.seeds), args.model, [*_given(args), *settings], out)
    configs = checked(runs)
    config = configs[runs[0].name]
    data = settings_of_data(config.data)
    source = load_source(data, (FIELDS | OTHERS)[config.objective.name])
    source.split("val")
    probe = None
    if args.probe_most:
        probe = probe_set(args.probe_root, args.probe_name, args.probe_most, args.batch_size, data, say)
    found, failed, complete = _trained(args, out, runs, configs, probe)
    if not complete:
        say(f"stopped; the same command goes on: {len(found)} of {len(runs)} runs are measured")
        return 0
    if not found:
        raise UserError(f"no run finished: {few([f'{name}: {why}' for name, why in failed.items()], 3)}")
    about = probe and probe.about() | {"same": probe.name == (data.root or source.name)}
    for file in _report(args, out, found, failed, metric_of(config), source, about, limits):
        print(file)
    return 1 if failed else 0


def _trained(
    args: argparse.Namespace, out: Path, runs: Sequence[Any], configs: dict[str, Any], probe: Any
) -> tuple[list[Any], dict[str, str], bool]:
    """Train and measure the runs. Return those measured, {run: why it failed}, and False if one was stopped."""
    from jaxdino.comparison.measured import measured
    from jaxdino.comparison.plan import finished, metric_of
    from jaxdino.comparison.running import train
    from jaxdino.train.stop import Stopped

    found: list[Any] = []
    failed: dict[str, str] = {}
    for number, one in enumerate(runs):
        config, why = configs[one.name], ""
        if not finished(one, config):
            say(f"\nrun {number + 1} of {len(runs)}: {one.strategy}, seed {one.seed}")
            try:
                why = train(one, config, args.in_process)
            except Stopped:
                return found, failed, False
            if not why and not finished(one, config):
                return found, failed, False
        if why:
            say(f"{one.name} failed: {why}")
            failed[one.name] = why
        else:
            found.append(measured(one, config, out, probe, args.keep_stage_models, say))
        _write_runs(out, runs, found, failed, metric_of(config))
    return found, failed, True


def _checked(args: argparse.Namespace) -> tuple[Path, Any]:
    """Return the folder of the comparison and the limits of the recommendation."""
    from jaxdino.comparison.recommendation import Limits
    from jaxdino.train.memory import parse_size

    check_range("--probe_most", args.probe_most, "[0, inf)")
    check_range("--batch_size", args.batch_size, "[1, inf)")
    if 0 < args.probe_most < 10:
        raise UserError(f"--probe_most {args.probe_most}: give at least 10 images, or 0 to measure no forgetting")
    if not args.probe_most and args.probe_root:
        raise UserError(f"--probe_root {args.probe_root} is not read with --probe_most 0: leave one out")
    if args.max_minutes is not None:
        check_range("--max_minutes", args.max_minutes, "(0, inf)")
    out = Path(args.out)
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file: give a folder")
    if args.root and out.resolve().is_relative_to(Path(args.root).resolve()):
        raise UserError(f"--out {out} is inside --root {args.root}: give a folder outside of the data")
    check_writable(f"--out {out}", out)
    memory = parse_size(args.max_memory, "--max_memory") / 2**30 if args.max_memory else None
    return out, Limits(None if args.max_minutes is None else 60 * args.max_minutes, memory)


def _given(args: argparse.Namespace) -> list[str]:
    """Return the flags of data and weights as settings."""
    kind = args.name or ("folder" if args.root else None)
    named = {"data.root": args.root, "data.name": kind, "model.weights": args.weights}
    return [f"--config.{path}={value}" for path, value in named.items() if value is not None]


def _write_runs(out: Path, runs: Sequence[Any], found: Sequence[Any], failed: dict[str, str], metric: str) -> None:
    """Write runs.csv: a row for each planned run, with its status."""
    from jaxdino.comparison.sections import row_of
    from jaxdino.results import Table

    done = {one.run.name: one for one in found}
    with Table(out / "runs.csv", COLUMNS) as table:
        for one in runs:
            row: dict[str, Any] = {"run": one.name, "seed": one.seed, "folder": str(one.folder)}
            row["status"] = "finished" if one.name in done else "failed" if one.name in failed else "to do"
            if one.name in done:
                cells = row_of(done[one.name], metric)
                row |= dict(zip(COLUMNS[2:7], cells, strict=True))
            table.add(row)


def _report(
    args: argparse.Namespace,
    out: Path,
    found: Sequence[Any],
    failed: dict[str, str],
    metric: str,
    source: Any,
    probe: dict[str, Any] | None,
    limits: Any,
) -> list[Path]:
    """Write the page, and return its files."""
    from jaxdino.comparison.recommendation import recommend
    from jaxdino.comparison.sections import sections
    from jaxdino.comparison.statistics import Strategy
    from jaxdino.evaluation.page import write_report

    names = dict.fromkeys(one.run.strategy for one in found)
    strategies = [Strategy(name, [one for one in found if one.run.strategy == name]) for name in names]
    per_class = images_per_class(source)
    classes = _has_classes(source)
    unit = "training images a class" if classes else "training images"
    chosen = recommend(strategies, metric, per_class, limits, unit)
    counts = ", ".join(f"{one.name} {len(one.runs)}" for one in strategies)
    train = len(source.split("train"))
    about = [
        f"{source.name if args.root is None else args.root}: {train:,} training images, {len(source.class_names)} "
        f"classes{f', median {per_class:g} a class' if classes else ''}. Runs: {counts}.",
        *(f"{name} failed: {why}" for name, why in failed.items()),
    ]
    if limits.memory_gib is not None and args.in_process:
        about.append("Memory is that of one process for all runs (--in_process), so the limit of memory says little.")
    head = {"metric": f"val/{metric}", "images": train, "classes": len(source.class_names), "failed": failed}
    made = sections(strategies, chosen, metric, probe)
    say(f"recommended: {chosen.name}. {' '.join(chosen.reasons)}")
    return write_report(out, "Comparison of strategies", about, head, made, "comparison")


def _has_classes(source: Any) -> bool:
    return bool({"label", "labels"} & set(source.split("train").fields))


def images_per_class(source: Any) -> float:
    """Return the median number of training images of a class; if images have none, the number of all."""
    fields = source.split("train").fields
    if not _has_classes(source):
        return float(len(source.split("train")))
    if "labels" in fields:
        return float(np.median((np.asarray(fields["labels"]) > 0.5).sum(axis=0)))
    return float(np.median(np.bincount(np.asarray(fields["label"]), minlength=len(source.class_names))))


def say(line: str) -> None:
    """Print a line on standard error, above a progress bar if one is shown."""
    from tqdm import tqdm

    tqdm.write(printable(line), file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
