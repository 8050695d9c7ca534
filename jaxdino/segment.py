"""Masks of what a text names in images: `python -m jaxdino.segment --workdir DIR --prompt "red circle" IMAGE...`.

Writes, for each image, a mask for each prompt (<image>.<prompt>.png, 0 and 255) and a picture of them all
(<image>.overlay.png); and masks.json, the masks of all images as a COCO data set.
"""

import argparse
import json
import math
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from jaxdino.core.command import finish
from jaxdino.core.errors import UserError
from jaxdino.core.host_memory import keep_freed

FAMILY = "clipdinosam"
OVERLAY, MASKS = "overlay", "masks.json"


class Query(NamedTuple):
    """One mask that is asked of every image. `name`: what stands in the names of its files."""

    prompt: str
    box: tuple[float, ...] | None
    name: str


def main(argv: list[str] | None = None) -> int:
    """Prints a line for each mask; returns 1 if an image could not be segmented, else as `finish` says."""
    return finish(lambda: _run(argv))


def _run(argv: list[str] | None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m jaxdino.segment", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("images", nargs="+", metavar="IMAGE")
    parser.add_argument("--workdir", required=True, help="the folder of a segmentation run")
    parser.add_argument("--prompt", required=True, action="append", metavar="TEXT", help="may be given several times")
    parser.add_argument(
        "--points", metavar="X,Y;...", help="pixels in the object, or with a third number 0 not in it: '12,30;40,8,0'"
    )
    parser.add_argument(
        "--boxes", metavar="X1,Y1,X2,Y2;...", help="one for all prompts, one for each, or several for one prompt"
    )
    parser.add_argument("--threshold", type=float, default=0.0, help="logits above it are the mask (default 0)")
    parser.add_argument("--out", default="segmented", metavar="DIR", help="where the files go (default segmented)")
    args = parser.parse_args(argv)
    keep_freed()
    points, boxes = parsed("--points", args.points, (2, 3)), parsed("--boxes", args.boxes, (4,))
    return segment(args.workdir, args.images, args.prompt, points, boxes, args.threshold, args.out)


def parsed(flag: str, text: str | None, lengths: Sequence[int]) -> list[tuple[float, ...]]:
    """A flag's rows of numbers, "1,2;3,4" -> [(1.0, 2.0), (3.0, 4.0)].

    Raises:
      UserError: for a row that is not as long as one of the `lengths`, or holds what is no number.
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
                f"{flag} {text!r}: {one!r} is not {wanted} numbers with a comma between, ';' after each row"
            )
        rows.append(row)
    return rows


def segment(
    workdir: str,
    names: list[str],
    prompts: list[str],
    points: Sequence[tuple[float, ...]] = (),
    boxes: Sequence[tuple[float, ...]] = (),
    threshold: float = 0.0,
    out: str = "segmented",
) -> int:
    """Writes the masks and pictures into `out`; prints a line for each mask, tab-separated: the image, the prompt, the
    share of the image that is covered, the score.

    Args:
      names: image files.
      points: (x, y) or (x, y, label), in pixels of every image, for every prompt; label 1 where there is none.
      boxes: (x1, y1, x2, y2) in pixels of every image: one for all prompts, one for each in order, or several for the
        only prompt, which is then looked for in each.
      threshold: of the logits.

    Returns:
      0, or 1 if an image could not be segmented; each one is named on the standard error.

    Raises:
      UserError: for what cannot be, before an image is segmented.
    """
    import jaxdino

    _check_run(Path(workdir))
    if not math.isfinite(threshold):
        raise UserError(f"--threshold {threshold}: give a number; logits above it are the mask")
    queries, spatial = _queries(prompts, boxes), {}
    if points:
        spatial |= {"points": [p[:2] for p in points], "point_labels": [p[2] if len(p) > 2 else 1 for p in points]}
    if boxes:
        spatial["boxes"] = [query.box for query in queries]
    _check_spatial(names, len(queries), spatial)
    folder = Path(out)
    _check_files(names, queries, folder)
    model = jaxdino.load(Path(workdir))
    model.encode_prompts(prompts)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return _segment(model, names, queries, {"threshold": threshold, **spatial}, folder)
    except BrokenPipeError:  # of standard output
        raise
    except OSError as err:
        raise UserError(f"--out {out} cannot be written: {err.strerror or err}") from err


def _segment(model: Any, names: list[str], queries: list[Query], how: dict[str, Any], folder: Path) -> int:
    from jaxdino.evals.segmentation_pictures import draw_overlay

    prompts, failed = [query.prompt for query in queries], []
    coco = Coco(prompts)
    for name, image in _opened(names, model.reading(names), failed):
        try:
            found = model.segment(image, prompts, **how)
        except UserError as err:  # of the image: all else is checked
            _skip(name, err, failed)
            continue
        coco.add_image(name, image)
        for query, mask, score in zip(queries, found.masks, found.scores, strict=True):
            Image.fromarray(mask.astype(np.uint8) * 255).save(folder / _file(name, query.name))
            coco.add_mask(query.prompt, mask, float(score))
            print(f"{name}\t{query.prompt}\t{mask.mean():.4f}\t{score:.4f}", flush=True)
        draw_overlay(np.asarray(image), prompts, found.masks, found.scores, folder / _file(name, OVERLAY))
    if len(failed) < len(names):
        (folder / MASKS).write_text(json.dumps(coco.data) + "\n")
    return int(bool(failed))


def _opened(names: list[str], reading: Any, failed: list[str]) -> Iterator[tuple[str, Image.Image]]:
    """The readable images, upright; others are named and added to `failed`."""
    from jaxdino.data.bad_images import BadImage
    from jaxdino.data.checks import open_image

    for name in names:
        try:
            yield name, open_image(name, reading)
        except BadImage as err:
            _skip(name, err, failed)


def _skip(name: str, why: Exception, failed: list[str]) -> None:
    print(f"skipped {name}: {why}", file=sys.stderr)
    failed.append(name)


def _queries(prompts: list[str], boxes: Sequence[tuple[float, ...]]) -> list[Query]:
    """A query for each prompt, or for each box of the only one; names are letters, digits, "_" and "-"."""
    for prompt in prompts:
        if not prompt.strip():
            raise UserError(f"--prompt {prompt!r} is empty: say what is looked for, such as 'red circle'")
    if len(prompts) > 1 and len(boxes) not in (0, 1, len(prompts)):
        raise UserError(
            f"--boxes has {len(boxes)} boxes for {len(prompts)} prompts: give one for all, one for each, or one prompt"
        )
    count = max(len(prompts), len(boxes))
    words = [re.sub(r"[^\w-]+", "_", prompt)[:40] for prompt in prompts] * (count // len(prompts))
    names = [word if words.count(word) == 1 else f"{word}.{words[:n].count(word) + 1}" for n, word in enumerate(words)]
    repeated = list(boxes) * (count if len(boxes) == 1 else 1) or [None] * count
    return [Query(*row) for row in zip(prompts * (count // len(prompts)), repeated, names, strict=True)]


def _file(image: str, name: str) -> str:
    return f"{Path(image).stem}.{name}.png"


def _check_run(workdir: Path) -> None:
    """Raises UserError unless the folder holds a segmenter."""
    from convert.hub import find
    from convert.store import is_model, load_card

    if not workdir.is_dir():
        raise UserError(f"there is no folder {workdir}: --workdir takes the folder of a training run")
    begun = any((workdir / name).exists() for name in ("checkpoints", "metrics.jsonl"))
    if begun and not (workdir / "best").is_dir():
        raise UserError(f"the run in {workdir} has not finished a stage yet")
    folder = find(workdir)
    card = load_card(folder) if is_model(folder) else None
    if card is None or card.spec.family != FAMILY:
        held = f"a {card.spec.name}, which takes no prompts" if card else "neither a run nor a model"
        hint = (
            "python -m jaxdino.predict classifies" if card and card.num_classes else "configs/clipdinosam.py trains one"
        )
        raise UserError(f"{workdir} holds {held}: the folder of a segmentation run is needed ({hint})")


def _check_spatial(names: list[str], count: int, spatial: dict[str, Any]) -> None:
    """Raises UserError if points or boxes do not fit one of the images; what cannot be read is passed over."""
    from jaxdino.api.segmenter import spatial_prompts
    from jaxdino.data.bad_images import BadImage
    from jaxdino.data.checks import open_rgb
    from jaxdino.data.sources import DataConfig

    for name in names if spatial else ():
        try:
            image = open_rgb(name, DataConfig.max_pixels)
        except BadImage:
            continue
        try:
            given = (spatial.get(key) for key in ("points", "point_labels", "boxes"))
            spatial_prompts((image.height, image.width), count, *given)
        except UserError as err:
            raise UserError(f"{name}: {err}") from err


def _check_files(names: list[str], queries: list[Query], folder: Path) -> None:
    """Raises UserError if a file would be written twice, or over an image, or the folder is none."""
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise UserError(f"--out {folder} cannot be written: {there} is no folder that lets you")
    images, seen = {Path(name).resolve(): name for name in names}, {}
    for name in names:
        for part in (*(query.name for query in queries), OVERLAY):
            file = _file(name, part)
            if (folder / file).resolve() in images:
                raise UserError(f"--out {folder}: {file} would be written over an image: give another folder")
            if file in seen:
                both = f"{seen[file]} and {name}" if seen[file] != name else f"two masks of {name}"
                raise UserError(f"{both} would both be written to {file}: give them in two calls, each its own --out")
            seen[file] = name


class Coco:
    """A COCO data set of masks: images, categories (the prompts) and annotations, each with its score.

    Source: https://cocodataset.org/#format-data; masks are run lengths, as pycocotools packs them.
    """

    def __init__(self, prompts: Sequence[str]):
        self.ids = {prompt: number for number, prompt in enumerate(dict.fromkeys(prompts), 1)}
        categories = [{"id": number, "name": prompt} for prompt, number in self.ids.items()]
        self.data: dict[str, list] = {"images": [], "categories": categories, "annotations": []}

    def add_image(self, name: str, image: Image.Image) -> None:
        """The image that the next masks are of."""
        number = len(self.data["images"]) + 1
        self.data["images"].append({"id": number, "file_name": name, "width": image.width, "height": image.height})

    def add_mask(self, prompt: str, mask: np.ndarray, score: float) -> None:
        """A mask (H, W) bool; its box is x, y, width, height in pixels."""
        from pycocotools import mask as runs

        packed = runs.encode(np.asfortranarray(mask, np.uint8))
        annotation = {
            "id": len(self.data["annotations"]) + 1,
            "image_id": len(self.data["images"]),
            "category_id": self.ids[prompt],
            "segmentation": {"size": list(mask.shape), "counts": packed["counts"].decode("ascii")},
            "bbox": runs.toBbox(packed).tolist(),
            "area": int(runs.area(packed)),
            "iscrowd": 0,
            "score": round(score, 6),
        }
        self.data["annotations"].append(annotation)


if __name__ == "__main__":
    sys.exit(main())
