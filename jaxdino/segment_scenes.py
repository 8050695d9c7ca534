"""Write the classes of an image above the limit on pixels: part of `python -m jaxdino.segment`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from convert.atomic import AtomicFiles
from jaxdino import scene_results
from jaxdino.data.bad_images import BadImage
from jaxdino.data.inputs import Input
from jaxdino.mask_files import OVERLAY


def write(
    files: Any, image: Input, model: Any, reading: Any, batch_size: int, whole: Any, images: Sequence[Input]
) -> tuple[Path, np.ndarray]:
    """Write the mask and the picture of a scene; return the file of the mask, and the area of each class.

    Args:
      files: the `ClassFiles` of the folder. images: all that were given, which are not written over.

    Raises:
      BadImage: if it cannot be read, or its mask would be written over an image; nothing is left of its files.
    """
    from jaxdino.core.command import uninterrupted
    from jaxdino.data.checks import open_image
    from jaxdino.data.scene_files import write_tiff
    from jaxdino.data.scenes import Scene
    from jaxdino.evals.segmentation_pictures import draw_classes
    from jaxdino.predict import say

    file, overlay = files.scene_path(image), files.path(image, OVERLAY)
    if file.resolve() in {Path(one.path).resolve() for one in images}:
        raise BadImage(f"{file} would be written over an image: give another --out")
    scene = cast(Scene, open_image(image.path, reading))
    seen, areas = scene_results.Overview(scene.size, np.uint8), np.zeros(len(files.names), np.int64)

    def see(top: int, labels: np.ndarray) -> None:
        nonlocal areas
        areas += np.bincount(labels.ravel(), minlength=len(areas))
        seen.add(top, labels)

    found = scene_results.strips(model.strips(scene, batch_size, whole), scene, f"segmenting {image.below}", see)
    values = (labels + np.uint8(files.first) for labels in found)
    with AtomicFiles(file.parent) as drafts:
        with drafts.open(file.name) as opened:
            write_tiff(opened, values, scene.size, np.uint8, image.path, files.palette)
        for line in scene.notes:
            say(f"{image.path}: {line}")
        with uninterrupted(), drafts.open(overlay.name) as opened:
            shown = scene_results.picture(scene, seen)
            draw_classes([shown], None, [seen.values], files.names, cast(Any, opened))
    return file, areas
