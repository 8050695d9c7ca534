"""Map 16-bit, 32-bit and float pixels to 8 bits: choose which pixel values become black and white."""

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np

from jaxdino.core.errors import UserError
from jaxdino.core.words import percent
from jaxdino.data.bad_images import BadImage

BITS = (8, 10, 12, 14, 16)
KINDS = ("auto", "full", "window", "image", "percentiles")
PERCENTILES = (0.5, 99.5)
FLAG = "data.sixteen_bit"
KEYWORD, ARGUMENT = "sixteen_bit", "--sixteen_bit"
"""Names of the setting: in a run, in Python, and in other commands."""

_remarks: ContextVar[list[str] | None] = ContextVar("remarks", default=None)


@contextmanager
def remarks() -> Iterator[list[str]]:
    """Collect remarks about the images that this thread reads inside the block: a list of lines."""
    said: list[str] = []
    token = _remarks.set(said)
    try:
        yield said
    finally:
        _remarks.reset(token)


def remark(line: str) -> None:
    """Add a line to the list of the innermost `remarks`, if there is one."""
    if (found := _remarks.get()) is not None:
        found.append(line)


@dataclasses.dataclass(frozen=True)
class Range:
    """The values that become 0 and 255; values outside are clipped. 8-bit pixels are never changed.

    Attributes:
      kind: "numbers": from `low` to `high`; "full": 0 to 65535, for floats 0 to 1; "image": each image's own smallest
        and largest value; "percentiles": each image's own percentiles `low` and `high`; "window": that in the header of
        each DICOM file, and "image" for files without one; "auto": not chosen yet. The ranges "image" and "percentiles"
        are computed per band.
    """

    kind: str = "auto"
    low: float = 0.0
    high: float = 0.0

    @classmethod
    def of(cls, text: "str | Range", flag: str = FLAG) -> "Range":
        """Read a setting: "auto", "full", "window", "image", "percentiles", "percentiles:1,99" or "0,4095".

        Args:
            flag: name of the setting, for the error message.

          Raises:
            UserError: for other texts, or two numbers of which the second is not larger.
        """
        if isinstance(text, cls):
            return text
        if not isinstance(text, str):
            kind = f"a {type(text).__name__}"
            raise UserError(f"{flag} is {kind}: give a text, such as 'full', 'image', 'percentiles' or '0,4095'")
        word, _, rest = text.partition(":")
        if word in KINDS and (word == "percentiles" or not rest):
            if word != "percentiles":
                return cls(word)
            low, high = _pair(rest, text, flag) if rest else PERCENTILES
            if not 0 <= low < high <= 100:
                raise UserError(f"{flag}={text}: percentiles lie in 0 to 100, the smaller first: percentiles:1,99")
            return cls(word, low, high)
        low, high = _pair(text, text, flag)
        if not low < high:
            raise UserError(f"{flag}={text}: give the value of black first and a larger one of white, as in 0,4095")
        return cls("numbers", low, high)

    def __str__(self) -> str:
        numbers = f"{self.low:.10g},{self.high:.10g}"
        return {"numbers": numbers, "percentiles": f"percentiles:{numbers}"}.get(self.kind, self.kind)

    @property
    def chosen(self) -> bool:
        """Whether the range is chosen, so that images can be read with it."""
        return self.kind != "auto"

    def levels(self, values: np.ndarray, window: tuple[float, float] | None = None) -> np.ndarray:
        """Convert values (H, W, C) of any numeric dtype to uint8 (H, W, C). Add remarks about clipped values and NaN.

        NaN becomes 0, as the lowest value does.

        Args:
          window: the values that the file itself names as black and white.

        Raises:
          BadImage: if all values are NaN, or no range is chosen.
        """
        if values.dtype == np.uint8:
            return values
        if values.dtype == bool:
            return values.astype(np.uint8) * 255
        if values.dtype.kind not in "iuf":
            raise BadImage(f"pixels of type {values.dtype}: store integers or floats")
        if not self.chosen:
            raise BadImage(
                f"{values.dtype} pixels, and the images looked at first had only 8 bits: set their range, {FLAG}=full, "
                "image, percentiles or two numbers"
            )
        if self.kind == "window" and window is None:
            remark("no window in its header: its own smallest and largest value are black and white")
        finite = _finite(values)
        how = self
        if self.kind == "window":
            how = Range("numbers", *window) if window else Range("image")
        bands = [how.band(values[..., i], finite[..., i]) for i in range(values.shape[-1])]
        clipped = sum(count for _, count in bands) if how is self else 0  # a window is meant to clip
        if clipped:
            remark(f"{percent(clipped / values.size)} outside {FLAG}={self}, clipped")
        return np.stack([levels for levels, _ in bands], axis=-1)

    def band(self, values: np.ndarray, finite: np.ndarray) -> tuple[np.ndarray, int]:
        """Return the levels of one band (H, W), and the number of values clipped by a fixed range."""
        low, high = self._ends(values, finite)
        filled = np.where(values == values, values, low).astype(np.float64)  # NaN differs from itself
        scaled = (filled - low) * (255 / max(high - low, 1e-300))
        levels = np.rint(scaled.clip(0, 255)).astype(np.uint8)
        fixed = self.kind in ("numbers", "full")
        return levels, int(((values < low) | (values > high)).sum()) if fixed else 0

    def _ends(self, values: np.ndarray, finite: np.ndarray) -> tuple[float, float]:
        if self.kind == "numbers":
            return self.low, self.high
        if self.kind == "full":
            return 0.0, 1.0 if values.dtype.kind == "f" else 65535.0
        inside = values[finite]
        if not inside.size:
            return 0.0, 1.0
        if self.kind == "image":
            return float(inside.min()), float(inside.max())
        low, high = np.percentile(inside, (self.low, self.high))
        return float(low), float(high)


def _finite(values: np.ndarray) -> np.ndarray:
    """Return bool, true where values are not NaN. Add a remark about NaN. Infinities count as out-of-range values."""
    if values.dtype.kind != "f":
        return np.ones(values.shape, bool)
    missing = np.isnan(values)
    if missing.all():
        raise BadImage("every pixel is NaN")
    if missing.any():
        remark(f"{percent(float(missing.mean()))} NaN, read as the lowest value")
    return np.isfinite(values)


def _pair(numbers: str, whole: str, flag: str) -> tuple[float, float]:
    try:
        low, high = (float(part) for part in numbers.split(","))
    except ValueError:
        raise UserError(
            f"{flag}={whole} is not known; give auto, full, window, image, percentiles, percentiles:1,99 or two "
            "numbers such as 0,4095"
        ) from None
    if not np.isfinite([low, high]).all():
        raise UserError(f"{flag}={whole}: both numbers must be finite")
    return low, high


def fitting(low: float, high: float, floats: bool, whole: bool, what: str, flag: str) -> tuple[Range, str]:
    """Choose the range for images with values from `low` to `high`.

    Args:
      floats: whether they are stored as floats. whole: whether all values are integers, even if stored as floats.
      what: name of the images; flag: name of the setting; both for the error message.

    Returns:
      The smallest range that holds the values, of 0 to 1 (for floats) and 8, 10, 12, 14 and 16 bits, and its name.

    Raises:
      UserError: if none of them holds the values.
    """
    if floats and low >= 0 and high <= 1:
        return Range("numbers", 0, 1), "0 to 1"
    for bits in BITS if whole else BITS[:1]:
        if low >= 0 and high <= 2**bits - 1:
            whole_range = bits == BITS[-1] and not floats
            return Range("full") if whole_range else Range("numbers", 0, 2**bits - 1), f"{bits}-bit"
    raise UserError(
        f"{what} hold values from {low:.6g} to {high:.6g}, which is not a bit depth: set the values of black and "
        f"white, {flag}={low:.6g},{high:.6g}, or take each image's own, percentiles or image"
    )


def unlike(dtypes: Sequence[str], flag: str) -> UserError:
    """Return the error for a mix of float and integer images, whose values have no common unit."""
    return UserError(
        f"there are images of {' and '.join(dtypes)}, which need different ranges: {flag}=percentiles or image takes "
        "each image's own"
    )
