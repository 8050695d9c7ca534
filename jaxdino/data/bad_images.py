"""Record images that cannot be read: the reason for each one, and the list for a split."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from jaxdino.core.errors import UserError
from jaxdino.core.words import bounded

if TYPE_CHECKING:
    from jaxdino.data.record import Split


class BadImage(Exception):
    """A record that cannot be read as an image; the message is the reason, without control characters."""

    def __init__(self, why: object = ""):
        super().__init__(bounded(str(why)))


MANY = 0.1  # warn if a larger share of the images is unreadable


def check_read(bad: BadImages, unread: int, images: int, warn: Callable[[str], None]) -> None:
    """Warn when many of the images of a pass could not be read.

    Args:
      bad: the unreadable images. unread: how many of the `images` could not be read. warn: called with one line.

    Raises:
      UserError: if no image could be read.
    """
    if unread and unread >= images:
        raise UserError(f"no image of {bad.split.name} could be read: {bad.report()}. Fix or remove these files")
    if unread > MANY * images:
        warn(f"WARNING: {unread} of {images} images could not be read in this pass. {bad.report()}")


class BadImages:
    """The unreadable records of one split, with their reasons, and remarks about records that were read.

    Args:
      split: the split of the records; gives their names.
      on_bad: "skip" records them, "stop" raises UserError at the first one.
    """

    def __init__(self, split: Split, on_bad: str = "skip"):
        self.split = split
        self.on_bad = on_bad
        self.reasons: dict[int, str] = {}
        self.remarks: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self.reasons)

    def add(self, index: int, reason: str) -> bool:
        """Record a bad image. Return True the first time. Raise UserError if `on_bad` is "stop"."""
        if self.on_bad == "stop":
            raise UserError(
                f'bad image {self.split.record_name(index)}: {reason}. Fix or remove it, or set on_bad to "skip"'
            )
        new = index not in self.reasons
        self.reasons.setdefault(index, reason)
        return new

    def remark(self, index: int, line: str) -> None:
        """Record a remark about a record that was read."""
        self.remarks.setdefault(index, line)

    def report(self, first: int = 5) -> str:
        """Return one line with the count and the first names and reasons, or "" if there are none."""
        if not self.reasons:
            return ""
        return f"{len(self)} bad image(s) skipped in {self.split.name}: {self._listed(self.reasons, first)}"

    def remarked(self, first: int = 3) -> str:
        """Return one line with the count and the first images that have remarks, or "" if there are none."""
        if not self.remarks:
            return ""
        found = self._listed(self.remarks, first)
        return f"{len(self.remarks)} image(s) of {self.split.name} are not read as they are: {found}"

    def _listed(self, lines: dict[int, str], first: int) -> str:
        shown = [f"{self.split.record_name(i)} ({lines[i]})" for i in sorted(lines)[:first]]
        return ", ".join(shown) + (f" and {len(lines) - first} more" if len(lines) > first else "")
