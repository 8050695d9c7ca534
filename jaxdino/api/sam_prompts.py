"""Check the prompts for SAM: complete their shapes and report mistakes."""

from typing import Any

import numpy as np

from jaxdino.core.errors import UserError

LABELS = {1: "in the object", 0: "not in it", -1: "no point"}


def checked_prompts(
    sizes: tuple[tuple[int, int], ...], side: int, points, labels, boxes, masks
) -> dict[str, np.ndarray]:
    """Return the given prompts with all their axes.

    Args:
      sizes: (height, width) of each of the B images. side: side of mask prompts.
      points, labels, boxes, masks: as in `SamModel.masks`; coordinates in pixels of these images.

    Raises:
      UserError: as in `SamModel.masks`.
    """
    if points is None and boxes is None and masks is None:
        raise UserError("there is no prompt: give points (with labels), boxes or masks")
    if (points is None) != (labels is None):
        given, other = ("points", "labels") if labels is None else ("labels", "points")
        raise UserError(f"{given} are given without {other}: each point needs a label, 1 in the object or 0 not in it")
    found: dict[str, np.ndarray] = {}
    if points is not None:
        found["points"] = _whole("points", points, ("P", "K", 2), len(sizes))
        found["labels"] = _labels(labels, points, found["points"])
        _check_points(found["points"], found["labels"], sizes)
    if boxes is not None:
        found["boxes"] = _whole("boxes", boxes, ("P", 4), len(sizes))
        _check_boxes(found["boxes"], sizes)
    if masks is not None:
        found["masks"] = _whole("masks", masks, ("P", side, side), len(sizes)).astype(np.float32)
    _check_counts(found)
    return found


def _numbers(name: str, value: Any) -> np.ndarray:
    try:
        array = np.asarray(value, np.float64)
    except (TypeError, ValueError, RuntimeError) as err:  # RuntimeError: a torch tensor with a gradient
        raise UserError(f"{name} are not an array of numbers: {err}") from err
    if not np.isfinite(array).all():
        raise UserError(f"{name} hold NaN or infinity")
    return array


def _whole(name: str, value: Any, axes: tuple, images: int) -> np.ndarray:
    """Return the array with the axes B and P, which may be omitted if their length is 1."""
    array = _numbers(name, value)
    missing = len(axes) + 1 - array.ndim
    fits = 0 <= missing <= 2 and all(
        isinstance(want, str) or have == want for have, want in zip(array.shape[::-1], axes[::-1], strict=False)
    )
    array = array.reshape((1,) * missing + array.shape) if fits else array
    if not fits or array.shape[0] != images or not array.size:
        forms = [", ".join(map(str, form)) for form in (("B", *axes), axes, axes[1:])]
        only = "" if images == 1 else f"; for B = {images} images the first form is needed"
        raise UserError(
            f"{name} have the shape {np.shape(value)}; give ({forms[0]}), ({forms[1]}) or ({forms[2]}){only}"
        )
    return array


def _labels(labels: Any, points: Any, whole: np.ndarray) -> np.ndarray:
    array = _numbers("labels", labels)
    if array.shape != np.shape(points)[:-1]:
        raise UserError(f"labels have the shape {array.shape}; points {np.shape(points)} need {np.shape(points)[:-1]}")
    if strange := sorted(set(array.ravel()) - set(LABELS)):
        known = ", ".join(f"{value} ({meaning})" for value, meaning in LABELS.items())
        raise UserError(f"labels hold {strange[0]:g}; known are {known}")
    return array.reshape(whole.shape[:-1]).astype(np.int32)


def _check_points(points: np.ndarray, labels: np.ndarray, sizes) -> None:
    for b, (height, width) in enumerate(sizes):
        outside = ((points[b] < 0) | (points[b] > (width, height))).any(-1) & (labels[b] != -1)
        if outside.any():
            p, k = np.argwhere(outside)[0]
            x, y = points[b, p, k]
            raise UserError(
                f"point {k} of prompt {p} lies at x={x:g}, y={y:g}, outside image {b}, which is {width} wide and "
                f"{height} high: points are (x, y) in pixels of the original image"
            )


def _check_boxes(boxes: np.ndarray, sizes) -> None:
    for b, (height, width) in enumerate(sizes):
        for p, (x1, y1, x2, y2) in enumerate(boxes[b]):
            corners = f"box {p} of image {b}, x1={x1:g}, y1={y1:g}, x2={x2:g}, y2={y2:g},"
            if x2 < x1 or y2 < y1:
                raise UserError(f"{corners} ends before it begins: boxes are x1, y1, x2, y2, not x, y, width, height")
            if min(x1, y1) < 0 or x2 > width or y2 > height:
                raise UserError(f"{corners} lies outside the image, which is {width} wide and {height} high")


def _check_counts(found: dict[str, np.ndarray]) -> None:
    counts = {name: found[name].shape[1] for name in ("points", "boxes") if name in found}
    if len(set(counts.values())) > 1:
        raise UserError(
            f"points are for {counts['points']} prompts and boxes for {counts['boxes']}: points and boxes "
            f"of one index form one prompt, one box for each set of points"
        )
    masks = found["masks"].shape[1] if "masks" in found else 1
    if counts and masks not in (1, *counts.values()):
        name, count = next(iter(counts.items()))
        raise UserError(f"masks are for {masks} prompts and {name} for {count}: give one mask for all, or one for each")
