"""Words that messages share, and what of foreign text they show."""

import re
import unicodedata
from collections.abc import Mapping, Sequence


def few(items: Sequence[object], most: int, kind: str = "") -> str:
    """Join the first `most` items and count the others: "a, b and 3 more", or with a `kind`, "and 3 more classes"."""
    rest = len(items) - most
    return ", ".join(map(str, items[:most])) + (f" and {rest} more {kind}".rstrip() if rest > 0 else "")


def counted(found: Mapping[str, int]) -> str:
    """List the counts above 0: "3 hidden, 1 not an image (.txt)"; "" if there are none."""
    return ", ".join(f"{count} {what}" for what, count in found.items() if count > 0)


def percent(share: float) -> str:
    """Return a share with two digits, such as "0.012%", "12%" and "100%"."""
    return f"{100 * share:.2g}%" if share < 0.1 else f"{100 * share:.0f}%"


QUOTE, LINE, MESSAGE = 200, 2000, 12_000
"""Largest number of characters of a quoted text, of a line of a message, and of a message."""
QUOTED = re.compile(r"""(?<!\w)(['"])((?:\\.|(?!\1)[^\\\n])+)\1(?!\w)""")
UNSEEN = {"Cc", "Cs", "Zl", "Zp"}
DIRECTIONS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def printable(text: str, keep: str = "\n") -> str:
    """Escape characters that a terminal obeys instead of showing: controls, invalid Unicode, changes of direction.

    Args:
      keep: control characters that stay.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(one if one in keep or not _commands(one) else ascii(one)[1:-1] for one in text)


def unpaired(one: str) -> bool:
    """Return whether a character is half of a surrogate pair, as Python reads file names that are not valid UTF-8."""
    return "\ud800" <= one <= "\udfff"


def _commands(one: str) -> bool:
    return unicodedata.category(one) in UNSEEN or one in DIRECTIONS


def bounded(text: str) -> str:
    """Make a message that may quote foreign text `printable`, and cut out the middle of what is too long."""
    lines = "\n".join(_cut(QUOTED.sub(_quoted, line), LINE) for line in printable(text).split("\n"))
    return _cut(lines, MESSAGE)


def _quoted(found: re.Match[str]) -> str:
    mark, inside = found.groups()
    return f"{mark}{_cut(inside, QUOTE)}{mark}"


def _cut(text: str, most: int) -> str:
    rest = len(text) - most
    return text if rest <= 0 else f"{text[: most // 2]}...({rest} more characters)...{text[-most // 2 :]}"
