"""Black and white of images that are read in strips: the same for all strips, so found in a pass of its own."""

import dataclasses
from collections.abc import Callable, Iterable

import numpy as np

from jaxdino.core.words import percent
from jaxdino.data.bad_images import BadImage
from jaxdino.data.kinds import RGB, Kind
from jaxdino.data.ranges import FLAG, Range

COUNTED = 16  # bits of values that are counted one by one for percentiles


@dataclasses.dataclass
class Ends:
    """The values of black and white of each band; stands for a `Range` where strips are converted.

    Attributes:
      ends: (low, high) of each band but alpha; () for 8-bit values, which stay. asked: the range that they are of.
      upper: the upper 8 of 16 bits are taken, as Pillow does of 16-bit colours.
      values, clipped, missing: how many values were converted, were outside of a fixed range, and were NaN.
    """

    ends: tuple[tuple[float, float], ...]
    asked: Range
    upper: bool = False
    values: int = 0
    clipped: int = 0
    missing: int = 0

    @classmethod
    def of(
        cls, kind: Kind, asked: Range, blocks: Callable[[], Iterable[np.ndarray]], by_pillow: bool = False
    ) -> "Ends":
        """Return the ends of a file's values; `blocks` yields them, (rows, W, C).

        Args:
          by_pillow: whether it is a TIFF whose 16-bit colours Pillow reads when it is held whole.

        Raises:
          BadImage: if no range is chosen, or it is of percentiles and the values are no 16-bit integers.
        """
        bands, dtype = kind.bands - kind.alpha, np.dtype(kind.dtype)
        if not kind.deep:
            return cls((), asked)
        if not asked.chosen:
            asked.levels(np.zeros((1, 1, bands), dtype))  # raises, as for other images
        if asked.kind == "numbers":
            return cls(((asked.low, asked.high),) * bands, asked)
        if asked.kind == "full":
            upper = by_pillow and kind.dtype == "uint16" and bands == RGB
            return cls(((0.0, 1.0 if dtype.kind == "f" else 65535.0),) * bands, asked, upper)
        if asked.kind == "percentiles":
            if dtype.kind == "f" or 8 * dtype.itemsize > COUNTED:
                raise BadImage(f"percentiles of {dtype} pixels need the whole image: give {FLAG} two numbers or image")
            return cls(_percentiles(blocks(), bands, dtype, (asked.low, asked.high)), asked)
        return cls(_extremes(blocks(), bands), asked)

    def shortened(self, values: np.ndarray) -> np.ndarray:
        """Return the values (rows, W, C), alpha too, in the upper 8 bits if these are taken; else unchanged."""
        return (values >> 8).astype(np.uint8) if self.upper else values

    def levels(self, values: np.ndarray, window: tuple[float, float] | None = None) -> np.ndarray:
        """Convert values (rows, W, C) to uint8, as `Range.levels`; strips may be NaN throughout."""
        if values.dtype == np.uint8:
            return values
        if values.dtype == bool:
            return values.astype(np.uint8) * 255
        found = [self._band(values[..., place], *ends) for place, ends in enumerate(self.ends)]
        return np.stack(found, axis=-1)

    def _band(self, values: np.ndarray, low: float, high: float) -> np.ndarray:
        levels, clipped = Range("numbers", low, high).band(values, np.isfinite(values))
        self.values += values.size
        self.clipped += clipped * (self.asked.kind in ("numbers", "full"))
        self.missing += int(np.isnan(values).sum()) if values.dtype.kind == "f" else 0
        return levels

    def notes(self) -> list[str]:
        """Return what was changed, as lines."""
        lines = []
        if self.missing:
            lines.append(f"{percent(self.missing / self.values)} NaN, read as the lowest value")
        if self.clipped:
            lines.append(f"{percent(self.clipped / self.values)} outside {FLAG}={self.asked}, clipped")
        return lines


def _extremes(blocks: Iterable[np.ndarray], bands: int) -> tuple[tuple[float, float], ...]:
    low, high = np.full(bands, np.inf), np.full(bands, -np.inf)
    for values in blocks:
        for band in range(bands):
            part = values[..., band]
            part = part[np.isfinite(part)]
            if part.size:
                low[band], high[band] = min(low[band], float(part.min())), max(high[band], float(part.max()))
    return tuple((float(a), float(b)) if a <= b else (0.0, 1.0) for a, b in zip(low, high, strict=True))


def _percentiles(
    blocks: Iterable[np.ndarray], bands: int, dtype: np.dtype, shares: tuple[float, float]
) -> tuple[tuple[float, float], ...]:
    """Return the percentiles of each band that `np.percentile` gives, from counts of the values."""
    least = int(np.iinfo(dtype).min)
    counts = np.zeros((bands, 2 ** (8 * dtype.itemsize)), np.int64)
    for values in blocks:
        for band in range(bands):
            counts[band] += np.bincount(values[..., band].ravel().astype(np.int64) - least, minlength=counts.shape[1])
    found = []
    for one in counts:
        above = np.cumsum(one)
        places = [(int(above[-1]) - 1) * (share / 100) for share in shares]
        found.append(tuple(_value(above, place) + least for place in places))
    return tuple(found)


def _value(above: np.ndarray, place: float) -> float:
    """Return the value at a place, maybe between two, of sorted values of which `above` counts those up to each."""
    before = int(np.floor(place))
    low, high = (int(np.searchsorted(above, at, side="right")) for at in (before, min(before + 1, int(above[-1]) - 1)))
    share = place - before
    return high - (high - low) * (1 - share) if share >= 0.5 else low + (high - low) * share
