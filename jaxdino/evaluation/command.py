"""Evaluate a finished run: `python -m jaxdino.evaluate --workdir DIR`.

Writes evaluation.json, evaluation.md and evaluation.html, a page that needs no network, into DIR/evaluation. The test
split is measured, or the validation split if the data has no test split. `--parts` chooses what is measured. Runs of
masks, depths, boxes and objects have the parts metrics and errors, the worst images.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxdino.core.arguments import Parser
from jaxdino.core.command import described, expanded, program
from jaxdino.core.errors import UserError
from jaxdino.core.options import check_choice, check_range
from jaxdino.core.processor import prepare
from jaxdino.core.program_cache import keep_programs
from jaxdino.core.rules import did_you_mean
from jaxdino.core.words import printable
from jaxdino.core.writable import check_writable

FOLDER = "evaluation"
FEW = 10  # groups; of fewer, the bootstrap says little
LONG = ("errors", "robustness", "attacks")  # what --parts all adds
AT = ("sensitivity=0.9", "specificity=0.9")


def parser() -> argparse.ArgumentParser:
    """Return the flags of the command."""
    made = Parser(
        prog=program("evaluate"),
        description=described("evaluate", __doc__),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    for flags in (_add_inputs, _add_figures, _add_parts):
        flags(made.add_argument)
    made.add_argument("--batch_size", type=int, default=64, help="images per batch (default 64)")
    made.add_argument("--tta", metavar="KIND,...", help="mean over several views: flip, zoom, corners (masks: flip)")
    made.add_argument("--seed", type=int, default=0, help="seed of everything that is drawn (default 0)")
    return made


def _add_inputs(add: Callable[..., Any]) -> None:
    """Add the flags of what is measured, and where the report goes."""
    add("--workdir", required=True, metavar="DIR", help="the folder of a finished run")
    add("--out", metavar="DIR", help=f"where to write (default {FOLDER} in the run's folder)")
    add(
        "--parts",
        metavar="NAME,...",
        help="all, or some of metrics, calibration, errors, robustness, attacks, ood, "
        "transfer, speed (default metrics, calibration, speed, and what --ood and --also need)",
    )
    add("--split", choices=("val", "test"), help="the images to measure (default test, or val without one)")
    add("--root", metavar="DIR", help="measure another data set with the same classes")
    add("--name", help="format of --root and --also, a data.name (default the run's, folder for embedded data)")


def _add_figures(add: Callable[..., Any]) -> None:
    """Add the flags of groups, operating points and intervals."""
    add("--group", action="append", default=[], metavar="COLUMN", help="metrics for each value of a column; repeatable")
    add("--resample_by", metavar="COLUMN", help="draw all images with the same value together, such as a patient's")
    add("--group_file", metavar="FILE", help="CSV or JSONL with `path` and these columns (default the run's manifest)")
    add(
        "--at",
        nargs="+",
        default=list(AT),
        metavar="KIND=VALUE",
        help=f"operating points: sensitivity, specificity or probability (default {' '.join(AT)})",
    )
    add("--resamples", type=int, default=1000, help="resamples of the bootstrap (default 1000)")
    add("--level", type=float, default=0.95, help="coverage of the intervals (default 0.95)")


def _add_parts(add: Callable[..., Any]) -> None:
    """Add the flags of single parts."""
    add(
        "--calibrate",
        metavar="METHOD",
        help="fit temperature, vector or isotonic on val and keep it with the model, which "
        "predict and exports then use; none drops it (default: measured, and nothing is changed)",
    )
    add("--ood", nargs="+", default=[], metavar="DIR", help="folders of strange images: how well they are told apart")
    add("--also", nargs="+", default=[], metavar="DIR", help="other test sets with the same classes: the drop there")
    add(
        "--most_robust",
        type=int,
        default=1000,
        metavar="N",
        help="most images that are corrupted and attacked, spread over the split (default 1000)",
    )
    add("--most_errors", type=int, default=24, metavar="N", help="most mistakes and label suspects shown (default 24)")


def run(argv: Sequence[str]) -> int:
    """Evaluate as the flags say, and print where the report is.

    Raises:
      UserError: for invalid arguments, before any long work.
    """
    from jaxdino.evaluation.calibration.keeping import keep
    from jaxdino.evaluation.finished_run import OTHERS, task_of
    from jaxdino.evaluation.parts import DEFAULT, PARTS

    args = parser().parse_args(expanded(argv))
    prepare()
    keep_programs()
    if task_of(args.workdir) in OTHERS:
        return _other(args)
    parts = chosen_parts(args.parts, PARTS, (*DEFAULT, *(["ood"] * bool(args.ood)), *(["transfer"] * bool(args.also))))
    _check(args, parts)
    out = _folder(args)
    context = _context(args, out)
    if args.calibrate is not None:
        context = keep(context, args.calibrate)
    sections = []
    for name in parts:
        sections += PARTS[name](context)
    found = context.found
    how = context.optimistic, context.resampling.method, context.settings.tta
    for file in _write(context.run, Measured(found.split, len(found), found.unread, *how), out, sections, parts):
        print(file)
    context.kept.done()
    return 0


OF_OTHERS = ("group", "resample_by", "group_file", "calibrate", "ood", "also", "at", "most_robust")
"""Flags that other tasks than images with classes do not read."""


def _other(args: argparse.Namespace) -> int:
    """Evaluate a run of masks, depths, boxes or objects."""
    from jaxdino.api.several_views import kinds_of
    from jaxdino.evaluation.finished_run import chosen_split, open_run, other_data
    from jaxdino.evaluation.intervals import Resampling
    from jaxdino.evaluation.tasks.report import PARTS, reported

    if given := next((name for name in OF_OTHERS if getattr(args, name) != parser().get_default(name)), None):
        raise UserError(f"--{given} is for images with classes; this run is of another task: leave it out")
    parts = chosen_parts(args.parts, PARTS, PARTS)
    _check_numbers(args)
    kinds = kinds_of(args.tta, "--tta")
    if set(kinds) - {"flip"}:
        raise UserError(f"--tta {args.tta}: masks and depths are averaged over flip alone")
    out = _folder(args)
    run = open_run(args.workdir, say)
    split = chosen_split(run.source, args.split) if args.root is None else other_data(run, args.root, args.name, say)
    optimistic = split is run.source.splits.get("val")
    if optimistic:
        say("the model was chosen on these images (val), so the figures are optimistic")
    how = Resampling(args.resamples, args.level, args.seed)
    given = {"batch_size": min(args.batch_size, 16), "most_errors": args.most_errors, "flip": "flip" in kinds}
    found = reported(run, split, parts, how, **given, say=say)
    measured = Measured(split, found.images, found.unread, optimistic, how.method, kinds)
    for file in _write(run, measured, out, found.sections, parts):
        print(file)
    return 0


def chosen_parts(text: str | None, known: Any, default: Sequence[str]) -> list[str]:
    """Return the parts named in a list with commas, in the order of `known`. Raise UserError for an unknown one."""
    if text is None:
        return [name for name in known if name in default]
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name != "all" and name not in known:
            raise UserError(f"--parts {text}: {name!r} is not a part; {did_you_mean(name, ['all', *known])}")
    if not names:
        raise UserError(f"--parts is empty; it takes all, or some of: {', '.join(known)}")
    return (
        [name for name in known if name in default or name in LONG]
        if "all" in names
        else [name for name in known if name in names]
    )


def _check(args: argparse.Namespace, parts: Sequence[str]) -> None:
    from jaxdino.evaluation.calibration.keeping import CHOICES
    from jaxdino.evaluation.curves import OperatingPoint

    if args.calibrate is not None:
        check_choice("--calibrate", args.calibrate, CHOICES)
    _check_numbers(args)
    for text in args.at:
        OperatingPoint.of(text)
    for part, flag in (("ood", "ood"), ("transfer", "also")):
        if part in parts and not getattr(args, flag):
            raise UserError(f"--parts {args.parts} has {part}, which needs --{flag} DIR")
        if getattr(args, flag) and part not in parts:
            raise UserError(f"--{flag} is not read: --parts {args.parts} lacks {part}: add it there")


def _check_numbers(args: argparse.Namespace) -> None:
    check_range("--batch_size", args.batch_size, "[1, inf)")
    check_range("--most_robust", args.most_robust, "[1, inf)")
    check_range("--most_errors", args.most_errors, "[1, 200]")
    check_range("--seed", args.seed, "[0, inf)")
    check_range("--resamples", args.resamples, "[100, 1000000]")
    check_range("--level", args.level, "(0, 1)")
    if args.root is not None and args.split is not None:
        raise UserError("--root and --split are both given: of other data, the test split is measured, or all images")
    if args.name is not None and args.root is None and not args.also:
        raise UserError(f"--name {args.name} is the format of --root and --also, which are not given: leave it out")


def _folder(args: argparse.Namespace) -> Path:
    folder = Path(args.out) if args.out else Path(args.workdir) / FOLDER
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--out {folder} is a file: give a folder")
    check_writable(f"--out {folder}", folder)
    return folder


def _context(args: argparse.Namespace, out: Path) -> Any:
    """Open the run, and check everything that can be checked before an image is read."""
    import dataclasses

    from jaxdino.api.several_views import kinds_of
    from jaxdino.evaluation.columns import check_columns, read_columns
    from jaxdino.evaluation.context import Context, Settings
    from jaxdino.evaluation.finished_run import chosen_split, open_run, other_data
    from jaxdino.evaluation.groups import clustered
    from jaxdino.evaluation.intervals import Resampling
    from jaxdino.evaluation.kept import Kept, made_of

    opened = open_run(args.workdir, say)
    asked: list[str] = [*args.group, args.resample_by or ""]
    columns = [name for name in dict.fromkeys(asked) if name]
    file = check_columns(opened, args.group_file, columns, args.root)
    if args.root is None:
        split = chosen_split(opened.source, args.split)
    else:
        split = other_data(opened, args.root, args.name, say)
    fields = {field.name for field in dataclasses.fields(Settings)} & set(vars(args))
    given: dict[str, Any] = {name: getattr(args, name) for name in fields} | {"tta": kinds_of(args.tta, "--tta")}
    settings = Settings(**given)
    how = Resampling(args.resamples, args.level, args.seed)
    made = {name: getattr(args, name) for name in ("batch_size", "seed", "most_robust")}
    context = Context(opened, split, settings, how, say, Kept(out, lambda: made_of(opened, split, made), say))
    if context.optimistic:
        say("the model was chosen on these images (val), so the figures are optimistic" + _without_test(context.run))
    if file is None:
        return context
    found = read_columns(file, columns, context.found)
    if args.resample_by:
        how = clustered(how, args.resample_by, found[args.resample_by])
        if how.clusters is not None and (count := int(how.clusters.max()) + 1) < FEW:
            say(f"--resample_by {args.resample_by}: there are only {count} groups, so the intervals say little")
    groups = {name: found[name] for name in args.group}
    return context.with_groups(groups, how)


WITHOUT_TEST = ": the data has no test split"


class Measured(NamedTuple):
    """What a report is of: a split, its readable and unreadable images, and how."""

    split: Any
    images: int
    unread: int
    optimistic: bool
    intervals: str
    tta: Sequence[str]


def _without_test(run: Any) -> str:
    return "" if "test" in run.source.splits else WITHOUT_TEST


def _write(run: Any, found: Measured, out: Path, sections: list[Any], parts: Sequence[str]) -> list[Path]:
    from jaxdino.evaluation.page import write_report
    from jaxdino.train.results import model_words

    split = f"{found.images:,} images of {found.split.name}" + (f", {found.unread} unread" if found.unread else "")
    classes = f"{len(run.names)} classes; " if run.source.class_names else ""
    about = [
        f"{run.model.name}, {model_words(run.summary.get('delivered') or {})}; {classes}{split}",
        f"{found.split.root or run.source.name}; intervals: {found.intervals}, or as each table says",
    ]
    if found.tta:
        about.append(
            f"Figures are of the mean over views ({', '.join(found.tta)}); robustness, attacks and speed of the image "
            "alone."
        )
    if found.optimistic:
        about.append("The model was chosen on these images, so these figures are optimistic" + _without_test(run) + ".")
    head = {"workdir": str(run.folder), "model": run.model.name, "digest": run.model.digest, "task": run.task}
    head |= {"split": found.split.name, "root": found.split.root, "images": found.images, "unread": found.unread}
    head |= {"optimistic": found.optimistic, "tta": list(found.tta), "parts": list(parts), "classes": list(run.names)}
    return write_report(out, f"Evaluation of {run.folder.resolve().name}", about, head, sections)


def say(line: str) -> None:
    """Print a note on standard error, above a progress bar if one is shown."""
    from tqdm import tqdm

    tqdm.write(printable(line.replace("--config.data.", "--")), file=sys.stderr)
