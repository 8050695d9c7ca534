"""The findings as lines of text: counts, formats, sizes, and a line for each check."""

from collections.abc import Sequence
from typing import Any

from jaxdino.core.table import format_table
from jaxdino.core.words import few, printable
from jaxdino.inspect_data import exposure
from jaxdino.inspect_data.findings import CHECKS, Findings
from jaxdino.inspect_data.json_report import kinds, sizes

CLASSES = 40  # rows of the table of classes
EXAMPLES = 2  # groups named in a line
MEMBERS = 3  # images named of a group
FORMATS = 6  # kinds of images named in a line
WIDE = 40  # characters of a class's name
IDENTICAL = ("duplicates", "label_conflicts", "exact_leaks")  # checks whose groups are of identical files


def table(found: Findings) -> str:
    """Return the lines of a report."""
    lines = [*_classes(found), *_pixels(found), "", *checks(found)]
    return "\n".join(printable(line) for line in lines)


def checks(found: Findings) -> list[str]:
    """Return a line for each check that found something, with its first images, and one for the others."""
    rows = [["check", "found", "first"]]
    for name, what in CHECKS.items():
        if groups := found.found[name]:
            rows.append([what, amount(groups), _first(found, name)])
    rows += [[what, count, which] for what, count, which in of_classes(found)]
    wide = max(len(count) for _, count, _ in rows)
    cells = [[what, count.rjust(wide), which] for what, count, which in rows]
    lines = [format_table(cells, left=3, rule=False)] if len(rows) > 1 else []
    return [*lines, f"found none: {', '.join(clean(found))}"] if clean(found) else lines


def clean(found: Findings) -> list[str]:
    """Return the checks that were made and found nothing."""
    return [what for name, what in CHECKS.items() if not found.found[name] and _applies(found, name)]


def of_classes(found: Findings) -> list[tuple[str, str, str]]:
    """Return (check, how many, which) for the checks of classes that found something."""
    limits, rows = found.limits, []
    if found.small_classes:
        which = few([f"{name} ({size})" for name, size in found.small_classes.items()], 4)
        rows.append(
            (f"classes of under {limits.min_samples_per_class} training images", str(len(found.small_classes)), which)
        )
    if found.imbalance > limits.max_class_imbalance:
        limit = f"the limit is {limits.max_class_imbalance:g} times"
        rows.append(("imbalance of the classes", f"{found.imbalance:.3g} x", limit))
    if found.one_split_classes:
        which = few([f"{name} ({split})" for name, split in found.one_split_classes.items()], 4)
        rows.append(("classes in one split alone", str(len(found.one_split_classes)), which))
    return rows


def _applies(found: Findings, name: str) -> bool:
    """Return whether a check was made at all."""
    several = len(found.images.splits) > 1
    made = {
        "bad_boxes": found.images.boxes is not None,
        "bad_masks": found.images.masks is not None,
        "label_conflicts": found.images.whole_labels,
        "leaks": several,
        "exact_leaks": False,
        "suspects": found.searched_labels,
        "truncated": False,
        "remarks": False,
    }
    return made.get(name, True)


def amount(groups: Sequence[Sequence[int]]) -> str:
    """Return the number of groups, and that of their images if they have several."""
    count, members = len(groups), sum(map(len, groups))
    return f"{count:,}" if members == count else f"{count:,} ({members:,} images)"


def _first(found: Findings, name: str) -> str:
    groups, reasons = found.found[name], found.reasons.get(name, {})
    shown = []
    for group in groups[:EXAMPLES]:
        names = [found.images.name(row) for row in group]
        text = few(names, MEMBERS).replace(", ", " = " if name in IDENTICAL else " ~ ")
        shown.append(f"{text} ({reasons[group[0]]})" if group[0] in reasons else text)
    more = len(groups) - len(shown)
    return "; ".join(shown) + (f"; and {more:,} more" if more else "")


def _classes(found: Findings) -> list[str]:
    splits = [split.name for split in found.images.splits]
    images = found.images_of
    if not images:
        return []
    boxes = found.boxes_of
    columns = [*splits, *(f"{split} boxes" for split in splits if boxes)]
    rows = [["class", *columns]]
    for name in list(images)[:CLASSES]:
        short = name if len(name) <= WIDE else f"{name[: WIDE - 3]}..."
        rows.append([short, *numbers(found, name)])
    more = len(images) - CLASSES
    return [format_table(rows, rule=False), *([f"and {more:,} more classes"] if more > 0 else []), ""]


def numbers(found: Findings, name: str) -> list[str]:
    """Return the numbers of images, then of boxes, of a class in each split."""
    return [f"{count:,}" for counts in (found.images_of, found.boxes_of) for count in counts.get(name, {}).values()]


def _pixels(found: Findings) -> list[str]:
    lines = [f"formats: {few([f'{name} {count:,}' for name, count in kinds(found).items()], FORMATS)}"]
    for name, marks in sizes(found).items():
        lines.append(f"{name}: {_number(marks['min'])} to {_number(marks['max'])}, median {_number(marks['median'])}")
    if found.statistics:
        which = f"{found.statistics['images']:,} images of {found.statistics['split']}"
        lines.append(f"mean and standard deviation of {which}: {exposure.flags(found.statistics)}")
    return lines + [f"{name}: {text}" for name, text in (found.calibration.rows() if found.calibration else [])]


def _number(value: Any) -> str:
    return f"{value:,.0f}"
