"""The findings as one HTML file, with thumbnails: no scripts, and nothing from elsewhere."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from jaxdino.core.page import render
from jaxdino.core.page import shown as shown_text
from jaxdino.core.words import counted, few
from jaxdino.data.channels import Reading
from jaxdino.data.thumbnail import thumbnail
from jaxdino.inspect_data import exposure, table
from jaxdino.inspect_data.findings import CHECKS, Findings
from jaxdino.inspect_data.json_report import kinds, sizes

FIRST = 24  # groups shown of each check
MEMBERS = 8  # images shown of a group
CLASSES = 200  # rows of the table of classes
THREADS = 8


def page(found: Findings, title: str, reading: Reading, first: int = FIRST) -> str:
    """Return the page.

    Args:
      title: the data set's name. reading: how images are read, for the thumbnails.
      first: groups shown of each check; the others are counted.
    """
    shown = {name: groups[:first] for name, groups in found.found.items() if groups}
    rows = sorted({row for groups in shown.values() for group in groups for row in group[:MEMBERS]})
    with ThreadPoolExecutor(THREADS) as pool:
        pictures = pool.map(lambda row: thumbnail(found.images.records[row], reading), rows)
        thumbs = dict(zip(rows, pictures, strict=True))
    return render(
        "check_data.html",
        title=shown_text(title),
        sections=[_section(found, name, groups, thumbs) for name, groups in shown.items()],
        checks=_checks(found),
        which=bool(table.of_classes(found)),
        files=_files(found),
        **_about(found),
        **_classes(found),
    )


def _about(found: Findings) -> dict[str, Any]:
    source = found.images.source
    origins = {name: f" ({where})" for name, where in source.origins.items()}
    totals = ", ".join(f"{name} {len(split):,}{origins.get(name, '')}" for name, split in source.splits.items())
    return {
        "source": source.name,
        "totals": shown_text(totals),
        "ignored": shown_text(counted(source.ignored)),
        "notes": [shown_text(note) for note in source.notes],
    }


def _checks(found: Findings) -> list[dict[str, str]]:
    """Return the rows of the table of checks: those that found something first."""
    rows = [
        {"what": what, "found": table.amount(found.found[name]), "link": name, "which": ""}
        for name, what in CHECKS.items()
        if found.found[name]
    ]
    rows += [
        {"what": what, "found": count, "link": "", "which": shown_text(which)}
        for what, count, which in table.of_classes(found)
    ]
    return rows + [{"what": what, "found": "", "link": "", "which": ""} for what in table.clean(found)]


def _classes(found: Findings) -> dict[str, Any]:
    """Return the rows of the table of classes, with the share of the largest class."""
    splits = [split.name for split in found.images.splits]
    sums = {name: sum(counts.values()) for name, counts in found.images_of.items()}
    most = max(sums.values(), default=0) or 1
    rows = [
        {
            "name": shown_text(name),
            "numbers": table.numbers(found, name),
            "share": round(100 * sums[name] / most, 1),
        }
        for name in list(sums)[:CLASSES]
    ]
    columns = [*splits, *(f"{split} boxes" for split in splits if found.boxes_of)]
    return {"classes": rows, "columns": columns, "more_classes": max(0, len(sums) - CLASSES)}


def _files(found: Findings) -> list[tuple[str, str]]:
    rows = [("formats", few([f"{name} {count:,}" for name, count in kinds(found).items()], 12))]
    for name, marks in sizes(found).items():
        rows.append((name, f"{marks['min']:,.0f} to {marks['max']:,.0f}, median {marks['median']:,.0f}"))
    if found.statistics:
        rows.append(("mean and standard deviation", exposure.flags(found.statistics)))
    return rows + (found.calibration.rows() if found.calibration else [])


def _section(found: Findings, name: str, groups: list[list[int]], thumbs: Mapping[int, str]) -> dict[str, Any]:
    every = found.found[name]
    return {
        "link": name,
        "what": CHECKS[name],
        "found": table.amount(every),
        "groups": [
            {
                "images": [_image(found, name, row, thumbs[row]) for row in group[:MEMBERS]],
                "more": max(0, len(group) - MEMBERS),
            }
            for group in groups
        ],
        "more": len(every) - len(groups),
    }


def _image(found: Findings, name: str, row: int, picture: str) -> dict[str, str]:
    images, facts = found.images, found.facts.rows[row]
    size = f"{facts['width']} x {facts['height']}" if facts["width"] else ""
    about = ", ".join(one for one in (images.split_name(row), *images.classes_of(row)[:3], size) if one)
    reasons = found.reasons.get(name, {})
    values = {"dark": "brightness", "bright": "brightness", "low_contrast": "contrast"}
    why = f"{values[name]} {facts[values[name]]:.1f}" if name in values else reasons.get(row, "")
    texts = {"name": images.name(row), "about": about, "why": why}
    return {name: shown_text(text) for name, text in texts.items()} | {"picture": picture}
