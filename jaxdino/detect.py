"""Find objects with a trained model: `python -m jaxdino.detect --workdir DIR --out FOLDER IMAGE...`.

IMAGE is a file, a folder (all images in it and below) or a pattern in quotes, such as 'photos/**/*.jpg'. FOLDER gets
detections.json in COCO's format, with a score for each box, and overlays/, the images with their boxes. Prints a line
for each object: the image's path, class, score, left, top, right and bottom in pixels, tab-separated. With --shard
I/N, N processes share the images, and the last one to finish writes detections.json.
"""

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

from jaxdino import parts
from jaxdino.core.arguments import Parser
from jaxdino.core.bars import bar
from jaxdino.core.command import described, expanded, finish, program
from jaxdino.core.errors import UserError
from jaxdino.core.processor import prepare
from jaxdino.core.program_cache import keep_programs
from jaxdino.core.words import printable
from jaxdino.data.inputs import Input, find_inputs
from jaxdino.predict import say, skip
from jaxdino.result_folder import check_empty, check_names, check_shared

BLOCK = 256  # images of a block of --shard, rounded up to whole batches
FILE, OVERLAYS = "detections.json", "overlays"


def main(argv: list[str] | None = None) -> int:
    """Run the command; return 1 if an image could not be read, else see `finish`."""
    return finish(lambda: _run(argv))


def _run(argv: list[str] | None) -> int:
    parser = Parser(
        prog=program("detect"),
        description=described("detect", __doc__),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="a file, a folder, or a pattern in quotes")
    parser.add_argument("--workdir", required=True, help="the folder of a training run")
    parser.add_argument("--out", required=True, metavar="FOLDER", help="a new or empty folder for the results")
    parser.add_argument("--threshold", type=float, default=0.3, metavar="P", help="smallest score (default 0.3)")
    parser.add_argument("--batch_size", type=int, default=8, help="images per batch (default 8)")
    parser.add_argument(
        "--shard", metavar="I/N", help="work on part I of N of the images, each part in a process of its own"
    )
    parser.add_argument("--no_overlays", action="store_true", help="do not write images with their boxes")
    parser.add_argument(
        "--sixteen_bit",
        help="black and white of 16-bit and float images: full, image, window, percentiles, 0,4095 (default the model)",
    )
    args = parser.parse_args(expanded(argv))
    prepare()
    keep_programs()
    given = vars(args)
    return detect(given.pop("workdir"), given.pop("images"), overlays=not given.pop("no_overlays"), **given)


def detect(
    workdir: str,
    names: list[str],
    out: str,
    threshold: float = 0.3,
    batch_size: int = 8,
    overlays: bool = True,
    sixteen_bit: str | None = None,
    shard: str | None = None,
) -> int:
    """Write the objects of each image into the folder `out`.

    Args:
      names: files, folders and patterns, as `data.inputs.find_inputs` takes them.
      threshold: smallest score. overlays: whether images with their boxes are written.
      sixteen_bit: see `Model.preprocess`. shard: "I/N", the part of the images to work on, see `parts`.

    Returns:
      0, or 1 if an image could not be read; these are named on standard error.

    Raises:
      UserError: before an image is read, for a folder `out` that is not empty, images of one name, a model that does
        not find boxes, and values out of range.
    """
    from convert import assumptions
    from jaxdino.api.detector import Detector
    from jaxdino.api.opening import open_model
    from jaxdino.api.purpose import purpose
    from jaxdino.api.run_folder import check_run_folder
    from jaxdino.core.options import check_range
    from jaxdino.data.ranges import ARGUMENT, Range

    check_range("--threshold", threshold, "[0, 1]")
    check_range("--batch_size", batch_size, "[1, inf)")
    if sixteen_bit is not None:
        Range.of(sixteen_bit, ARGUMENT)
    part, free = (None, check_empty) if shard is None else (parts.shard_of(shard), check_shared)
    folder = free(out)
    check_run_folder(workdir)
    images, notes = find_inputs(names, leave_out=out)
    check_names(images, _overlay if overlays else lambda image: image.below)
    opened, lines = open_model(workdir, words=assumptions.IMPORT)
    if not opened.card.finds_boxes:
        raise UserError(f"the model in {workdir} does not find boxes: {purpose(opened.card, opened)}")
    for line in (*notes, *lines):
        say(line)
    model, said = cast(Detector, opened), {}  # since its head finds boxes
    paths = [image.path for image in images]
    reading = model.reading(paths, sixteen_bit, ARGUMENT, say)

    def rows(places: range) -> Iterator[dict[str, Any]]:
        some = [images[place] for place in places]
        found = model.each([image.path for image in some], reading, threshold, batch_size, said)
        return _rows(folder, model, some, found, reading, overlays)

    if part is None:
        folder.mkdir(parents=True, exist_ok=True)
        failed = _write(folder, model, rows(range(len(images))))
    else:
        made = {"weights": model.digest, "threshold": threshold, "batch_size": batch_size, "overlays": overlays}
        made |= {"sixteen_bit": sixteen_bit, "images": len(images), "paths": parts.digest_of(paths)}
        free(out)  # again: other parts may have been joined meanwhile
        parts.begin(out, made, overwrite=False)
        folder.mkdir(parents=True, exist_ok=True)
        failed = _share(parts.Share(out, part, len(images), -(-BLOCK // batch_size) * batch_size), model, rows)
    for name, line in said.items():
        say(f"{name}: {line}")
    return int(failed > 0)


def _share(share: parts.Share, model: Any, rows: Callable[[range], Iterator[dict[str, Any]]]) -> int:
    """Write the blocks of a share, and the results if it is the last one; return how many images could not be read."""
    mine = 0

    def counted(places: range) -> Iterator[dict[str, Any]]:
        nonlocal mine
        for row in rows(places):
            mine += "error" in row
            yield row

    said, failed = parts.work(
        share,
        lambda file, places: parts.write_rows(file, counted(places)),
        lambda files: _write(Path(share.out), model, parts.rows_of(files)),
    )
    print(said, file=sys.stderr)
    return mine if failed is None else failed


def _overlay(image: Input) -> Path:
    return Path(OVERLAYS, image.below).with_suffix(".png")


def _rows(
    folder: Path, model: Any, images: Sequence[Input], found: Any, reading: Any, overlays: bool
) -> Iterator[dict[str, Any]]:
    """Print and draw the objects of images; yield a row for each image: COCO's entries without numbers, or an error."""
    from jaxdino.data.bad_images import BadImage

    shown, classes = sys.stdout.isatty(), _classes(model)  # no progress bar if the lines show the progress
    for image, objects in zip(images, found if shown else bar(found, "detecting", total=len(images)), strict=True):
        if isinstance(objects, BadImage):
            skip(image.path, objects)
            yield {"error": str(objects)}
            continue
        picture = _opened(image.path, reading)
        if overlays:
            _draw(folder / _overlay(image), picture, objects, classes)
        for name, score, box in zip(objects.names, objects.scores, objects.boxes.tolist(), strict=True):
            words = (printable(image.path, keep=""), printable(name, keep=""), f"{score:.4f}")
            print("\t".join((*words, *(f"{side:.1f}" for side in box))), flush=True)
        about = {"file_name": image.below, "height": picture.shape[0], "width": picture.shape[1]}
        yield {"image": about, "objects": list(_entries(objects))}


def _classes(model: Any) -> tuple[str, ...]:
    return model.class_names or tuple(map(str, range(model.card.num_classes)))


def _write(folder: Path, model: Any, rows: Iterable[dict[str, Any]]) -> int:
    """Write the file of all objects; return how many images could not be read."""
    from jaxdino.core.json_file import write_json

    result: dict[str, Any] = {"images": [], "annotations": []}
    result["categories"] = [{"id": number, "name": name} for number, name in enumerate(_classes(model), 1)]
    failed = 0
    for row in rows:
        if "error" in row:
            failed += 1
            continue
        number = len(result["images"]) + 1
        result["images"].append({"id": number, **row["image"]})
        for entry in row["objects"]:
            result["annotations"].append({"id": len(result["annotations"]) + 1, "image_id": number, **entry})
    write_json(folder / FILE, result)
    unread = f", {failed} of {failed + len(result['images'])} could not be read" if failed else ""
    counts = f"{len(result['annotations'])} objects in {len(result['images'])} images"
    print(f"{counts}{unread}: {folder / FILE}", file=sys.stderr)
    return failed


def _opened(path: str, reading: Any) -> Any:
    """Return uint8 (H, W, C) of a whole image."""
    from jaxdino.data.bands import pixels
    from jaxdino.data.checks import open_image

    return pixels(open_image(path, reading))


def _entries(objects: Any) -> Iterator[dict[str, Any]]:
    """Return the objects of an image as COCO has them, without the numbers of the data set."""
    for box, score, label in zip(objects.boxes.tolist(), objects.scores.tolist(), objects.labels.tolist(), strict=True):
        left, top, right, bottom = box
        sides = [round(side, 2) for side in (left, top, right - left, bottom - top)]
        area = round(sides[2] * sides[3], 2)
        yield {"category_id": label + 1, "bbox": sides, "area": area, "iscrowd": 0, "score": score}


def _draw(file: Path, picture: Any, objects: Any, classes: tuple[str, ...]) -> None:
    from jaxdino.evals.detection_pictures import boxes_over

    file.parent.mkdir(parents=True, exist_ok=True)
    boxes_over(picture, objects.boxes, objects.labels, classes, objects.scores).save(file)


if __name__ == "__main__":
    sys.exit(main())
