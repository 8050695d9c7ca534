"""Segment images: `python -m jaxdino.segment --workdir DIR [--prompt "red circle"] IMAGE...`.

IMAGE is a file, a folder (all images in it and below) or a pattern in quotes, such as 'photos/**/*.jpg'.
A model of text prompts writes, for each image, a mask for each prompt (<image>.<prompt>.png, 0 and 255) and a picture
with all masks (<image>.overlay.png); and masks.json, the masks of all images as a COCO dataset. A model of classes
writes one mask of all classes (<image>.png, with a palette), the picture, and classes.txt, line i for value i. A model
of objects writes a map of their numbers (<image>.png, 16 bits), the picture, masks.json, and the naming of the numbers.
With --shard I/N, N processes share the images, and the last one to finish writes the table and the lists.
"""

import argparse
import math
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

from PIL import Image

from jaxdino import mask_parts, results, scene_results
from jaxdino.core.arguments import Parser
from jaxdino.core.bars import bar
from jaxdino.core.command import described, expanded, finish, program
from jaxdino.core.errors import UserError
from jaxdino.core.processor import prepare
from jaxdino.core.program_cache import keep_programs
from jaxdino.core.words import printable
from jaxdino.data.inputs import Input, find_inputs
from jaxdino.data.ranges import ARGUMENT, Range
from jaxdino.mask_files import MaskFiles, Query
from jaxdino.predict import say, skip
from jaxdino.segment_classes import segment_classes
from jaxdino.segment_objects import segment_objects

WINDOWS = ("short_side", "overlap", "blend", "tta", "max_pixels")
COLUMNS = ("path", "prompt", "mask", "area", "share", "score", "error")


def main(argv: list[str] | None = None) -> int:
    """Print a line for each mask; return 1 if an image could not be segmented, else see `finish`."""
    return finish(lambda: _run(argv))


def _run(argv: list[str] | None) -> int:
    parser = Parser(
        prog=program("segment"),
        description=described("segment", __doc__),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="a file, a folder, or a pattern in quotes")
    parser.add_argument("--workdir", required=True, help="the folder of a segmentation run")
    parser.add_argument("--prompt", default=[], action="append", metavar="TEXT", help="may be given several times")
    parser.add_argument(
        "--points", metavar="X,Y;...", help="pixels in the object, or with a third number 0 outside it: '12,30;40,8,0'"
    )
    parser.add_argument(
        "--boxes", metavar="X1,Y1,X2,Y2;...", help="one for all prompts, one for each, or several for one prompt"
    )
    parser.add_argument(
        "--threshold", type=float, help="of prompts: logits above it are the mask (0); of objects: least probability"
    )
    parser.add_argument("--out", default="segmented", metavar="DIR", help="folder for the files (default segmented)")
    parser.add_argument(
        "--table", metavar="FILE", help="write a table there (.csv, .json or .jsonl) instead of printing lines"
    )
    parser.add_argument("--overwrite", action="store_true", help="let --table replace a file")
    parser.add_argument(
        "--shard", metavar="I/N", help="work on part I of N of the images, each part in a process of its own"
    )
    parser.add_argument(
        "--sixteen_bit",
        help="black and white of 16-bit and float images: full, image, window, percentiles, 0,4095 (default the model)",
    )
    scene_results.add_windows(parser, "for models that give every pixel a class")
    args = parser.parse_args(expanded(argv))
    prepare()
    keep_programs()
    points, boxes = parsed("--points", args.points, (2, 3)), parsed("--boxes", args.boxes, (4,))
    how = (args.threshold, args.out, args.table, args.overwrite, args.sixteen_bit, args.shard)
    windows_of = {name: getattr(args, name) for name in WINDOWS if getattr(args, name) is not None}
    return segment(args.workdir, args.images, args.prompt, points, boxes, *how, windows=windows_of)


def parsed(flag: str, text: str | None, lengths: Sequence[int]) -> list[tuple[float, ...]]:
    """Parse a flag's rows of numbers, "1,2;3,4" -> [(1.0, 2.0), (3.0, 4.0)].

    Raises:
      UserError: for a row with a length not in `lengths`, or with text that is not a number.
    """
    rows = []
    for one in text.split(";") if text is not None else ():
        try:
            row = tuple(map(float, one.split(",")))
        except ValueError:
            row = ()
        if len(row) not in lengths or not all(map(math.isfinite, row)):
            wanted = " or ".join(map(str, lengths))
            raise UserError(
                f"{flag} {text!r}: {one!r} is not {wanted} numbers separated by commas, with ';' between rows"
            )
        rows.append(row)
    return rows


def segment(
    workdir: str,
    names: list[str],
    prompts: list[str],
    points: Sequence[tuple[float, ...]] = (),
    boxes: Sequence[tuple[float, ...]] = (),
    threshold: float | None = None,
    out: str = "segmented",
    table: str | None = None,
    overwrite: bool = False,
    sixteen_bit: str | None = None,
    shard: str | None = None,
    windows: Mapping[str, Any] = MappingProxyType({}),
) -> int:
    """Write the masks and pictures into `out`; print a line for each mask, tab-separated: the image, the prompt, the
    share of the image that is covered, the score.

    Args:
      names: files, folders and patterns, as `data.inputs.find_inputs` takes them; files in `out` are ignored.
      points: (x, y) or (x, y, label), in pixels, for every image and prompt; the default label is 1.
      boxes: (x1, y1, x2, y2) in pixels, for every image: one for all prompts, one for each in order, or several for a
        single prompt, which is then segmented in each box.
      threshold: of a model of prompts, logits above it are the mask, by default 0; of a model of objects, the smallest
        probability of a region, by default the run's.
      table: a .csv, .json or .jsonl file with a row for each mask, instead of printed lines.
      sixteen_bit: see `Model.preprocess`. shard: "I/N", the part of the images to work on, see `parts`.
      windows: short_side, overlap, blend, tta and max_pixels, for a model that gives every pixel a class.

    Returns:
      0, or 1 if an image could not be segmented; these are named on standard error.

    Raises:
      UserError: for invalid arguments, before an image is segmented.
    """
    from convert import assumptions
    from jaxdino.api.opening import open_model

    card, to = _check_run(Path(workdir)), mask_parts.Rows(table, overwrite, shard)
    if card.labels_pixels or card.finds_masks:
        given = {"--prompt": prompts, "--points": points, "--boxes": boxes}
        given["--threshold"] = threshold is not None and card.labels_pixels
        if flag := next((flag for flag, value in given.items() if value), None):
            raise UserError(f"the model in {workdir} has classes of its own and takes no prompts: leave out {flag}")
        if card.labels_pixels:
            return segment_classes(workdir, names, out, to, sixteen_bit, windows)
        _refuse_windows(windows, workdir)
        return segment_objects(workdir, names, out, to, sixteen_bit, threshold)
    _refuse_windows(windows, workdir)
    if not prompts:
        raise UserError(f"the model in {workdir} segments what a text names: --prompt 'red circle'")
    threshold = 0.0 if threshold is None else threshold
    if not math.isfinite(threshold):
        raise UserError(f"--threshold {threshold}: give a number; logits above it are the mask")
    if sixteen_bit is not None:
        Range.of(sixteen_bit, ARGUMENT)
    to.check(out)
    queries, spatial = _queries(prompts, boxes), {}
    if points:
        spatial |= {"points": [p[:2] for p in points], "point_labels": [p[2] if len(p) > 2 else 1 for p in points]}
    if boxes:
        spatial["boxes"] = [query.box for query in queries]
    images, notes = find_inputs(names, leave_out=out)
    files = MaskFiles(Path(out), queries)
    files.check(images, table)
    _check_spatial([image.path for image in images], len(queries), spatial)
    opened, lines = open_model(Path(workdir), words=assumptions.IMPORT)
    model: Any = opened  # a `Segmenter`: `_check_run`
    model.encode_prompts(prompts)
    for line in (*notes, *lines):
        say(line)
    reading = model.reading([image.path for image in images], sixteen_bit, ARGUMENT, say)
    how = {"threshold": threshold, **spatial}

    def counts(failed: int) -> str:
        unread = f"; {failed} of {len(images)} images have none, with the reason" if failed else ""
        return f"{(len(images) - failed) * len(queries)} masks in {table}{unread}" if table is not None else ""

    made = {"weights": model.digest, "prompts": prompts, "sixteen_bit": sixteen_bit, **how}
    made |= {"boxes": list(map(list, boxes)), "points": list(map(list, points))}

    def run(some: Sequence[Input], add: results.Add) -> int:
        return _segment(model, some, reading, how, files, add, table is None)

    return int(mask_parts.write(run, images, files, to, COLUMNS, _print, made, counts) > 0)


def _refuse_windows(windows: Mapping[str, Any], workdir: str) -> None:
    if windows:
        flag = next(iter(windows))
        raise UserError(f"--{flag} is for models that give every pixel a class; that in {workdir} sees images whole")


def _segment(
    model: Any, images: Sequence[Input], reading: Any, how: dict[str, Any], files: MaskFiles, add: Any, printed: bool
) -> int:
    """Segment each image and `add` its rows; return the number of images that failed."""
    failed, shown = 0, printed and sys.stdout.isatty()  # no progress bar if the lines show the progress
    for image in images if shown else bar(images, "segmenting"):
        picture = _opened(image.path, reading)
        try:
            if isinstance(picture, Exception):
                raise UserError(str(picture))
            found = model.segment(picture, files.prompts, **how)
        except UserError as err:  # an error of this image: everything else is checked
            skip(image.path, err)
            add({"path": image.path, "error": str(err)})
            failed += 1
            continue
        paths = files.write(image, picture, found.masks, found.scores)
        for prompt, path, mask, score in zip(files.prompts, paths, found.masks, found.scores, strict=True):
            add(
                {
                    "path": image.path,
                    "prompt": prompt,
                    "mask": str(path),
                    "area": int(mask.sum()),
                    "share": round(float(mask.mean()), 6),
                    "score": round(float(score), 6),
                }
            )
    return failed


def _print(row: dict[str, Any]) -> None:
    if "error" not in row:
        named = (printable(row[name], keep="") for name in ("path", "prompt"))
        print("\t".join([*named, f"{row['share']:.4f}", f"{row['score']:.4f}"]), flush=True)


def _opened(path: str, reading: Any) -> Image.Image | Exception:
    """Open an image with its EXIF orientation applied, or return the error."""
    from jaxdino.data.bad_images import BadImage
    from jaxdino.data.checks import open_image

    try:
        return cast(Image.Image, open_image(path, reading))  # three channels
    except BadImage as err:
        return err


def _queries(prompts: list[str], boxes: Sequence[tuple[float, ...]]) -> list[Query]:
    """Make a query for each prompt, or for each box of a single prompt; names are letters, digits, "_" and "-"."""
    for prompt in prompts:
        if not prompt.strip():
            raise UserError(f"--prompt {prompt!r} is empty: name the object to segment, such as 'red circle'")
    if len(prompts) > 1 and len(boxes) not in (0, 1, len(prompts)):
        raise UserError(
            f"--boxes has {len(boxes)} boxes for {len(prompts)} prompts: give one for all, one for each, or one prompt"
        )
    count = max(len(prompts), len(boxes))
    words = [re.sub(r"[^\w-]+", "_", prompt)[:40] for prompt in prompts] * (count // len(prompts))
    names = [word if words.count(word) == 1 else f"{word}.{words[:n].count(word) + 1}" for n, word in enumerate(words)]
    repeated = list(boxes) * (count if len(boxes) == 1 else 1) or [None] * count
    return [Query(*row) for row in zip(prompts * (count // len(prompts)), repeated, names, strict=True)]


def _check_run(workdir: Path) -> Any:
    """Return the card of the model. Raise UserError unless the folder holds one that segments."""
    from convert.hub import find
    from convert.store import is_model, load_card
    from jaxdino.api.opening import face_of
    from jaxdino.api.purpose import purpose
    from jaxdino.api.run_folder import check_run_folder

    check_run_folder(workdir)
    folder = find(workdir)
    card = load_card(folder) if is_model(folder) else None
    if card is None or not (card.finds_masks or hasattr(face_of(card), "segment")):
        held = f"a {card.spec.name}, which takes no prompts" if card else "neither a run nor a model"
        hint = purpose(card, face_of(card)) if card else "configs/clipdinosam.py trains one"
        raise UserError(f"{workdir} holds {held}: the folder of a segmentation run is needed ({hint})")
    return card


def _check_spatial(names: list[str], count: int, spatial: dict[str, Any]) -> None:
    """Raise UserError if points or boxes do not fit one of the images; unreadable images are ignored."""
    from jaxdino.api.segmenter import spatial_prompts
    from jaxdino.data.bad_images import BadImage
    from jaxdino.data.checks import open_rgb
    from jaxdino.data.config import DataConfig

    for name in bar(names, "checking") if spatial else ():
        try:
            image = open_rgb(name, DataConfig.max_pixels)
        except BadImage:
            continue
        try:
            points, boxes = (spatial.get(key) for key in ("points", "boxes"))
            spatial_prompts((image.height, image.width), count, points, spatial.get("point_labels"), boxes)
        except UserError as err:
            raise UserError(f"{name}: {err}") from err


if __name__ == "__main__":
    sys.exit(main())
