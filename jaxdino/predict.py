"""Classify images with a trained model: `python -m jaxdino.predict --workdir DIR IMAGE...`.

IMAGE is a file, a folder (all images in it and below) or a pattern in quotes, such as 'photos/**/*.jpg'.
Prints a line for each image: its path, then class and probability, tab-separated; or writes a table with --out. A model
of images with several labels gives all classes above their thresholds, or none. With --shard I/N, N processes share
the images, and the last one to finish writes the table.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jaxdino import parts, results
from jaxdino.core.arguments import Parser
from jaxdino.core.bars import bar
from jaxdino.core.command import described, expanded, finish, program
from jaxdino.core.errors import UserError
from jaxdino.core.processor import prepare
from jaxdino.core.program_cache import keep_programs
from jaxdino.core.words import printable

BLOCK = 1024  # images of a block of --shard, rounded up to whole batches


def main(argv: list[str] | None = None) -> int:
    """Run the command; return 1 if an image could not be read, else see `finish`."""
    return finish(lambda: _run(argv))


def _run(argv: list[str] | None) -> int:
    parser = Parser(
        prog=program("predict"),
        description=described("predict", __doc__),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="a file, a folder, or a pattern in quotes")
    parser.add_argument("--workdir", required=True, help="the folder of a training run")
    parser.add_argument("--top", type=int, default=1, metavar="K", help="number of classes per image (default 1)")
    parser.add_argument(
        "--threshold",
        type=float,
        metavar="P",
        help="images with several labels: give all classes of at least this probability (default the model's own)",
    )
    parser.add_argument(
        "--out", metavar="FILE", help="write a table there (.csv, .json or .jsonl) instead of printing lines"
    )
    parser.add_argument("--overwrite", action="store_true", help="let --out replace a file")
    parser.add_argument(
        "--shard", metavar="I/N", help="work on part I of N of the images, each part in a process of its own"
    )
    parser.add_argument("--batch_size", type=int, default=32, help="images per batch (default 32)")
    parser.add_argument(
        "--sixteen_bit",
        help="black and white of 16-bit and float images: full, image, window, percentiles, 0,4095 (default the model)",
    )
    parser.add_argument(
        "--tta",
        metavar="KIND,...",
        help="average the probabilities of several views: flip, zoom, corners (default the image alone)",
    )
    args = parser.parse_args(expanded(argv))
    prepare()
    keep_programs()
    given = vars(args)
    return predict(given.pop("workdir"), given.pop("images"), **given)


def predict(
    workdir: str,
    names: list[str],
    top: int = 1,
    batch_size: int = 32,
    out: str | None = None,
    overwrite: bool = False,
    sixteen_bit: str | None = None,
    threshold: float | None = None,
    shard: str | None = None,
    tta: str | None = None,
) -> int:
    """Print or write the `top` classes of each image, with their probabilities.

    A model of images with several labels gives all classes above their thresholds; `top` does not matter.

    Args:
      names: files, folders and patterns, as `data.inputs.find_inputs` takes them.
      out: a .csv, .json or .jsonl file for the results, including unread images; None prints a line for each image.
      sixteen_bit: see `Model.preprocess`. threshold, tta: see `Model.predict`.
      shard: "I/N", the part of the images that this process works on, see `parts`; needs `out`.

    Returns:
      0, or 1 if an image could not be read; these are named on standard error.

    Raises:
      UserError: before an image is read, for invalid arguments: a workdir without a model with a head, `top` or
        `batch_size` below 1, no images, an `out` that exists, parts that were made otherwise.
    """
    from convert import assumptions
    from jaxdino.api import classify, pictures
    from jaxdino.api.opening import open_model
    from jaxdino.api.run_folder import check_run_folder
    from jaxdino.api.several_views import kinds_of
    from jaxdino.data.bad_images import BadImage
    from jaxdino.data.inputs import find_inputs
    from jaxdino.data.ranges import ARGUMENT, Range

    if top < 1 or batch_size < 1:
        raise UserError(f"--top {top} and --batch_size {batch_size} must be at least 1")
    if sixteen_bit is not None:
        Range.of(sixteen_bit, ARGUMENT)
    kinds = kinds_of(tta, "--tta")
    part = None if shard is None else _part(shard, out)
    check_run_folder(workdir)
    results.check("--out", out, overwrite)
    inputs, notes = find_inputs(names)
    model, lines = open_model(workdir, words=assumptions.IMPORT)
    classify.check(model, top, batch_size)
    choose = classify.chooser(model, threshold, "--threshold")
    if choose.several and top > 1:
        notes.append(f"--top {top} has no effect: the model gives all classes above their thresholds")
    elif top > model.card.num_classes:
        notes.append(f"--top {top}: the model has {model.card.num_classes} classes, which are all given")
    for line in (*notes, *lines):
        say(line)
    paths, changed = [image.path for image in inputs], {}
    reading = model.reading(paths, sixteen_bit, ARGUMENT, say)
    shown = None if choose.several else min(top, model.card.num_classes)

    def classified(places: range) -> Iterator[tuple[str, Any]]:
        some = [paths[place] for place in places]
        found = classify.classify(model, some, reading, choose, top, batch_size, changed, len(paths), kinds)
        quiet = out is None and sys.stdout.isatty()  # no progress bar if the lines show the progress
        for path, classes in zip(some, found if quiet else bar(found, "predicting", total=len(some)), strict=True):
            if isinstance(classes, BadImage):
                skip(path, classes)
            yield path, classes

    if part is None or out is None:
        failed = _alone(out, shown, classified(range(len(paths))))
        said = f"{len(paths)} images in {out}" if out else ""
    else:
        given = {"top": shown, "threshold": threshold, "sixteen_bit": sixteen_bit, "batch_size": batch_size}
        given |= {"tta": ",".join(kinds)}
        made = given | {"weights": model.digest, "images": len(paths), "paths": parts.digest_of(paths)}
        results.check("--out", out, overwrite)  # again: other parts may have been joined meanwhile
        parts.begin(out, made, overwrite)
        said, failed = _shared(out, part, shown, len(paths), batch_size, classified)
    if changed:
        say(pictures.changed(changed))
    if out is not None:
        print(said + (f", {failed} of them unread, with the reason" if failed else ""))
    return int(failed > 0)


def _part(shard: str, out: str | None) -> tuple[int, int]:
    """Return (index from 0, count) of --shard. Raises UserError for other text, and without a table to join."""
    if out is None:
        raise UserError(f"--shard {shard} needs --out FILE, the table that all parts are joined to")
    return parts.shard_of(shard)


def _alone(out: str | None, top: int | None, classified: Iterator[tuple[str, Any]]) -> int:
    """Print or write all images; return how many could not be read."""
    failed = 0
    with _written(out, top) as write:
        for path, classes in classified:
            failed += isinstance(classes, Exception)
            write(path, classes)
    return failed


def _shared(out: str, part: tuple[int, int], top: int | None, count: int, batch: int, classified: Any) -> Any:
    """Write the blocks of this part; return what is said of them, and how many images could not be read."""
    size, failed, (columns, row) = -(-BLOCK // batch) * batch, 0, _columns(top)
    flat = Path(out).suffix.lower() == ".csv"

    def rows(places: range) -> Iterator[dict[str, Any]]:
        nonlocal failed
        for path, classes in classified(places):
            failed += isinstance(classes, Exception)
            yield row(path, classes, flat)

    def joined(files: Sequence[Path]) -> int:
        errors = 0
        with results.Table(out, columns) as table:
            for one in parts.rows_of(files):
                errors += "error" in one
                table.add(one)
        return errors

    share = parts.Share(out, part, count, size)
    said, errors = parts.work(share, lambda file, places: parts.write_rows(file, rows(places)), joined)
    return (said, failed) if errors is None else (f"{said}; {count} images in {out}", errors)


def say(line: str) -> None:
    """Print a note, separate from the results."""
    print(printable(line), file=sys.stderr)


def skip(path: str, why: Exception) -> None:
    """Name an image that could not be read, above the progress bar if there is one."""
    from tqdm import tqdm

    tqdm.write(printable(f"skipped {path}: {why}"), file=sys.stderr)


@contextmanager
def _written(out: str | None, top: int | None) -> Iterator[Callable[[str, Any], None]]:
    """Yield the function that takes an image's path and its classes, or the error if it has none.

    Args:
      top: classes of each image; None for any number.
    """
    if out is None:
        yield _print
        return
    columns, row = _columns(top)
    with results.Table(out, columns) as table:
        yield lambda path, classes: table.add(row(path, classes, table.kind == ".csv"))


def _columns(top: int | None) -> tuple[list[str], Callable[[str, Any, bool], dict[str, Any]]]:
    """Return the columns of the table, and the function that makes a row."""
    if top is None:
        return ["path", "labels", "probabilities", "error"], _row_of_labels
    more = [name for i in range(2, top + 1) for name in (f"class_{i}", f"probability_{i}")]
    return ["path", "class", "probability", *more, "error"], _row


def _print(path: str, classes: Any) -> None:
    if not isinstance(classes, Exception):
        shown = [path, *(text for name, odds in classes for text in (name, f"{odds:.4f}"))]
        print("\t".join(printable(one, keep="") for one in shown), flush=True)


def _row(path: str, classes: Any, flat: bool) -> dict[str, Any]:
    """Make a row of the table; `flat` has a column for each class, else the classes are a list under "top"."""
    if isinstance(classes, Exception):
        return {"path": path, "error": str(classes)}
    rounded = [(name, round(odds, 6)) for name, odds in classes]
    row = {"path": path, "class": rounded[0][0], "probability": rounded[0][1]}
    if not flat:
        return row | {"top": [{"class": name, "probability": odds} for name, odds in rounded]}
    for i, (name, odds) in enumerate(rounded[1:], 2):
        row |= {f"class_{i}": name, f"probability_{i}": odds}
    return row


def _row_of_labels(path: str, classes: Any, flat: bool) -> dict[str, Any]:
    """Make a row of the table for any number of classes; `flat` joins them by "|", as a manifest has them."""
    if isinstance(classes, Exception):
        return {"path": path, "error": str(classes)}
    names, odds = [name for name, _ in classes], [round(odds, 6) for _, odds in classes]
    both = {"labels": names, "probabilities": odds}
    return {"path": path} | ({key: "|".join(map(str, values)) for key, values in both.items()} if flat else both)


if __name__ == "__main__":
    sys.exit(main())
