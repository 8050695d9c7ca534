"""List images with boxes in Pascal VOC's layout, see `voc_xml`."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxdino.data.boxes import BoxedSource, Boxes
from jaxdino.data.config import DataConfig
from jaxdino.data.record import Source, Split
from jaxdino.data.sources.voc_xml import class_names, listed_images, read_objects
from jaxdino.data.split_names import SPLITS
from jaxdino.data.splitting import origins, shared_out


def voc(cfg: DataConfig) -> BoxedSource:
    """List JPEGImages/<name>.* with Annotations/<name>.xml, by the lists in ImageSets; without lists, all images.

    The classes are the lines of a classes.txt at the root, or else all names in the files. A missing validation list
    gets the share `val_ratio` of train. Names without an image, and images in no list, are counted.

    Raises:
      UserError: see `voc_xml.listed_images`.
    """
    ignored: Counter[str] = Counter()
    top, files, called = listed_images(cfg, ignored)
    files = shared_out(files, cfg, top)
    paths = {split: [path for (path,) in files[split]] for split in SPLITS if split in files}
    boxes, names = _boxes([path for found in paths.values() for path in found], top, ignored)
    splits = {split: Split(split, found, {}, names, str(top)) for split, found in paths.items()}
    source = Source("voc", names, splits, dict(+ignored), origins(cfg, called, ""))
    return BoxedSource(source, boxes, np.array([not file for file in boxes.files], bool))


def _boxes(paths: Sequence[str], top: Path, ignored: Counter) -> tuple[Boxes, tuple[str, ...]]:
    """Read the boxes of all images, and the names of the classes."""
    files, read = read_objects(paths, top)
    ignored["image without annotation"] += files.count("")
    rows, corners, names, difficult, broken = [], [], [], [], {}
    for row, things in enumerate(read):
        if isinstance(things, str):
            broken[row] = things
            continue
        for thing in things:
            rows.append(row)
            corners.append(thing.corners)
            names.append(thing.name)
            difficult.append(thing.difficult)
    known = class_names(top, set(names))
    place = {name: label for label, name in enumerate(known)}
    label = np.array([place.get(name, -1) for name in names], np.int32)
    unknown = {int(box): names[box] for box in np.flatnonzero(label < 0)}
    corners, row = np.array(corners, np.float64).reshape(-1, 4), np.array(rows, np.int64)

    def where(box: int) -> str:
        return f"{files[row[box]]}: object {box - int(np.searchsorted(row, row[box])) + 1}"

    return Boxes(row, corners, label, unknown, files, broken, where, np.array(difficult, bool)), known
