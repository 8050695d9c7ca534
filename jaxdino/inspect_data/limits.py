"""Limits from which on something is reported."""

import argparse
import dataclasses

from jaxdino.core import options
from jaxdino.inspect_data.hashes import FARTHEST


@dataclasses.dataclass(frozen=True)
class Limits:
    """All limits of a check.

    Attributes:
      dark: mean grey level below which an image is too dark, 0..255.
      bright: mean grey level above which an image is too bright, 0..255.
      contrast: standard deviation of the grey levels below which an image has no contrast.
      small: shorter side below which an image is small, pixels.
      min_samples_per_class: training images below which a class is small.
      max_class_imbalance: largest ratio of the training images of two classes.
      distance: differing bits, of 64, up to which two perceptual hashes are near-duplicates; -1 compares none.
      cosine: cosine of two features from which on images are near-duplicates; None calibrates it, see `calibration`.
    """

    dark: float = 10.0
    bright: float = 245.0
    contrast: float = 5.0
    small: int = 224
    min_samples_per_class: int = 50
    max_class_imbalance: float = 10.0
    distance: int = 4
    cosine: float | None = None

    def __post_init__(self):
        for name in ("dark", "bright", "contrast"):
            options.check_range(f"--{name}", getattr(self, name), "[0, 256)")
        for name in ("small", "min_samples_per_class"):
            options.check_range(f"--{name}", getattr(self, name), "[0, inf)")
        options.check_range("--max_class_imbalance", self.max_class_imbalance, "[1, inf)")
        options.check_range("--distance", self.distance, f"[-1, {FARTHEST}]")
        if self.cosine is not None:
            options.check_range("--cosine", self.cosine, "[-1, 1]")


def cosine(text: str) -> float | None:
    """Read the value of --cosine: a number, or None for "auto". Raises ArgumentTypeError."""
    try:
        return None if text == "auto" else float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} must be auto or a number") from None


DEFAULT = Limits()
HELP = {
    "dark": "mean grey level below which an image is too dark, 0 to 255",
    "bright": "mean grey level above which an image is too bright",
    "contrast": "standard deviation of grey levels below which an image has no contrast",
    "small": "shorter side below which an image is small, pixels",
    "min_samples_per_class": "training images below which a class is small",
    "max_class_imbalance": "largest ratio of the training images of two classes",
    "distance": "bits of 64 in which the hashes of near-duplicates differ at most; -1 compares no hashes",
    "cosine": "with --weights: cosine of the features of near-duplicates, at least; auto: calibrated on the images",
}
"""Limit -> its line in --help."""
