"""Format rows of text as aligned columns, and read such a table again."""

import re
from collections.abc import Sequence


def format_table(rows: Sequence[Sequence[str]], left: int = 1, rule: bool = True) -> str:
    """Align the columns of `rows`, the first of which are the headings.

    Args:
      left: number of first columns that are aligned to the left; the others are aligned to the right.
      rule: draw a line below the headings.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [rows[0], *([["-" * width for width in widths]] if rule else []), *rows[1:]]
    return "\n".join(
        "  ".join(
            text.ljust(width) if column < left else text.rjust(width)
            for column, (text, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def read_table(lines: Sequence[str]) -> tuple[list[list[str]], list[str]]:
    """Return the rows of cells of a table that begins `lines`, the headings first, and the lines after it.

    A table has a line below its headings, as from `format_table`; without one there are no rows.
    """
    if len(lines) < 2 or not re.fullmatch(r"-+(  -+)*", lines[1]):
        return [], list(lines)
    spans = [found.span() for found in re.finditer("-+", lines[1])]
    gap = slice(spans[0][1], spans[0][1] + 2)  # two spaces in every row, which no sentence has
    end = next((place for place, line in enumerate(lines) if place != 1 and line[gap].strip()), len(lines))
    rows = [[line[start:stop].strip() for start, stop in spans] for line in (lines[0], *lines[2:end])]
    return rows, list(lines[end:])
