"""What a part of an evaluation gives: values for the JSON file, and blocks that the page and the Markdown file show."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows of text below headings. The first `left` columns are aligned to the left."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""
    note: str = ""
    left: int = 1
    kind: ClassVar[str] = "table"


@dataclasses.dataclass(frozen=True)
class Matrix:
    """A confusion matrix: for each true class its counts and their shares of the row."""

    names: Sequence[str]
    counts: Sequence[Sequence[int]]
    title: str = "Confusion matrix"
    note: str = "true classes in rows, predicted classes in columns"
    kind: ClassVar[str] = "matrix"

    def rows(self) -> list[tuple[str, list[tuple[int, float]]]]:
        """Return (true class, [(count, share of the row)]) of each row."""
        shares = [[(count, count / max(sum(row), 1)) for count in row] for row in self.counts]
        return list(zip(self.names, shares, strict=True))


@dataclasses.dataclass(frozen=True)
class Plots:
    """Drawings: (what it shows, the image as a data URI) each."""

    images: Sequence[tuple[str, str]]
    title: str = ""
    note: str = ""
    kind: ClassVar[str] = "plots"


@dataclasses.dataclass(frozen=True)
class Gallery:
    """Images of the data: dicts of "picture" (a data URI, "" if there is none), "about" and "name".

    "more", if an image has it, are such dicts that are shown beside it.
    """

    images: Sequence[dict[str, Any]]
    title: str = ""
    note: str = ""
    kind: ClassVar[str] = "gallery"


@dataclasses.dataclass(frozen=True)
class Notes:
    """Lines of text."""

    lines: Sequence[str]
    kind: ClassVar[str] = "notes"


Block = Table | Matrix | Plots | Gallery | Notes


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of the report.

    Attributes:
      key: its name in the JSON file. values: what the JSON file holds; figures are converted.
      files: {name: text} of what is written beside the report; names in `page.BESIDE`.
    """

    key: str
    title: str
    values: Any
    blocks: Sequence[Block]
    files: Mapping[str, str] = dataclasses.field(default_factory=dict)
