"""Words that messages share."""

from collections.abc import Mapping, Sequence


def few(items: Sequence[object], most: int, kind: str = "") -> str:
    """Join the first `most` items and count the others: "a, b and 3 more", or with a `kind`, "and 3 more classes"."""
    rest = len(items) - most
    return ", ".join(map(str, items[:most])) + (f" and {rest} more {kind}".rstrip() if rest > 0 else "")


def counted(found: Mapping[str, int]) -> str:
    """List the counts above 0: "3 hidden, 1 not an image (.txt)"; "" if there are none."""
    return ", ".join(f"{count} {what}" for what, count in found.items() if count > 0)
