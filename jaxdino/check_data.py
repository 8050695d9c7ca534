"""Check a data set before training on it: `python -m jaxdino.check_data --root DIR --name folder`.

Reads every image once. Reports counts per class and split, sizes and formats, unreadable files, duplicates and
near-duplicates, leaks between splits, images that are too dark, too bright, without contrast or small, small and
unbalanced classes, and boxes that cannot be right. With the weights of a backbone, it compares their features too.
"""

import argparse
import dataclasses
import functools
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from convert import flags
from convert.atomic import AtomicFiles
from jaxdino.core.arguments import Parser
from jaxdino.core.command import described, expanded, finish, program
from jaxdino.core.errors import UserError
from jaxdino.core.words import printable

FOUND = 1
"""Exit status with --strict if anything was found."""
OWN_FLAGS = {
    "data.num_threads": "give --threads N",
    "data.num_workers": "give --processes N",
}
"""Settings that are flags of their own here."""
OF_HEAD = ("pool", "head_blocks")
MOST_WORKERS = 16
MANY = 2000  # images from which on processes read them: they start in some seconds


def main(argv: list[str] | None = None) -> int:
    """Run the command; return 0, with --strict 1 if anything was found, else see `finish`."""
    return finish(lambda: _run(argv))


def _run(argv: list[str] | None) -> int:
    args, rest = _parser().parse_known_args(expanded(argv))
    try:
        return check_data(args, rest)
    except UserError as err:
        say(f"error: {err}")
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog=program("check-data"),
        description=described("check-data", __doc__),
        epilog="Settings of the data are given as in a config: --data.classes=leaf --data.val_ratio=0.1 "
        "--data.max_pixels=400000000 --prompts.annotations=FILE.json",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[flags.overrules(without=OF_HEAD)],
    )
    parser.add_argument("--root", required=True, metavar="DIR", help="the folder to check; for a manifest, its file")
    parser.add_argument(
        "--name",
        default="folder",
        help="folder (default), images, manifest, masks, voc, coco, yolo, tfds, hf, shards",
    )
    parser.add_argument("--json", metavar="FILE", help="write the results there")
    parser.add_argument("--html", metavar="FILE", help="write a page with pictures of what was found there")
    parser.add_argument("--first", type=int, default=24, metavar="N", help="groups that the page shows of each check")
    parser.add_argument("--strict", action="store_true", help="end with status 1 if anything was found")
    parser.add_argument(
        "--statistics", action="store_true", help="also the mean and standard deviation of the training images' pixels"
    )
    parser.add_argument("--channels", type=int, default=3, metavar="N", help="channels of the images (default 3)")
    parser.add_argument("--threads", type=int, help="reading threads, if there are no processes (default one per core)")
    parser.add_argument(
        "--processes", type=int, help=f"reading processes (default one per core, 0 below {MANY:,} images: threads read)"
    )
    _add_features(parser)
    _add_limits(parser)
    return parser


def _add_features(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("features", "compare images by the features of a backbone too")
    group.add_argument("--weights", metavar="SRC", help="a file, folder, hub name or workdir, as jaxdino.load takes it")
    group.add_argument(
        "--suspects", action="store_true", help="look for wrong classes with cleanlab: pip install 'jaxdino[check]'"
    )
    group.add_argument("--pool", default="cls", help="features: cls (default), mean, cls_mean, cls4_mean or grid")
    group.add_argument("--dtype", default="float32", help="float32 (default), bfloat16 or float16")
    group.add_argument("--batch_size", type=int, default=64, help="images per batch (default 64)")


def _add_limits(parser: argparse.ArgumentParser) -> None:
    from jaxdino.inspect_data.limits import HELP, Limits, cosine

    group = parser.add_argument_group("limits", "what is reported")
    for field in dataclasses.fields(Limits):
        auto = field.default is None
        kind, default = (cosine, "auto") if auto else (type(field.default), field.default)
        text = f"{HELP[field.name]} (default {default if auto else format(default, 'g')})"
        group.add_argument(f"--{field.name}", type=kind, default=default, metavar="N", help=text)


def check_data(args: argparse.Namespace, rest: Sequence[str] = ()) -> int:
    """Check a data set as the flags say: print the table, write the files; return the exit status.

    Args:
      rest: settings as "--data.KEY=VALUE" or "--prompts.KEY=VALUE".

    Raises:
      UserError: for wrong arguments and data that cannot be listed, before an image is read.
    """
    from jaxdino.core.json_file import write_json
    from jaxdino.data import survey
    from jaxdino.data.ranges import Range
    from jaxdino.inspect_data import findings, json_report, masks, page, pixels, table
    from jaxdino.inspect_data.limits import Limits
    from jaxdino.inspect_data.listing import listed
    from jaxdino.train.data import summary

    for flag in ("json", "html"):
        _check_place(flag, getattr(args, flag))
    _check_counts(args)
    limits = Limits(**{field.name: getattr(args, field.name) for field in dataclasses.fields(Limits)})
    cfg, prompts = settings(args, rest)
    images = listed(cfg, prompts)
    say(summary(images.source))
    flag = "--data.sixteen_bit"
    reading = survey.reading_of(images.records, Range.of(cfg.sixteen_bit), args.channels, flag, say)
    how = pixels.How(dataclasses.replace(reading, max_pixels=cfg.max_pixels), draft=cfg.draft and not args.statistics)
    cores = min(MOST_WORKERS, os.cpu_count() or 1)
    many = len(images) >= MANY and args.threads is None
    workers = args.threads or cores, (cores if many else 0) if args.processes is None else args.processes
    compare = _comparison(args, images, cfg, reading)
    facts = pixels.facts(images, how, *workers)
    wrong = masks.bad_masks(images, facts, cfg.max_pixels, *workers)
    pairs, suspects, calibration = compare(facts, limits.cosine)
    if calibration:
        limits = dataclasses.replace(limits, cosine=calibration.cosine)
    found = findings.find(images, facts, limits, wrong, pairs, suspects, args.statistics, calibration)
    print(table.table(found))
    if args.json:
        write_json(Path(args.json), {"root": args.root} | json_report.as_json(found))
    if args.html:
        title = os.path.basename(os.path.abspath(args.root)) or args.root
        _write(Path(args.html), page.page(found, title, how.reading, args.first))
    return FOUND if args.strict and found.any else 0


def _comparison(
    args: argparse.Namespace, images: Any, cfg: Any, reading: Any
) -> Callable[[Any, Any], tuple[Any, Any, Any]]:
    """Open the model; return the function (facts, cosine) -> (pairs with close features, suspects, calibration).

    Raises:
      UserError: for arguments that do not fit, before an image is read.
    """
    if args.weights is None:
        unread = [flag for flag in ("suspects", "cosine", *flags.given(args, OF_HEAD)) if getattr(args, flag)]
        if unread:
            raise UserError(f"--{unread[0]} is for the features of a backbone: give its --weights too")
        return lambda facts, cosine: (None, None, None)

    from jaxdino.evals import pools, report
    from jaxdino.evaluate import opened
    from jaxdino.inspect_data import neighbours
    from jaxdino.inspect_data.calibration import calibrated
    from jaxdino.inspect_data.suspects import check_suspects, suspects

    if args.suspects:
        check_suspects(images)
    model = opened(args)
    report.check_sight(model)
    pools.check(args.pool, model.card.spec)
    if (channels := model.card.spec.config.in_channels) != args.channels:
        raise UserError(f"the model takes {channels} channels: --channels={args.channels} must be the same")
    data = dataclasses.replace(cfg, sixteen_bit=str(reading.range), num_threads=args.threads or cfg.num_threads)

    embed = functools.partial(neighbours.embedded, model=model, data=data, pool=args.pool, batch_size=args.batch_size)

    def compare(facts: Any, cosine: float | None) -> tuple[Any, Any, Any]:
        found, rows = neighbours.features_of(images, facts, embed)
        calibration = None
        if cosine is None:
            records = [images.records[row] for row in rows]
            calibration = calibrated(records, found, facts.rows["hash"][rows], embed, data.reading(channels))
            cosine = calibration.cosine
        wrong, note = suspects(images, found, rows) if args.suspects else (None, "")
        if note:
            say(note)
        return neighbours.similar(found, rows, cosine), wrong, calibration

    return compare


def _write(file: Path, text: str) -> None:
    """Write a text file at once."""
    with AtomicFiles(file.absolute().parent) as drafts, drafts.open(file.name) as draft:
        draft.write(text.encode("utf-8", "backslashreplace"))


def _check_place(flag: str, file: str | None) -> None:
    """Raise UserError for a file that cannot be written."""
    place = Path(file or ".x").absolute()
    if place.is_dir():
        raise UserError(f"--{flag} {file} is a folder: give a file")
    if not place.parent.is_dir():
        raise UserError(f"--{flag} {file}: there is no folder {place.parent} to write it in")


def _check_counts(args: argparse.Namespace) -> None:
    from jaxdino.core.options import check_range
    from jaxdino.data.config import MOST

    check_range("--channels", args.channels, "[1, inf)")
    check_range("--threads", args.threads or 1, f"[1, {MOST}]")
    check_range("--batch_size", args.batch_size, "[1, inf)")
    check_range("--first", args.first, "[0, inf)")
    check_range("--processes", args.processes or 0, f"[0, {MOST}]")


def settings(args: argparse.Namespace, rest: Sequence[str]) -> tuple[Any, Any]:
    """Return the `DataConfig` and `PromptConfig` of the arguments; raises as `data_settings`."""
    from jaxdino.inspect_data.listing import READ
    from jaxdino.settings.data_flags import INSTEAD, data_settings

    read = {f"data.{name}" for name in READ} | {"prompts.annotations"}
    return data_settings(rest, args.name, args.root, read, INSTEAD | OWN_FLAGS)


def say(line: str) -> None:
    """Print a note; settings in it are spelled as flags of this command."""
    print(printable(line.replace("--config.data.root", "--root").replace("--config.", "--")), file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
