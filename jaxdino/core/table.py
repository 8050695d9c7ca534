"""Format rows of text as aligned columns."""

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
