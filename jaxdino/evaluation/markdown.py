"""The report as Markdown: the tables, the notes and the names of images; pictures are on the page alone."""

import re
from collections.abc import Sequence

from jaxdino.evaluation.section import Block, Gallery, Matrix, Notes, Section, Table


def markdown(title: str, about: Sequence[str], sections: Sequence[Section]) -> str:
    """Return the report as the text of a Markdown file."""
    parts = [f"# {_safe(title)}", *(_safe(line) for line in about)]
    for section in sections:
        parts.append(f"## {_safe(section.title)}")
        parts += [text for block in section.blocks if (text := _block(block))]
    return "\n\n".join(parts) + "\n"


def _block(block: Block) -> str:
    if isinstance(block, Notes):
        return "\n".join(f"- {_safe(line)}" for line in block.lines)
    if isinstance(block, Matrix):
        rows = [[name, *map(str, row)] for name, row in zip(block.names, block.counts, strict=True)]
        return _titled(block.title, block.note, _table(["", *block.names], rows, 1))
    if isinstance(block, Table):
        return _titled(block.title, block.note, _table(block.columns, block.rows, block.left))
    if isinstance(block, Gallery):
        rows = [[one["name"], one["about"]] for group in block.images for one in (group, *group.get("more", ()))]
        return _titled(block.title, block.note, _table(["image", ""], [row for row in rows if row[0]], 2))
    return ""


def _titled(title: str, note: str, table: str) -> str:
    return "\n\n".join(part for part in (f"### {_safe(title)}" if title else "", table, _safe(note)) if part)


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> str:
    rule = ["---" if place < left else "---:" for place in range(len(columns))]
    lines = [[_safe(cell) for cell in columns], rule, *([_safe(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _safe(text: str) -> str:
    """Return a text without what Markdown would take for marks: names of classes and files can hold anything."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", str(text).replace("\n", " "))
