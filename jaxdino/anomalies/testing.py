"""Test a detector on a folder of good and anomalous images, with masks of the anomalies where they are known.

The layout is that of MVTec AD: `ROOT/good/*.png`, `ROOT/<kind>/*.png`, and `MASKS/<kind>/<name>_mask.png` (or
`<name>.png`), in which every value above 0 is anomalous.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from jaxdino.anomalies.measures import auroc, pixel_auroc, pixel_statistic, pro
from jaxdino.core.errors import UserError
from jaxdino.core.intervals import wilson
from jaxdino.data.crops import eval_crop
from jaxdino.data.folders import find_images
from jaxdino.data.image_file import open_file
from jaxdino.data.tree import IMAGE_SUFFIXES
from jaxdino.evaluation.intervals import Resampling, bootstrap


class Listed(NamedTuple):
    """A test set: N image files, the kind of each, and its mask's file ("" without one)."""

    files: list[str]
    kinds: list[str]
    masks: list[str]


def listed(root: Path, good: str, masks: Path | None) -> Listed:
    """List the images of each kind.

    Args:
      good: the folder of good images. masks: the folder of the masks.

    Raises:
      UserError: if a folder is missing or empty, and for an anomalous image without a mask if `masks` is given.
    """
    if not root.is_dir():
        raise UserError(f"--root {root}: there is no such folder")
    kinds = sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if good not in kinds or len(kinds) < 2:
        found = ", ".join(kinds) or "no folder"
        raise UserError(
            f"--root {root} must hold a folder {good!r} of good images (--good names another) and one for each kind of "
            f"anomaly; it holds {found}"
        )
    rows: list[tuple[str, str, str]] = []
    for kind in kinds:
        files = find_images(root / kind, Counter())
        if not files:
            raise UserError(f"--root {root}: the folder {kind!r} holds no image: move it away, or add its images")
        for file in files:
            rows.append((file, kind, "" if masks is None or kind == good else _mask_of(Path(file), masks / kind)))
    return Listed(*(list(column) for column in zip(*rows, strict=True)))


def _mask_of(file: Path, folder: Path) -> str:
    names = [f"{file.stem}{ending}{suffix}" for ending in ("_mask", "") for suffix in sorted(IMAGE_SUFFIXES)]
    found = next((folder / name for name in names if (folder / name).is_file()), None)
    if found is None:
        raise UserError(f"{file} has no mask {folder}/{file.stem}_mask.png: leave out --masks, or give all masks")
    return str(found)


def mask(file: str, shape: tuple[int, int], preprocess: Any) -> np.ndarray:
    """Return the mask of an image as the model sees it, bool (H, W); of a good image without anomaly.

    Raises:
      UserError: if it cannot be read.
    """
    if not file:
        return np.zeros(shape, bool)
    try:
        with open_file(file) as image:
            levels = Image.fromarray((np.asarray(image.convert("L")) > 0).astype(np.uint8))
    except (OSError, ValueError, UserError) as err:
        raise UserError(f"{file}: the mask cannot be read: {err}") from None
    how = preprocess.resize
    return (
        np.asarray(eval_crop(levels, shape, type(how)(how.crop_pct, "nearest", how.crop_mode, how.crop_rounding))) > 0
    )


def measured(
    kinds: Sequence[str], good: str, scores: np.ndarray, threshold: float, maps: Sequence[tuple[np.ndarray, np.ndarray]]
) -> dict[str, Any]:
    """Return the figures.

    Args:
      kinds, scores: of the N images that were read. maps: (mask, anomaly map) of those with known masks; may be empty.

    Returns:
      image_auroc with its 95 % bootstrap interval, recall and false alarms at the threshold with Wilson's intervals,
      pixel_auroc and pro with bootstrap intervals over images (None without masks), `masks`, the images they are of;
      n, and {kind: the same figures of images}.
      What cannot be computed is None; `reasons` says why.
    """
    names, values = np.asarray(kinds), np.asarray(scores)
    wrong, alarm = names != good, np.asarray(scores) > threshold
    found: dict[str, Any] = {
        "n": {"good": int(np.count_nonzero(~wrong)), "anomalous": int(np.count_nonzero(wrong))},
        "image_auroc": known(auroc(wrong, values)),
        "image_auroc_interval": _interval(wrong, values),
        **_at_threshold("recall", alarm[wrong]),
        **_at_threshold("false_alarms", alarm[~wrong]),
        "masks": len(maps),
        "pixel_auroc": known(pixel_auroc(*zip(*maps, strict=True))) if maps else None,
        "pro": known(pro(*zip(*maps, strict=True))) if maps else None,
        **_pixel_intervals(maps),
    }
    rows: Mapping[str, np.ndarray] = {kind: names == kind for kind in sorted(set(names[wrong].tolist()))}
    found["kinds"] = {
        kind: {
            "n": int(np.count_nonzero(own)),
            "image_auroc": known(auroc(wrong[own | ~wrong], values[own | ~wrong])),
            "image_auroc_interval": _interval(wrong[own | ~wrong], values[own | ~wrong]),
            **_at_threshold("recall", alarm[own]),
        }
        for kind, own in rows.items()
    }
    reasons = {
        "image_auroc": (found["image_auroc"], "it needs good and anomalous images that can be read"),
        "recall": (found["recall"], "no anomalous image could be read"),
        "false_alarms": (found["false_alarms"], "no good image could be read"),
        "pixel_auroc": (
            found["pixel_auroc"],
            "no masks (--masks)" if not maps else "the masks have pixels of one kind",
        ),
        "pro": (found["pro"], "no masks (--masks)" if not maps else "no mask has an anomalous region"),
    }
    return found | {"reasons": {name: why for name, (value, why) in reasons.items() if value is None}}


def _at_threshold(name: str, flags: np.ndarray) -> dict[str, Any]:
    """Return a share and its Wilson interval at 95 %."""
    if not len(flags):
        return {name: None, f"{name}_interval": None}
    return {name: float(flags.mean()), f"{name}_interval": list(wilson(float(flags.sum()), len(flags)))}


def _pixel_intervals(maps: Sequence[tuple[np.ndarray, np.ndarray]]) -> dict[str, Any]:
    """Return the bootstrap intervals at 95 % of pixel_auroc and pro, images drawn with replacement; None without."""
    if not maps:
        return {"pixel_auroc_interval": None, "pro_interval": None}
    found = bootstrap(pixel_statistic(*zip(*maps, strict=True)), len(maps), Resampling())
    ends = {name: [float(low), float(high)] for name, (low, high) in found.items()}
    return {f"{name}_interval": None if np.isnan(pair[0]) else pair for name, pair in ends.items()}


def known(value: float) -> float | None:
    """Return a figure, or None if it is not defined."""
    return None if np.isnan(value) else value


def _interval(wrong: np.ndarray, scores: np.ndarray) -> list[float] | None:
    """Return the percentile bootstrap interval of the AUROC at 95 %, images drawn with replacement."""
    if not 0 < np.count_nonzero(wrong) < len(wrong):
        return None
    how, found = Resampling(), []
    for counts in how.counts(len(scores)):
        for row in counts.astype(np.int64):
            drawn = np.repeat(np.arange(len(row)), row)
            found.append(auroc(wrong[drawn], scores[drawn]))
    there = np.asarray(found)[~np.isnan(found)]
    return np.percentile(there, [2.5, 97.5]).tolist() if len(there) > len(found) / 2 else None
