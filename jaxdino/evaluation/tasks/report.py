"""The report of a run whose answers are masks, depths, boxes or objects: figures, classes, the worst images."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from jaxdino.core.bars import bar
from jaxdino.core.errors import UserError
from jaxdino.data.bad_images import BadImage
from jaxdino.data.record import Split
from jaxdino.evaluation.figure import Figure, figure
from jaxdino.evaluation.finished_run import FinishedRun
from jaxdino.evaluation.intervals import Resampling, bootstrap, of_bootstrap
from jaxdino.evaluation.section import Block, Gallery, Notes, Section, Table
from jaxdino.evaluation.tasks.depth import DepthKind
from jaxdino.evaluation.tasks.detection import DetectionKind
from jaxdino.evaluation.tasks.instances import InstancesKind
from jaxdino.evaluation.tasks.kind import Kind, shown, small
from jaxdino.evaluation.tasks.semantic import SemanticKind

KINDS: dict[str, type[Kind]] = {
    "semantic": SemanticKind,
    "depth": DepthKind,
    "detect": DetectionKind,
    "instances": InstancesKind,
}
PARTS = ("metrics", "errors")
FEW = 10
"""Images; of fewer, the bootstrap says little."""


@dataclasses.dataclass(frozen=True)
class Reported:
    """Sections, and how many images they are of."""

    sections: list[Section]
    images: int
    unread: int


def reported(
    run: FinishedRun,
    split: Split,
    parts: list[str],
    how: Resampling,
    *,
    batch_size: int,
    most_errors: int,
    flip: bool,
    say: Callable[[str], None],
) -> Reported:
    """Measure a split.

    Args:
      parts: of `PARTS`. how: resampling of the intervals. most_errors: worst images that are shown.
      flip: whether images are seen mirrored too.

    Raises:
      UserError: if no image can be read, or images of the task cannot be mirrored.
    """
    kind = KINDS[run.task](run)
    if flip and not kind.flips:
        raise UserError(f"--tta flip is for masks and depths; runs of {run.task!r} are measured on the image alone")
    rows, scores, unread = [], [], 0
    found = kind.each(split, range(len(split)), batch_size, flip)
    for row, truth, answer in bar(found, f"measuring {split.name}", total=len(split)):
        if isinstance(truth, BadImage):
            unread += 1
            say(f"skipped {split.record_name(row)}: {truth}")
            continue
        rows.append(row)
        scores.append(kind.add(truth, answer))
    if not rows:
        raise UserError(f"no image of {split.name} could be read")
    sections = []
    if "metrics" in parts:
        sections.append(_metrics(kind, run, split, len(rows), how))
    if "errors" in parts:
        order = [place for place in np.argsort(scores, kind="stable").tolist() if not np.isnan(scores[place])]
        worst = [(rows[place], scores[place]) for place in order[:most_errors]]
        sections.append(_worst(kind, run, split, worst, batch_size, flip))
    return Reported(sections, len(rows), unread)


def _metrics(kind: Kind, run: FinishedRun, split: Split, n: int, how: Resampling) -> Section:
    if kind.most_resamples is not None:
        how = dataclasses.replace(how, count=min(how.count, kind.most_resamples))
    statistic = kind.statistic()
    exact, spans = statistic(np.ones((1, n))), bootstrap(statistic, n, how)

    def of(name: str, place: int | None = None, images: int = n) -> Figure:
        value, low, high = exact[name][0], *spans[name]
        if place is not None:
            value, low, high = value[place], low[place], high[place]
        return of_bootstrap(float(value), images, (float(low), float(high)), how, f"nothing in {split.name} to measure")

    whole = {name: of(name) for name in kind.titles}
    rows = [
        [words, whole[name].text(kind.forms.get(name, ".3f")), str(whole[name].n), whole[name].kind]
        for name, words in kind.titles.items()
    ]
    blocks: list[Block] = [Table(["", "value", "images", "interval"], rows)]
    values: dict[str, Any] = {"whole": whole}
    if kind.columns:
        counts = kind.images_of_classes().tolist()
        values["classes"] = {
            name: {"images": figure(counts[place], n)}
            | {one: of(f"class/{one}", place, counts[place]) for one in kind.columns}
            for place, name in enumerate(run.names)
        }
        table = [
            [name, str(counts[place]), *(values["classes"][name][one].text() for one in kind.columns)]
            for place, name in enumerate(run.names)
        ]
        heads = ["class", "images with it", *kind.columns.values()]
        blocks.append(Table(heads, table, "Classes", "- not defined: the split has nothing of the class"))
    missing = [f"{kind.titles[name]}: not computed, {one.why}." for name, one in whole.items() if one.value is None]
    if n < FEW:
        missing.append(f"There are only {n} images, so the intervals say little.")
    blocks += [*([Notes(missing)] if missing else []), *kind.blocks()]
    return Section("metrics", f"Metrics on {split.name}", values, blocks)


def _worst(
    kind: Kind, run: FinishedRun, split: Split, worst: list[tuple[int, float]], batch_size: int, flip: bool
) -> Section:
    scores, listed, values = dict(worst), [], []
    for row, truth, answer in kind.each(split, [row for row, _ in worst], batch_size, flip):
        if isinstance(truth, BadImage):
            continue  # it could be read before
        image = shown(run, split.records[row])
        name, score = split.record_name(row), abs(scores[row])
        own, found = kind.pictures(image, truth, answer)
        drawn = [{"picture": small(own), "about": "truth", "name": ""}, {"picture": small(found), "about": "found"}]
        values.append({"image": name, "score": score})
        listed.append({"picture": drawn[0]["picture"], "about": f"truth ({score:.3f})", "name": name,
                       "more": [drawn[1] | {"name": ""}]})  # fmt: skip
    note = f"ranked by {kind.ranked}; images without anything to find are left out"
    return Section("errors", f"The worst images of {split.name}", values, [Gallery(listed, "Worst images", note)])
