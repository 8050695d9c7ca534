"""Write mask files: a PNG per mask, an overlay of all masks of an image, and masks.json, which lists them."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from convert.atomic import AtomicFiles
from jaxdino.core.command import uninterrupted
from jaxdino.core.errors import UserError
from jaxdino.core.writable import check_writable
from jaxdino.data.inputs import Input

OVERLAY, MASKS = "overlay", "masks.json"


class Query(NamedTuple):
    """One mask to predict for every image. `name`: part of its files' names."""

    prompt: str
    box: tuple[float, ...] | None
    name: str


class MaskFiles:
    """Write masks into a folder, keeping the sub-folders of the images.

    A context manager. On exit, also after an error, it writes masks.json with exactly the masks that were written, if
    there are any. Ctrl-C waits until all files of the current image are written.
    """

    def __init__(self, folder: Path, queries: Sequence[Query]):
        self.folder, self.queries = folder, queries
        self.prompts = [query.prompt for query in queries]
        self._coco = Coco(self.prompts)

    def __enter__(self) -> "MaskFiles":
        return self

    def __exit__(self, *_) -> None:
        if not self._coco.data["images"]:
            return
        with uninterrupted(), AtomicFiles(self.folder) as drafts, drafts.open(MASKS) as file:
            file.write((json.dumps(self._coco.data) + "\n").encode())

    def path(self, image: Input, name: str) -> Path:
        """Return the file of a query's mask, or of the `OVERLAY`, for an image."""
        below = Path(image.below)
        return self.folder / below.parent / f"{below.stem}.{name}.png"

    def write(self, image: Input, picture: Image.Image, masks: np.ndarray, scores: np.ndarray) -> list[Path]:
        """Write the masks (P, H, W) bool of an image and its overlay; return the files of the masks."""
        from jaxdino.evals.segmentation_pictures import draw_overlay

        files = [self.path(image, query.name) for query in self.queries]
        overlay = self.path(image, OVERLAY)
        with uninterrupted():
            with AtomicFiles(overlay.parent) as drafts:
                for path, mask in zip(files, masks, strict=True):
                    with drafts.open(path.name) as file:
                        Image.fromarray(mask.astype(np.uint8) * 255).save(file, "PNG")
                with drafts.open(overlay.name) as file:
                    draw_overlay(np.asarray(picture), self.prompts, masks, scores, file)
            self._coco.add_image(image.path, picture)
            for prompt, mask, score in zip(self.prompts, masks, scores, strict=True):
                self._coco.add_mask(prompt, mask, float(score))
        return files

    def taken(self) -> dict[str, list]:
        """Return the entries of the images and masks that were written since the last call, for `extend`."""
        found = {name: self._coco.data[name] for name in ("images", "annotations")}
        self._coco.data |= {name: [] for name in found}
        return found

    def extend(self, entries: Mapping[str, list]) -> None:
        """Add images and masks that other files of this kind have `taken`."""
        images, masks = (len(self._coco.data[name]) for name in ("images", "annotations"))
        self._coco.data["images"] += [{**one, "id": images + one["id"]} for one in entries["images"]]
        self._coco.data["annotations"] += [
            {**one, "id": masks + one["id"], "image_id": images + one["image_id"]} for one in entries["annotations"]
        ]

    def check(self, images: Sequence[Input], table: str | None = None) -> None:
        """Raise UserError if a file would be written twice, over an image or over the table, or cannot be written."""
        if table is not None and Path(table).resolve() == (self.folder / MASKS).resolve():
            raise UserError(f"--table {table}: the list of the masks is written there: give another file")
        for folder in {self.path(image, OVERLAY).parent: None for image in images}:
            check_writable(f"--out {self.folder}", folder)
        given = {Path(image.path).resolve() for image in images}
        seen: dict[Path, str] = {}
        for image, path in self._planned(images):
            file = path.relative_to(self.folder)
            if path.resolve() in given:
                raise UserError(f"--out {self.folder}: {file} would be written over an image: give another folder")
            if path in seen:
                same = seen[path] == image.path
                both = f"two masks of {image.path}" if same else f"{seen[path]} and {image.path}"
                hint = "segment them in two calls with different --out" + (
                    "" if same else "; a pattern such as 'photos/**/*.jpg' selects one file type"
                )
                raise UserError(f"{both} would both be written to {file}: {hint}")
            seen[path] = image.path

    def _planned(self, images: Sequence[Input]) -> Iterator[tuple[Input, Path]]:
        for image in images:
            for name in (*(query.name for query in self.queries), OVERLAY):
                yield image, self.path(image, name)


class Coco:
    """A COCO dataset of masks: images, categories (the prompts) and annotations with scores.

    Source: https://cocodataset.org/#format-data; masks are run-length encoded, as by pycocotools.
    """

    def __init__(self, prompts: Sequence[str]):
        self.ids = {prompt: number for number, prompt in enumerate(dict.fromkeys(prompts), 1)}
        categories = [{"id": number, "name": prompt} for prompt, number in self.ids.items()]
        self.data: dict[str, list] = {"images": [], "categories": categories, "annotations": []}

    def add_image(self, name: str, image: Image.Image) -> None:
        """Add the image that the next masks belong to."""
        number = len(self.data["images"]) + 1
        self.data["images"].append({"id": number, "file_name": name, "width": image.width, "height": image.height})

    def add_mask(self, prompt: str, mask: np.ndarray, score: float) -> None:
        """Add a mask (H, W) bool; its box is x, y, width, height in pixels."""
        from pycocotools import mask as runs

        packed: Any = runs.encode(np.asfortranarray(mask, np.uint8))
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
