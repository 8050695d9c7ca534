"""Pictures of detection: boxes over images, and precision-recall curves."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from jaxdino.core.errors import UserError
from jaxdino.core.words import few
from jaxdino.evals.segmentation_pictures import class_colours

LISTED = 12  # classes in the legend of the curves
GAP = 8  # pixels between images


def boxes_over(
    image: np.ndarray,
    boxes: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    scores: np.ndarray | None = None,
) -> Image.Image:
    """Draw boxes over an image, each in the colour of its class, with the name of the class and the score.

    Args:
      image: uint8 (H, W, C); of other than 3 channels the first is shown in grey. boxes: (n, 4) in its pixels.
      labels: (n,). scores: (n,), or None.
    """
    shown = Image.fromarray(image if image.shape[2] == 3 else np.ascontiguousarray(image[..., [0, 0, 0]]))
    draw, colours = ImageDraw.Draw(shown), class_colours(class_names)
    line = max(1, round(max(shown.size) / 400))
    for place, (box, label) in enumerate(zip(boxes, labels, strict=True)):
        left, top, right, bottom = (float(side) for side in box)
        colour = tuple(int(one) for one in colours[int(label)])
        corners = (left, top, max(left, right - 1), max(top, bottom - 1))
        draw.rectangle(corners, outline=colour, width=line)
        text = class_names[int(label)] + ("" if scores is None else f" {scores[place]:.2f}")
        text = text.encode("latin-1", "replace").decode("latin-1")  # all that Pillow's own font has
        around = draw.textbbox((left + line, top + line), text)
        draw.rectangle(around, fill=colour)
        draw.text((left + line, top + line), text, fill=(0, 0, 0) if sum(colour) > 380 else (255, 255, 255))
    return shown


def draw_pairs(pairs: Sequence[tuple[Image.Image, Image.Image]], file: Path) -> None:
    """Write a picture with a row for each image: the true boxes, and those that were found.

    Raises:
      UserError: without an image.
    """
    if not pairs:
        raise UserError("no image to draw: none of the split could be read")
    width = max(one.width for pair in pairs for one in pair)
    height = sum(max(one.height for one in pair) + GAP for pair in pairs)
    sheet, top = Image.new("RGB", (2 * width + GAP, height), "white"), 0
    for truth, found in pairs:
        sheet.paste(truth, (0, top))
        sheet.paste(found, (width + GAP, top))
        top += max(truth.height, found.height) + GAP
    sheet.save(file)


def draw_curves(curves: Mapping[str, np.ndarray], file: Path) -> None:
    """Write a picture of precision by recall, a curve for each class, at an overlap of 0.5.

    Args:
      curves: {class: precision (n,) at evenly spaced recalls from 0 to 1}.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for name, values in list(curves.items())[:LISTED]:
        label = f"{few([name], 1)[:40]} {values.mean():.3f}".replace("$", r"\$")
        axes.plot(np.linspace(0, 1, len(values)), values, label=label)
    more = len(curves) - LISTED
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="recall", ylabel="precision at an overlap of 0.5")
    axes.set_title(f"the first {LISTED} of {len(curves)} classes" if more > 0 else "", fontsize=9)
    if any(math.isfinite(values.mean()) for values in curves.values()):
        axes.legend(fontsize=8)
    figure.savefig(file, dpi=120)
