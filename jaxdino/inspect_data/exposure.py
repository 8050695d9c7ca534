"""Images that are too dark, too bright, without contrast or small, and the mean colours of the training images."""

from typing import Any

import numpy as np

from jaxdino.inspect_data.images import Images
from jaxdino.inspect_data.limits import Limits
from jaxdino.inspect_data.pixels import Facts

DIGITS = 4  # of printed means and standard deviations


def exposure(facts: Facts, limits: Limits) -> dict[str, list[int]]:
    """Return {"dark", "bright", "low_contrast", "small": images}, of those that can be read."""
    rows, read = facts.rows, facts.read
    wrong = {
        "dark": rows["brightness"] < limits.dark,
        "bright": rows["brightness"] > limits.bright,
        "low_contrast": rows["contrast"] < limits.contrast,
        "small": np.minimum(rows["width"], rows["height"]) < limits.small,
    }
    return {name: np.flatnonzero(found & read).tolist() for name, found in wrong.items()}


def statistics(images: Images, facts: Facts) -> dict[str, Any]:
    """Return {"split", "images", "mean", "std"}: of each channel, for pixels in 0..1; {} if no image could be read.

    The images are those of train, or all if there is no such split. Each counts the same, whatever its size, as in
    training: the mean is that of the images' means, the variance that of a pixel drawn from an image drawn at random.
    """
    names = [split.name for split in images.splits]
    chosen = facts.read & (images.split == names.index("train")) if "train" in names else facts.read
    if not chosen.any():
        return {}
    mean = facts.rows["mean"][chosen].astype(np.float64).mean(axis=0)
    square = facts.rows["square"][chosen].astype(np.float64).mean(axis=0)
    std = np.sqrt(np.maximum(square - mean**2, 0))
    split = "train" if "train" in names else ", ".join(names)
    shown = {"mean": np.round(mean / 255, DIGITS).tolist(), "std": np.round(std / 255, DIGITS).tolist()}
    return {"split": split, "images": int(chosen.sum())} | shown


def flags(found: dict[str, Any]) -> str:
    """Return statistics as the flags of a run."""
    return " ".join(f"--config.data.{name}='{tuple(found[name])}'".replace(", ", ",") for name in ("mean", "std"))
