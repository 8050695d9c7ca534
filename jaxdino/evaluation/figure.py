"""A measured number, with its interval and the number of images behind it; or why it cannot be computed."""

import dataclasses
import math
from typing import Any


@dataclasses.dataclass(frozen=True)
class Figure:
    """A number of a report.

    Attributes:
      value: None if it cannot be computed; then `why` says the reason.
      n: the number of images (or decisions, or runs) that it is computed from.
      low, high: the interval, None without one; `method` says how it was computed, or why there is none.
    """

    value: float | None
    n: int
    low: float | None = None
    high: float | None = None
    method: str = ""
    why: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the figure as values that JSON can hold; `why` only without a value."""
        found: dict[str, Any] = {"value": self.value, "n": self.n}
        if self.value is None:
            return found | {"why": self.why}
        return found | {"low": self.low, "high": self.high, "interval": self.method}

    @property
    def kind(self) -> str:
        """How the interval was computed, in a word or two."""
        return self.method.split(",")[0].replace("percentile ", "")

    def text(self, form: str = ".3f") -> str:
        """Return the figure as a cell of a table: "0.978 (0.957 to 0.989)", "0.978", or "-"."""
        if self.value is None:
            return "-"
        interval = "" if self.low is None or self.high is None else f" ({self.low:{form}} to {self.high:{form}})"
        return f"{self.value:{form}}{interval}"


def figure(
    value: Any, n: int, interval: tuple[float, float] | None = None, method: str = "", why: str = "not defined"
) -> Figure:
    """Return the figure of a value; None, nan and infinity are "not computed", for the reason `why`."""
    number = None if value is None else float(value)
    if number is None or not math.isfinite(number):
        return Figure(None, int(n), why=why)
    if interval is None or not all(map(math.isfinite, interval)):
        return Figure(number, int(n), method=method or "no interval")
    return Figure(number, int(n), float(interval[0]), float(interval[1]), method)


def plain(value: Any) -> Any:
    """Return nested dicts and lists with each figure as JSON values."""
    if isinstance(value, Figure):
        return value.to_json()
    if isinstance(value, dict):
        return {str(key): plain(one) for key, one in value.items()}
    return [plain(one) for one in value] if isinstance(value, list | tuple) else value
