"""Write the masks of a model that gives every pixel a class: part of `python -m jaxdino.segment`."""

import functools
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from PIL import Image

from convert.atomic import AtomicFiles
from jaxdino import mask_parts, scene_results, segment_scenes
from jaxdino.core.bars import bar
from jaxdino.core.command import uninterrupted
from jaxdino.core.words import printable
from jaxdino.data.bad_images import BadImage
from jaxdino.data.inputs import Input, find_inputs
from jaxdino.mask_files import OVERLAY, MaskFiles, Query
from jaxdino.predict import say, skip

COLUMNS = ("path", "class", "mask", "area", "share", "error")
CLASSES, BACKGROUND = "classes.txt", "background"
WINDOWS = 8  # of a batch


class ClassFiles(MaskFiles):
    """Write masks of classes into a folder, keeping the sub-folders of the images, and classes.txt on exit.

    Values are 0 to n - 1 if the first class is the background, else 1 to n: line i of classes.txt names value i, or, if
    its first line is "background", value i - 1. The source "masks" reads them so.
    """

    def __init__(self, folder: Path, class_names: Sequence[str]):
        super().__init__(folder, [Query("", None, "")])
        self.names = tuple(class_names)
        self.first = 0 if self.names[0].casefold() == BACKGROUND else 1

    def __exit__(self, *_) -> None:
        with uninterrupted(), AtomicFiles(self.folder) as drafts, drafts.open(CLASSES) as file:
            file.write("".join(f"{name}\n" for name in self.names).encode())

    def path(self, image: Input, name: str) -> Path:
        """Return the file of an image's mask, or of its `OVERLAY`."""
        return super().path(image, name) if name else self.folder / Path(image.below).with_suffix(".png")

    def scene_path(self, image: Input) -> Path:
        """Return the file of the mask of an image above the limit on pixels."""
        return super().path(image, "mask").with_suffix(".tif")

    @property
    def palette(self) -> np.ndarray:
        """The colour of each value, uint8 (256, 3)."""
        from jaxdino.evals.segmentation_pictures import class_colours

        found = np.zeros((256, 3), np.uint8)
        found[self.first : self.first + len(self.names)] = class_colours(self.names)
        return found

    def write_labels(self, image: Input, picture: np.ndarray, labels: np.ndarray) -> Path:
        """Write the mask uint8 (H, W) of an image uint8 (h, w, C), and its picture; return the file of the mask."""
        from jaxdino.evals.segmentation_pictures import draw_classes

        file, overlay = self.path(image, ""), self.path(image, OVERLAY)
        mask = Image.fromarray(labels + np.uint8(self.first))
        mask.putpalette(self.palette.ravel().tolist())
        shown = picture[..., :3] if picture.shape[2] >= 3 else picture[..., [0, 0, 0]]
        with uninterrupted(), AtomicFiles(file.parent) as drafts:
            with drafts.open(file.name) as opened:
                mask.save(opened, "PNG")
            with drafts.open(overlay.name) as opened:
                draw_classes([shown], None, [labels], self.names, cast(Any, opened))
        return file


def segment_classes(
    workdir: str,
    names: list[str],
    out: str,
    to: mask_parts.Rows,
    sixteen_bit: str | None,
    windows: Mapping[str, Any],
) -> int:
    """Write the masks and pictures into `out`; print a line for each class of an image, with its share.

    Args, returns and raises as `segment.segment`; `to`: where the rows go.
    """
    from convert import assumptions
    from jaxdino.api.opening import open_model
    from jaxdino.api.windowed import Whole
    from jaxdino.data.ranges import ARGUMENT, Range, remarks
    from jaxdino.evals.tiling import EVEN

    if sixteen_bit is not None:
        Range.of(sixteen_bit, ARGUMENT)
    whole = Whole.of(windows.get("short_side"), windows.get("overlap"), windows.get("blend", EVEN), windows.get("tta"))
    to.check(out)
    images, notes = find_inputs(names, leave_out=out)
    opened, lines = open_model(Path(workdir), words=assumptions.IMPORT)
    model: Any = opened  # a `SemanticModel`, since its head gives pixels classes
    files = ClassFiles(Path(out), model.class_names or tuple(map(str, range(model.card.num_classes))))
    files.check(images, to.table)
    for line in (*notes, *lines):
        say(line)
    reading = model.reading([image.path for image in images], sixteen_bit, ARGUMENT, say)
    reading = scene_results.readings(reading, windows.get("max_pixels"))

    def pictures(
        some: Sequence[Input], add: Any, failed: list[str]
    ) -> Iterator[tuple[Any, np.ndarray, tuple[int, int]]]:
        shown = to.table is None and sys.stdout.isatty()  # no progress bar if the lines show the progress
        for image in some if shown else bar(some, "segmenting"):
            try:
                with remarks() as changed:
                    picture, size = model.opened(image.path, reading, whole)
            except BadImage as err:
                _lose(image, err, add, failed)
                continue
            for line in changed or ():
                say(f"{image.path}: {line}")
            yield (image, picture), picture, size

    def run(some: Sequence[Input], add: Any) -> int:
        failed: list[str] = []
        small, large = scene_results.divided(some, reading)
        for (image, picture), logits in model.windows(pictures(small, add, failed), WINDOWS, whole):
            labels = logits.labels()
            file = files.write_labels(image, picture, labels)
            _add_rows(image, files.names, file, np.bincount(labels.ravel(), minlength=len(files.names)), add)
        for image in large:
            try:
                written = segment_scenes.write(files, image, model, reading, WINDOWS, whole, images)
                _add_rows(image, files.names, *written, add)
            except BadImage as err:
                _lose(image, err, add, failed)
        return len(failed)

    made = {"weights": model.digest, "sixteen_bit": sixteen_bit, **windows}
    counts = functools.partial(mask_parts.counts, len(images), "masks", out)
    return int(mask_parts.write(run, images, files, to, COLUMNS, _print, made, counts) > 0)


def _lose(image: Input, err: BadImage, add: Any, failed: list[str]) -> None:
    """Name an image that could not be read."""
    skip(image.path, err)
    add({"path": image.path, "error": str(err)})
    failed.append(image.path)


def _add_rows(image: Input, names: Sequence[str], file: Path, areas: np.ndarray, add: Any) -> None:
    """Add a row for each class of an image, the largest first."""
    for place in np.argsort(-areas, kind="stable")[: np.count_nonzero(areas)].tolist():
        share = round(float(areas[place] / areas.sum()), 6)
        add({"path": image.path, "class": names[place], "mask": str(file), "area": int(areas[place]), "share": share})


def _print(row: dict[str, Any]) -> None:
    if "error" not in row:
        print(f"{printable(row['path'], keep='')}\t{printable(row['class'], keep='')}\t{row['share']:.4f}", flush=True)
