"""Measure distances with a trained model: `python -m jaxdino.depth --workdir DIR --out FOLDER IMAGE...`.

IMAGE is a file, a folder (all images in it and below) or a pattern in quotes, such as 'photos/**/*.jpg'. FOLDER gets a
16-bit PNG for each image, whose values are millimetres (or `--per_metre`), and in overlays/ the image beside its depth
in colours. Prints a line for each image: its path, and its smallest, median and largest distance in metres,
tab-separated. The PNGs are depth maps as data.name=depth reads them.
"""

import argparse
import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
from PIL import Image

from convert.atomic import AtomicFiles
from jaxdino import scene_results
from jaxdino.core.arguments import Parser
from jaxdino.core.bars import bar
from jaxdino.core.command import described, expanded, finish, program, uninterrupted
from jaxdino.core.errors import UserError
from jaxdino.core.processor import prepare
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
    parser = Parser(
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
    scene_results.add_windows(parser)
    args = parser.parse_args(expanded(argv))
    prepare()
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
    short_side: int | None = None,
    overlap: float | None = None,
    blend: str | None = None,
    tta: str | None = None,
    max_pixels: int | None = None,
) -> int:
    """Write the depth of each image into the folder `out`.

    Args:
      names: files, folders and patterns, as `data.inputs.find_inputs` takes them.
      per_metre: values of a file per metre; None: the first of `PER_METRE` that holds the model's largest depth.
      npy: whether files are arrays of metres. overlays: whether pictures are written.
      sixteen_bit: see `Model.preprocess`. short_side, overlap, blend, tta: as in `SemanticModel.segment`.
      max_pixels: TIFF and .npy of more pixels are read in strips, other images refused; None is the usual limit.

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
    from jaxdino.api.windowed import Whole
    from jaxdino.core.options import check_range
    from jaxdino.data.ranges import ARGUMENT, Range
    from jaxdino.evals.tiling import EVEN

    check_range("--batch_size", batch_size, "[1, inf)")
    if npy and per_metre is not None:
        raise UserError(f"--per_metre {per_metre:g} is for PNGs; .npy files are in metres")
    if sixteen_bit is not None:
        Range.of(sixteen_bit, ARGUMENT)
    whole = Whole.of(short_side, overlap, blend or EVEN, tta)
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
    reading = scene_results.readings(reading, max_pixels)
    to = Results(folder, scale, overlays)
    failed = _write(to, model, images, reading, batch_size, whole)
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


@dataclasses.dataclass(frozen=True)
class Results:
    """Where depth is written, and how.

    Attributes:
      scale: values of a file per metre; 0: files are .npy in metres. overlays: whether pictures are written.
    """

    folder: Path
    scale: float
    overlays: bool

    def path(self, image: Input, suffix: str) -> Path:
        """Return the file of an image; that of metres has a suffix of its own."""
        return self.folder / Path(image.below).with_suffix(suffix if self.scale else ".npy")

    def values(self, metres: np.ndarray) -> np.ndarray:
        """Return metres as they are written."""
        if not self.scale:
            return metres.astype(np.float32)
        return np.rint(metres.astype(np.float64) * self.scale).clip(0, LARGEST).astype(np.uint16)

    def save(self, image: Input, metres: np.ndarray, picture: np.ndarray | None) -> None:
        """Write the file of an image, and its picture beside it."""
        file = self.path(image, ".png")
        with uninterrupted(), AtomicFiles(file.parent) as drafts, drafts.open(file.name) as opened:
            if self.scale:
                Image.fromarray(self.values(metres)).save(opened, "PNG")
            else:
                np.save(opened, self.values(metres))
        if picture is not None:
            self.draw(image, picture, metres)

    def draw(self, image: Input, picture: np.ndarray, metres: np.ndarray) -> None:
        """Write the picture of an image, uint8 (H, W, C), and its depth."""
        from jaxdino.evals.depth_pictures import overlay

        file = self.folder / OVERLAYS / Path(image.below).with_suffix(".png")
        three = picture[..., :3] if picture.shape[2] >= 3 else picture[..., [0, 0, 0]]
        with uninterrupted(), AtomicFiles(file.parent) as drafts, drafts.open(file.name) as opened:
            overlay(three, metres).save(opened, "PNG")


def _write(to: Results, model: Any, images: list[Input], reading: Any, batch_size: int, whole: Any) -> int:
    """Write and print the depth of all images; return how many images could not be read."""
    from jaxdino.data.bad_images import BadImage
    from jaxdino.data.bands import pixels
    from jaxdino.data.checks import open_image
    from jaxdino.data.ranges import remarks

    failed, shown = [], sys.stdout.isatty()  # no progress bar if the lines show the progress
    small, large = scene_results.divided(images, reading)

    def pictures() -> Iterator[tuple[Input, np.ndarray, tuple[int, int]]]:
        for image in small if shown else bar(small, "measuring"):
            try:
                with remarks() as changed:
                    picture, size = model.opened(image.path, reading, whole)
            except BadImage as err:
                skip(image.path, err)
                failed.append(image.path)
                continue
            for line in changed or ():
                say(f"{image.path}: {line}")
            yield image, picture, size

    for image, found in model.windows(pictures(), batch_size, whole):
        metres = model.metres(found)
        to.save(image, metres, pixels(open_image(image.path, reading)) if to.overlays else None)
        _print(image, np.percentile(metres, (0, 50, 100)).tolist())
    for image in large:
        try:
            _print(image, _write_scene(to, model, image, reading, batch_size, whole))
        except BadImage as err:
            skip(image.path, err)
            failed.append(image.path)
    return len(failed)


def _print(image: Input, figures: list[float]) -> None:
    print("\t".join([printable(image.path, keep=""), *(f"{one:.3f}" for one in figures)]), flush=True)


def _write_scene(to: Results, model: Any, image: Input, reading: Any, batch_size: int, whole: Any) -> list[float]:
    """Write the depth of an image above the limit on pixels in strips; return its smallest, median and largest one.

    The median is that of distances rounded to 65,535 steps. Raises BadImage.
    """
    from jaxdino.data.checks import open_image
    from jaxdino.data.scene_files import write_npy, write_tiff
    from jaxdino.data.scenes import Scene

    scene = cast(Scene, open_image(image.path, reading))
    seen, counts = scene_results.Overview(scene.size, np.float32), np.zeros(LARGEST + 1, np.int64)
    steps = to.scale or LARGEST / model.card.head.max_depth
    ends = [np.inf, -np.inf]

    def see(top: int, metres: np.ndarray) -> None:
        ends[:] = min(ends[0], float(metres.min())), max(ends[1], float(metres.max()))
        counts[:] += np.bincount(
            np.rint(metres * steps).clip(0, LARGEST).astype(np.int64).ravel(), minlength=len(counts)
        )
        seen.add(top, metres)

    found = scene_results.strips(model.strips(scene, batch_size, whole), scene, f"measuring {image.below}", see)
    file = to.path(image, ".tif")
    with AtomicFiles(file.parent) as drafts, drafts.open(file.name) as opened:
        if to.scale:
            write_tiff(opened, map(to.values, found), scene.size, np.uint16, image.path)
        else:
            write_npy(opened, found, scene.size, np.float32)
    for line in scene.notes:
        say(f"{image.path}: {line}")
    if to.overlays:
        to.draw(image, scene_results.picture(scene, seen), seen.values)
    above = np.cumsum(counts)
    return [ends[0], float(np.searchsorted(above, above[-1] / 2)) / steps, ends[1]]


if __name__ == "__main__":
    sys.exit(main())
