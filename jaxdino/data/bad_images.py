"""Images that cannot be read: the reason for one, and the list of those of a split."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from jaxdino.core.errors import UserError

if TYPE_CHECKING:
    from jaxdino.data.sources import Split


class BadImage(Exception):
    """A record that gives no image; the message is the reason."""


MANY = 0.1  # a larger share of unreadable images is worth a warning


def check_read(bad: BadImages, unread: int, images: int, warn: Callable[[str], None]) -> None:
    """Warns when many of the images of a pass could not be read.

    Args:
      bad: names them. unread: how many of the `images` gave none. warn: takes one line.

    Raises:
      UserError: if none at all could be read.
    """
    if unread and unread >= images:
        raise UserError(f"no image of {bad.split.name} could be read: {bad.report()}. Mend or remove these files")
    if unread > MANY * images:
        warn(f"WARNING: {unread} of {images} images could not be read in this pass. {bad.report()}")


class BadImages:
    """The records of one split that gave no image: named, counted, skipped or fatal; and remarks about others.

    Args:
      split: where the records come from, for their names.
      on_bad: "skip" remembers them, "stop" raises UserError at the first.
    """

    def __init__(self, split: Split, on_bad: str = "skip"):
        self.split = split
        self.on_bad = on_bad
        self.reasons: dict[int, str] = {}
        self.remarks: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self.reasons)

    def add(self, index: int, reason: str) -> bool:
        """Notes a record; True the first time. Raises UserError under "stop"."""
        if self.on_bad == "stop":
            raise UserError(
                f'bad image {self.split.record_name(index)}: {reason}. Mend or remove it, or set on_bad to "skip"'
            )
        new = index not in self.reasons
        self.reasons.setdefault(index, reason)
        return new

    def remark(self, index: int, line: str) -> None:
        """Note what is to be said of a record that was read."""
        self.remarks.setdefault(index, line)

    def report(self, first: int = 5) -> str:
        """One line with the count and the first names and reasons; "" when all is well."""
        if not self.reasons:
            return ""
        return f"{len(self)} bad image(s) skipped in {self.split.name}: {self._listed(self.reasons, first)}"

    def remarked(self, first: int = 3) -> str:
        """One line with the count of images that were read with a remark, and the first of them; "" if none was."""
        if not self.remarks:
            return ""
        found = self._listed(self.remarks, first)
        return f"{len(self.remarks)} image(s) of {self.split.name} are not read as they are: {found}"

    def _listed(self, lines: dict[int, str], first: int) -> str:
        shown = [f"{self.split.record_name(i)} ({lines[i]})" for i in sorted(lines)[:first]]
        return ", ".join(shown) + (f" and {len(lines) - first} more" if len(lines) > first else "")
