"""Write the objects of a model of mask queries: part of `python -m jaxdino.segment`."""

import functools
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from PIL import Image

from convert.atomic import AtomicFiles
from jaxdino import mask_parts
from jaxdino.core.bars import bar
from jaxdino.core.command import uninterrupted
from jaxdino.core.errors import UserError
from jaxdino.core.words import printable
from jaxdino.data.inputs import Input, find_inputs
from jaxdino.mask_files import OVERLAY, MaskFiles, Query
from jaxdino.predict import say, skip

COLUMNS = ("path", "class", "mask", "number", "area", "score", "error")
PER_CLASS, MOST = 1000, 64  # numbers of a class, and classes that fit into 16 bits with them
BATCH = 8


class ObjectFiles(MaskFiles):
    """Write maps of object numbers as 16-bit PNG, pictures, and on exit masks.json (COCO) and the naming of the maps.

    With one class the numbers are 1 to n, and classes.txt names it; with several, class * 1000 + number as in
    Cityscapes, the class alone if it has no objects, and classes.json. The source "masks" reads them so.
    """

    def __init__(self, folder: Path, class_names: Sequence[str], things: Sequence[bool]):
        super().__init__(folder, [Query(name, None, "") for name in class_names[:1]])
        self.names, self.things = tuple(class_names), tuple(things) or (True,) * len(class_names)
        if len(self.names) > MOST:
            raise UserError(
                f"maps of object numbers have 16 bits: {len(self.names)} classes are more than {MOST}; use model.masks"
            )
        self._coco = type(self._coco)(self.names)
        for category, thing in zip(self._coco.data["categories"], self.things, strict=True):
            category["isthing"] = int(thing)

    def __exit__(self, *given: Any) -> None:
        super().__exit__(*given)
        several = len(self.names) > 1
        content = json.dumps({str(n): name for n, name in enumerate(self.names, 1)}) if several else self.names[0]
        name = "classes.json" if several else "classes.txt"
        with uninterrupted(), AtomicFiles(self.folder) as drafts, drafts.open(name) as file:
            file.write((content + "\n").encode())

    def path(self, image: Input, name: str) -> Path:
        """Return the file of an image's map, or of its `OVERLAY`."""
        return super().path(image, name) if name else self.folder / Path(image.below).with_suffix(".png")

    def numbers(self, regions: Any) -> np.ndarray:
        """Return the value of each region in the map, int64 (n,)."""
        if len(self.names) == 1:
            return np.arange(1, len(regions.labels) + 1)
        found, counts = [], [0] * len(self.names)
        for label in regions.labels.tolist():
            counts[label] += 1
            value = (label + 1) * PER_CLASS + counts[label] if self.things[label] else label + 1
            found.append(value if counts[label] < PER_CLASS else 0)
        return np.array(found, np.int64)

    def write_regions(self, image: Input, picture: np.ndarray, regions: Any) -> Path:
        """Write the map and the picture of an image uint8 (H, W, C); return the file of the map."""
        from jaxdino.evals.instance_pictures import regions_over

        file, overlay = self.path(image, ""), self.path(image, OVERLAY)
        table = np.concatenate([np.zeros(1, np.int64), self.numbers(regions)])
        shown = regions_over(picture, regions.ids, regions.labels, self.names, named=len(self.names) > 1)
        with uninterrupted():
            with AtomicFiles(file.parent) as drafts:
                with drafts.open(file.name) as opened:
                    Image.fromarray(table[regions.ids].astype(np.uint16)).save(opened, "PNG")
                with drafts.open(overlay.name) as opened:
                    shown.save(cast(Any, opened), "PNG")
            self._coco.add_image(image.below, shown)
            for name, mask, score in zip(regions.names, regions.masks, regions.scores.tolist(), strict=True):
                self._coco.add_mask(name, mask, score)
        return file


def segment_objects(
    workdir: str, names: list[str], out: str, to: mask_parts.Rows, sixteen_bit: str | None, threshold: float | None
) -> int:
    """Write the maps and pictures into `out`; print a line for each region: image, class, number, area, score.

    Args, returns and raises as `segment.segment`; `to`: where the rows go.
    """
    from convert import assumptions
    from jaxdino.api.opening import open_model
    from jaxdino.data.bad_images import BadImage
    from jaxdino.data.bands import pixels
    from jaxdino.data.checks import open_image
    from jaxdino.data.ranges import ARGUMENT, Range

    if sixteen_bit is not None:
        Range.of(sixteen_bit, ARGUMENT)
    to.check(out)
    images, notes = find_inputs(names, leave_out=out)
    opened, lines = open_model(Path(workdir), words=assumptions.IMPORT)
    model: Any = opened  # an `InstanceModel`, since its head finds masks
    model.least(threshold)
    files = ObjectFiles(Path(out), model.class_names or ("object",), model.card.head.things)
    files.check(images, to.table)
    for line in (*notes, *lines):
        say(line)
    reading, said = model.reading([image.path for image in images], sixteen_bit, ARGUMENT, say), {}
    shown = to.table is None and sys.stdout.isatty()  # no progress bar if the lines show the progress

    def run(some: Sequence[Input], add: Any) -> int:
        failed, found = 0, model.each([image.path for image in some], reading, threshold, BATCH, said)
        for image, regions in zip(some, found if shown else bar(found, "segmenting", total=len(some)), strict=True):
            if isinstance(regions, BadImage):
                skip(image.path, regions)
                add({"path": image.path, "error": str(regions)})
                failed += 1
                continue
            file = files.write_regions(image, pixels(open_image(image.path, reading)), regions)
            areas, numbers = np.bincount(regions.ids.ravel(), minlength=len(regions.labels) + 1), files.numbers(regions)
            for place, (name, score) in enumerate(zip(regions.names, regions.scores.tolist(), strict=True)):
                row = {"class": name, "mask": str(file), "number": int(numbers[place]), "area": int(areas[place + 1])}
                add({"path": image.path, **row, "score": round(score, 4)})
        return failed

    made = {"weights": model.digest, "sixteen_bit": sixteen_bit, "threshold": threshold}
    counts = functools.partial(mask_parts.counts, len(images), "maps", out)
    failed = mask_parts.write(run, images, files, to, COLUMNS, _print, made, counts)
    for name, line in said.items():
        say(f"{name}: {line}")
    return int(failed > 0)


def _print(row: dict[str, Any]) -> None:
    if "error" not in row:
        words = (printable(row["path"], keep=""), printable(row["class"], keep=""))
        print("\t".join((*words, str(row["number"]), str(row["area"]), f"{row['score']:.4f}")), flush=True)
