"""The source "voc": the segmentation layout of Pascal VOC 2012."""

from collections import Counter
from pathlib import Path
from typing import NamedTuple

from jaxdino.core.errors import UserError
from jaxdino.data.config import DataConfig
from jaxdino.data.mask_survey import indexed_scenes
from jaxdino.data.prompted import assemble, put_aside
from jaxdino.data.prompts import PromptConfig
from jaxdino.data.record import Source
from jaxdino.data.roots import existing, visible_folders
from jaxdino.data.sources.listed_rows import lines_of
from jaxdino.data.sources.masks import read_classes
from jaxdino.data.split_names import NONE, assign, flag
from jaxdino.data.splitting import origins
from jaxdino.data.tree import COMMON_SUFFIXES

LISTS = Path("ImageSets/Segmentation")
CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog"),
    *("horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
WORDS = {"diningtable": "dining table", "pottedplant": "potted plant", "tvmonitor": "tv monitor"}


def voc(cfg: DataConfig, prompts: PromptConfig) -> Source:
    """List pairs of JPEGImages/<name>.jpg and SegmentationClass/<name>.png by ImageSets/Segmentation/<split>.txt.

    Masks are read as palette indices; 255, the border, is ignored. Index i is class i of VOC's 20, or line i of a
    classes.txt at the root. Without a validation list, `val_ratio` splits off a share of train.txt. A
    test list is read only if `test_split` names it (VOC's own test.txt has no masks); otherwise `test_ratio` is used.

    Raises:
      UserError: for a missing folder or list, a list without names, names without files, or classes in no mask.
    """
    ignored: Counter[str] = Counter()
    found = listed_files(cfg, ignored)
    listed = {}
    for split, files in found.files.items():
        listed[split] = indexed_scenes(files, found.classes, found.where, cfg.max_pixels)
        ignored["mask without any class"] += sum(not scene.masks for scene in listed[split])
    names, top = tuple(dict.fromkeys(found.classes.values())), found.top
    where = origins(cfg, found.called, "")
    return assemble("voc", put_aside(listed, cfg, top), names, prompts, str(top), ignored, where)


class Files(NamedTuple):
    """The files of a folder in VOC's layout.

    Attributes:
      files: {split: (image, mask) paths}. called: {split: name of its list}.
      classes: {value: name}. where: what names them, for messages.
    """

    top: Path
    files: dict[str, list[tuple[str, str]]]
    called: dict[str, str]
    classes: dict[int, str]
    where: str


def listed_files(cfg: DataConfig, ignored: Counter) -> Files:
    """Return the files of the lists that are used; what is passed over is counted. Raises UserError as `voc`."""
    top = existing(cfg.root, "voc")
    for name in ("JPEGImages", "SegmentationClass", str(LISTS)):
        if not (top / name).is_dir():
            near = ", ".join(path.name for path in visible_folders(top)[:6]) or "no folders"
            inner = next((path for path in sorted(top.glob("**/SegmentationClass")) if path.is_dir()), None)
            hint = f"; there is one in {inner.parent}: set the root to it" if inner else ""
            raise UserError(f"{top} has no folder {name}; found: {near}{hint}")
    file = top / "classes.txt"
    classes = read_classes(file) if file.is_file() else dict(enumerate((WORDS.get(n, n) for n in CLASSES), 1))
    where = str(file) if file.is_file() else "the list of VOC's 20 classes"
    called = _lists(top, cfg, ignored)
    return Files(top, {split: _files(top, name, ignored) for split, name in called.items()}, called, classes, where)


def _lists(top: Path, cfg: DataConfig, ignored: Counter) -> dict[str, str]:
    """Return {split: name of its list}. Unused lists are counted; a test list is read only if it is named."""
    names = sorted(path.stem for path in (top / LISTS).glob("*.txt"))
    given = cfg.given_splits | {"test": cfg.test_split or NONE}
    found = assign(names, given, str(top / LISTS))
    if "train" not in found:
        raise UserError(
            f"{top / LISTS} has no train.txt; found: {', '.join(names) or 'no lists'}. Name the list with "
            f"{flag('train', 'NAME')}"
        )
    used = (*found.values(), "trainval")  # VOC's own union
    ignored.update({f"list {name}.txt": 1 for name in names if name not in used})
    return found


def _files(top: Path, name: str, ignored: Counter) -> list[tuple[str, str]]:
    """Return (image, mask) paths of a list; names without a mask or image are skipped and counted."""
    file = top / LISTS / f"{name}.txt"
    listed = [line.strip() for line in lines_of(file) if line.strip()]
    stems = list(dict.fromkeys(listed))
    ignored["name listed again"] += len(listed) - len(stems)
    masks = {path.stem: path for path in sorted((top / "SegmentationClass").glob("*.png"))}
    images = {
        path.stem: path for path in sorted((top / "JPEGImages").iterdir()) if path.suffix.lower() in COMMON_SUFFIXES
    }
    matched = [(str(images[stem]), str(masks[stem])) for stem in stems if stem in masks and stem in images]
    if not matched:
        example = f", such as {stems[0]}," if stems else ""
        raise UserError(f"{file} lists {len(stems)} names{example} and none has both an image and a mask under {top}")
    ignored["name without mask or image"] += len(stems) - len(matched)
    return matched
