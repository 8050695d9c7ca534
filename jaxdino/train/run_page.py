"""report.html: a run as one page, with its results, curves, stages, confusions and worst mistakes."""

import csv
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxdino.core.page import picture, render, shown
from jaxdino.data.channels import Reading
from jaxdino.data.thumbnail import thumbnail
from jaxdino.train import data
from jaxdino.train.slicing import plan_lines
from jaxdino.train.task import Worst

if TYPE_CHECKING:
    from jaxdino.train.session import Session

FILE = "report.html"
WORST = 24
"""Mistakes shown."""
CLASSES = 40
"""Most classes of a confusion matrix that is shown."""
CURVES = ("loss", "val_", "knn", "learning_rates", "", "speed", "memory")
"""How the names of curves begin, in the order in which they are shown; "" is all others."""
PICTURES = {
    "segmentation": "Images, masks and predictions",
    "attention": "Attention of the class token",
    "patches": "Patch features: the first principal components",
    "augmentations": "Training images after augmentation",
}
"""Files that show images, not curves -> their titles; in this order."""
CONFUSED = 12
"""Pairs of classes listed as confused."""


def write_page(session: "Session", summary: dict[str, Any]) -> None:
    """Write report.html into the run's folder, from its files and the task's worst mistakes."""
    folder, task = session.folder.folder, session.setup.task
    how = task.card.spec
    rows = summary.get("table", [])
    lines = summary.get("result", [])[len(rows) + bool(rows) :]  # the printed table has a line below its headings
    cfg = dataclasses.replace(data.config_of(session.setup.config), sixteen_bit=how.preprocess.sixteen_bit)
    text = render(
        "run.html",
        title=shown(folder.name),
        about=shown(f"{summary['model']}, {task.source.name}, {_sizes(session)}"),
        state="finished" if summary.get("finished") else "not finished",
        rows=rows,
        lines=lines,
        **drawn(folder),
        plans=[plan_lines(part) for part in session.setup.parts],
        settings=_settings(session),
        worst=mistakes_shown(task.worst, cfg.reading(how.config.in_channels)),
        **confusions(folder / "confusion.csv"),
    )
    beside = folder / f"{FILE}.part"
    beside.write_text(text)
    beside.replace(folder / FILE)


def drawn(folder: Path) -> dict[str, list[tuple[str, str]]]:
    """Return the curves of a run and its pictures of images, each (name, image); curves in the order of `CURVES`."""
    files = sorted(folder.glob("*.png"), key=lambda file: (_place(file.stem), file.name))
    shown = {file.stem: (PICTURES.get(file.stem, file.stem.replace("_", " ")), picture(file)) for file in files}
    curves = [one for name, one in shown.items() if name not in PICTURES]
    return {"plots": curves, "pictures": [shown[name] for name in PICTURES if name in shown]}


def _place(name: str) -> int:
    return next((place for place, start in enumerate(CURVES) if start and name.startswith(start)), CURVES.index(""))


def _sizes(session: "Session") -> str:
    return ", ".join(f"{name} {len(split):,}" for name, split in session.setup.task.source.splits.items())


def _settings(session: "Session") -> list[tuple[str, ...]]:
    """Return a row for each stage: its length, batch, image size and augmentation."""
    return [
        (
            part.stage.name,
            f"{part.max_epochs} epochs, {part.total_steps:,} steps",
            f"{part.stage.batch_size}",
            part.sizes.words(),
            part.stage.augment,
        )
        for part in session.setup.parts
    ]


def mistakes_shown(worst: Sequence[Worst], reading: Reading) -> list[dict[str, str]]:
    """Return what the page shows of each mistake."""
    return [
        {
            "name": shown(one.image),
            "about": shown(f"{one.label}, not {one.predicted} ({one.probability:.0%})"),
            "picture": thumbnail(one.record, reading),
        }
        for one in worst
    ]


def confusions(file: Path) -> dict[str, Any]:
    """Return the confusion matrix of confusion.csv and the pairs that are confused most; empty without the file.

    Each cell is (count, share of its row), the row being the true class.
    """
    if not file.exists():
        return {"classes": [], "matrix": [], "confused": []}
    with file.open(newline="") as stream:
        (_, *names), *rows = csv.reader(stream)
    counts = [[int(count) for count in row[1:]] for row in rows]
    pairs = [
        (counts[true][other], shown(names[true]), shown(names[other]), sum(counts[true]))
        for true in range(len(names))
        for other in range(len(names))
        if true != other and counts[true][other]
    ]
    whole = len(names) <= CLASSES
    shares = [[(count, count / max(sum(row), 1)) for count in row] for row in counts]
    return {
        "classes": [shown(name) for name in names] if whole else [],
        "matrix": list(zip(map(shown, names), shares, strict=True)) if whole else [],
        "confused": sorted(pairs, reverse=True)[:CONFUSED],
    }
