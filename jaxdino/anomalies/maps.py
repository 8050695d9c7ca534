"""Anomaly maps as pictures."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxdino.core.errors import UserError
from jaxdino.core.writable import check_writable

STRENGTH = 0.6  # opacity of the strongest colour


def coloured(image: np.ndarray, heat_HxW: np.ndarray, threshold: float) -> np.ndarray:
    """Return a map over its image, uint8 (H, W, 3): clear at 0, the middle of the colours at the threshold.

    Args:
      image: uint8 (H, W, C), of more than three channels the first three, of fewer the first.
    """
    from matplotlib import colormaps

    share = np.clip(heat_HxW / max(2 * threshold, 1e-12), 0, 1)
    seen = image[..., :3] if image.shape[-1] >= 3 else image[..., :1].repeat(3, axis=-1)
    alpha = STRENGTH * share[..., None]
    mixed = (1 - alpha) * seen / 255 + alpha * colormaps["inferno"](share)[..., :3]
    return (mixed * 255).round().astype(np.uint8)


def places(folder: str | None, files: Sequence[str], below: Sequence[str], overwrite: bool) -> list[Path]:
    """Return the file of each image's map, FOLDER/<path below>.png; [] without a folder.

    Raises:
      UserError: for a folder that is a file, two images of the same name, a map that would replace one of the images,
        or another file unless `overwrite`.
    """
    if folder is None:
        return []
    top = Path(folder)
    if top.exists() and not top.is_dir():
        raise UserError(f"--maps {folder} is a file: give a folder")
    check_writable(f"--maps {folder}", top)
    images, found = {Path(file).resolve() for file in files}, dict[Path, str]()
    for file, name in zip(files, below, strict=True):
        place = top / Path(name).with_suffix(".png")
        if place in found:
            raise UserError(f"the maps of {found[place]} and {file} would both be {place}: predict them in two calls")
        if place.resolve() in images:
            raise UserError(f"--maps {folder}: the map of {file} would replace the image {place}; give another folder")
        if place.exists() and not overwrite:
            raise UserError(f"--maps {folder}: {place} exists already; give another folder, or --overwrite")
        found[place] = file
    return list(found)
