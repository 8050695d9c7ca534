"""Measure distances with a trained model: `python -m jaxdino.depth --workdir DIR --out FOLDER IMAGE...`.

IMAGE is a file, a folder (all images in it and below) or a pattern in quotes, such as 'photos/**/*.jpg'. FOLDER gets a
16-bit PNG for each image, whose values are millimetres (or `--per_metre`), and in overlays/ the image beside its depth
in colours. Prints a line for each image: its path, and its smallest, median and largest distance in metres,
tab-separated. The PNGs are depth maps as data.name=depth reads them.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
from PIL import Image

from convert.atomic import AtomicFiles
from jaxdino.core.bars import bar
from jaxdino.core.command import described, expanded, finish, program, uninterrupted
from jaxdino.core.errors import UserError
from jaxdino.core.host_memory import keep_freed
from jaxdino.core.program_cache import keep_programs
from jaxdino.core.words import printable
from jaxdino.data.inputs import Input, find_inputs
from jaxdino.predict import say, skip
from jaxdino.result_folder import check_empty, check_names

OVERLAYS = "overlays"
LARGEST = 2**16 - 1  # of a 16-bit file
PER_METRE = (1000.0, 256.0, 100.0, 10.0)
"""Values per metre that a file may have, the first in which the model's largest distance fits: KITTI's are 256."""


def main(argv: list[str] | None = None) -> int:
    """Run the command; return 1 if an image could not be read, else see `finish`."""
    return finish(lambda: _run(argv))


def _run(argv: list[str] | None) -> int:
    parser = argparse.ArgumentParser(
        prog=program("depth"),
        description=described("depth", __doc__),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="a file, a folder, or a pattern in quotes")
    parser.add_argument("--workdir", required=True, help="the folder of a training run")
    parser.add_argument("--out", required=True, metavar="FOLDER", help="a new or empty folder for the results")
    parser.add_argument(
        "--per_metre", type=float, metavar="N", help="values per metre (default 1000; fewer if the model sees farther)"
    )
    parser.add_argument("--npy", action="store_true", help="write float .npy files in metres, not PNGs")
    parser.add_argument("--batch_size", type=int, default=8, help="images per batch (default 8)")
    parser.add_argument("--no_overlays", action="store_true", help="do not write pictures")
    parser.add_argument(
        "--sixteen_bit",
        help="black and white of 16-bit and float images: full, image, window, percentiles, 0,4095 (default the model)",
    )
    args = parser.parse_args(expanded(argv))
    keep_freed()
    keep_programs()
    given = vars(args)
    return depth(given.pop("workdir"), given.pop("images"), overlays=not given.pop("no_overlays"), **given)


def depth(
    workdir: str,
    names: list[str],
    out: str,
    per_metre: float | None = None,
    npy: bool = False,
    batch_size: int = 8,
    overlays: bool = True,
    sixteen_bit: str | None = None,
) -> int:
    """Write the depth of each image into the folder `out`.

    Args:
      names: files, folders and patterns, as `data.inputs.find_inputs` takes them.
      per_metre: values of a file per metre; None: the first of `PER_METRE` that holds the model's largest depth.
      npy: whether files are arrays of metres. overlays: whether pictures are written.
      sixteen_bit: see `Model.preprocess`.

    Returns:
      0, or 1 if an image could not be read; these are named on standard error.

    Raises:
      UserError: before an image is read, for a folder `out` that is not empty, images of one name, a model without
        depth, and values out of range.
    """
    from convert import assumptions
    from jaxdino.api.depth import DepthModel
    from jaxdino.api.opening import open_model
    from jaxdino.api.purpose import purpose
    from jaxdino.api.run_folder import check_run_folder
    from jaxdino.core.options import check_range
    from jaxdino.data.ranges import ARGUMENT, Range

    check_range("--batch_size", batch_size, "[1, inf)")
    if npy and per_metre is not None:
        raise UserError(f"--per_metre {per_metre:g} is for PNGs; .npy files are in metres")
    if sixteen_bit is not None:
        Range.of(sixteen_bit, ARGUMENT)
    folder = check_empty(out)
    check_run_folder(workdir)
    images, notes = find_inputs(names, leave_out=out)
    check_names(images, lambda image: Path(image.below).with_suffix(".png"))
    opened, lines = open_model(workdir, words=assumptions.IMPORT)
    if not opened.card.gives_depth:
        raise UserError(f"the model in {workdir} does not measure depth: {purpose(opened.card, opened)}")
    model = cast(DepthModel, opened)
    scale = 0.0 if npy else _scale(per_metre, cast(Any, model.card.head).max_depth)
    for line in (*notes, *lines):
        say(line)
    reading = model.reading([image.path for image in images], sixteen_bit, ARGUMENT, say)
    failed = _write(folder, model, images, reading, batch_size, scale, overlays)
    done = f"{len(images) - failed} depth maps in {out}" + ("" if npy else f", {scale:g} values per metre")
    print(done + (f"; {failed} of {len(images)} images could not be read" if failed else ""), file=sys.stderr)
    return int(failed > 0)


def _scale(given: float | None, farthest: float) -> float:
    """Return the values per metre. Raise UserError if the given ones do not hold the model's largest depth."""
    if given is None:
        found = next((one for one in PER_METRE if one * farthest <= LARGEST), LARGEST / farthest)
        if found != PER_METRE[0]:
            say(f"the model sees up to {farthest:g} m, too far for 16 bits of millimetres: {found:g} values per metre")
        return found
    if not 0 < given * farthest <= LARGEST:
        raise UserError(
            f"--per_metre {given:g}: the model's largest depth, {farthest:g} m, must be above 0 and at most "
            f"{LARGEST} in a 16-bit file: give {LARGEST / farthest:.3g} or less, or --npy"
        )
    return given


def _write(
    folder: Path, model: Any, images: list[Input], reading: Any, batch_size: int, scale: float, overlays: bool
) -> int:
    """Write and print the depth of all images; return how many images could not be read."""
    from jaxdino.data.bad_images import BadImage
    from jaxdino.data.bands import pixels
    from jaxdino.data.checks import open_image
    from jaxdino.data.ranges import remarks

    failed, shown = [], sys.stdout.isatty()  # no progress bar if the lines show the progress

    def pictures() -> Iterator[tuple[Input, np.ndarray, tuple[int, int]]]:
        for image in images if shown else bar(images, "measuring"):
            try:
                with remarks() as changed:
                    picture, size = model.opened(image.path, reading)
            except BadImage as err:
                skip(image.path, err)
                failed.append(image.path)
                continue
            for line in changed or ():
                say(f"{image.path}: {line}")
            yield image, picture, size

    for image, found in model.windows(pictures(), batch_size):
        metres = model.metres(found)
        whole = pixels(open_image(image.path, reading)) if overlays else None
        _save(folder, image, metres, scale, whole)
        low, middle, high = np.percentile(metres, (0, 50, 100)).tolist()
        print(f"{printable(image.path, keep='')}\t{low:.3f}\t{middle:.3f}\t{high:.3f}", flush=True)
    return len(failed)


def _save(folder: Path, image: Input, metres: np.ndarray, scale: float, whole: np.ndarray | None) -> None:
    """Write the file of an image, in metres (.npy) if the scale is 0, and its picture."""
    from jaxdino.evals.depth_pictures import overlay

    file = folder / Path(image.below).with_suffix(".png" if scale else ".npy")
    with uninterrupted(), AtomicFiles(file.parent) as drafts, drafts.open(file.name) as opened:
        if scale:
            values = np.rint(metres.astype(np.float64) * scale).clip(0, LARGEST)
            Image.fromarray(values.astype(np.uint16)).save(opened, "PNG")
        else:
            np.save(opened, metres.astype(np.float32))
    if whole is not None:
        picture = folder / OVERLAYS / Path(image.below).with_suffix(".png")
        three = whole[..., :3] if whole.shape[2] >= 3 else whole[..., [0, 0, 0]]
        with uninterrupted(), AtomicFiles(picture.parent) as drafts, drafts.open(picture.name) as opened:
            overlay(three, metres).save(opened, "PNG")


if __name__ == "__main__":
    sys.exit(main())
