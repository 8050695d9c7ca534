"""The findings as one HTML file, with thumbnails: no scripts, and nothing from elsewhere."""

import base64
import io
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from typing import Any

import numpy as np
from PIL import Image

from jaxdino.core.words import counted, few, printable
from jaxdino.data.bands import pixels
from jaxdino.data.channels import Reading
from jaxdino.data.checks import open_image
from jaxdino.inspect_data import exposure, table
from jaxdino.inspect_data.findings import CHECKS, Findings
from jaxdino.inspect_data.json_report import kinds, sizes

SIDE = 112  # of a thumbnail, pixels
FIRST = 24  # groups shown of each check
MEMBERS = 8  # images shown of a group
CLASSES = 200  # rows of the table of classes
LONG = 300  # characters of a name or a reason
THREADS = 8


def page(found: Findings, title: str, reading: Reading, first: int = FIRST) -> str:
    """Return the page.

    Args:
      title: the data set's name. reading: how images are read, for the thumbnails.
      first: groups shown of each check; the others are counted.
    """
    from jinja2 import Environment, StrictUndefined

    shown = {name: groups[:first] for name, groups in found.found.items() if groups}
    rows = sorted({row for groups in shown.values() for group in groups for row in group[:MEMBERS]})
    with ThreadPoolExecutor(THREADS) as pool:
        pictures = pool.map(lambda row: thumbnail(found.images.records[row], reading), rows)
        thumbs = dict(zip(rows, pictures, strict=True))
    text = (files("jaxdino") / "assets/check_data/page.html").read_text()
    template = Environment(autoescape=True, undefined=StrictUndefined).from_string(text)
    return template.render(
        title=_text(title),
        side=SIDE,
        sections=[_section(found, name, groups, thumbs) for name, groups in shown.items()],
        checks=_checks(found),
        which=bool(table.of_classes(found)),
        files=_files(found),
        **_about(found),
        **_classes(found),
    )


def thumbnail(record: Any, reading: Reading) -> str:
    """Return an image as a JPEG of at most `SIDE` pixels in a data URI; "" if it cannot be read."""

    def scale(full: tuple[int, int]) -> int:
        return next((factor for factor in (8, 4, 2) if min(full) >= factor * SIDE), 1)

    try:
        picture = open_image(record, reading, scale)
        levels = pixels(picture)
        image = Image.fromarray(levels[..., 0] if levels.shape[-1] < 3 else np.ascontiguousarray(levels[..., :3]))
        image.thumbnail((SIDE, SIDE))
        file = io.BytesIO()
        image.save(file, "JPEG", quality=80)
    except Exception:  # the page names why an image cannot be read
        return ""
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


def _text(text: str) -> str:
    """Return a text without characters that change how it is shown, and not too long."""
    text = printable(text, keep="")
    return text if len(text) <= LONG else f"{text[: LONG // 2]}...{text[-LONG // 2 :]}"


def _about(found: Findings) -> dict[str, Any]:
    source = found.images.source
    origins = {name: f" ({where})" for name, where in source.origins.items()}
    totals = ", ".join(f"{name} {len(split):,}{origins.get(name, '')}" for name, split in source.splits.items())
    return {
        "source": source.name,
        "totals": _text(totals),
        "ignored": _text(counted(source.ignored)),
        "notes": [_text(note) for note in source.notes],
    }


def _checks(found: Findings) -> list[dict[str, str]]:
    """Return the rows of the table of checks: those that found something first."""
    rows = [
        {"what": what, "found": table.amount(found.found[name]), "link": name, "which": ""}
        for name, what in CHECKS.items()
        if found.found[name]
    ]
    rows += [
        {"what": what, "found": count, "link": "", "which": _text(which)}
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
            "name": _text(name),
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
    return rows


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
    return {"name": _text(images.name(row)), "about": _text(about), "why": _text(why), "picture": picture}
