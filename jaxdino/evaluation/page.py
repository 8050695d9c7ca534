"""The report as one HTML page, which holds all it shows, and the files of a report."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from convert.atomic import AtomicFiles
from jaxdino.core.json_file import finite
from jaxdino.core.page import render, shown
from jaxdino.evaluation.figure import plain
from jaxdino.evaluation.markdown import markdown
from jaxdino.evaluation.section import Section

SUFFIXES = (".json", ".md", ".html")
MISTAKES = "evaluation_mistakes.csv"
BESIDE = (MISTAKES,)
"""Files of sections; those of an earlier report are deleted."""


def write_report(
    folder: Path,
    title: str,
    about: Sequence[str],
    head: dict[str, Any],
    sections: Sequence[Section],
    name: str = "evaluation",
) -> list[Path]:
    """Write the report as JSON, Markdown and HTML, all or none; files of an earlier report are replaced.

    Args:
      head: what the JSON file says before the sections. name: of the three files, without their suffix.

    Raises:
      UserError: if the folder cannot be written.
    """
    values = head | {section.key: plain(section.values) for section in sections}
    page = render("evaluation.html", title=shown(title), about=list(map(shown, about)), sections=sections, shown=shown)
    texts = [json.dumps(finite(values), indent=2, default=str) + "\n", markdown(title, about, sections), page]
    named: dict[str, str] = dict(zip((name + end for end in SUFFIXES), texts, strict=True))
    for section in sections:
        named.update(section.files)
    retired = [folder / file for file in BESIDE if file not in named and name == "evaluation"]
    with AtomicFiles(folder, retired) as files:
        for file, text in named.items():
            with files.open(file) as stream:
                stream.write(text.encode("utf-8", "backslashreplace"))
    return [folder / file for file in named]
