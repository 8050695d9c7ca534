"""Find the first value of a step that is not finite: the layer, the direction, the rows of the batch."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdino.core.words import few
from jaxdino.train import step
from jaxdino.train.checkpoint import flatten
from jaxdino.train.not_finite.recorder import BACKWARD, FORWARD, INPUT, OUTPUT, VALUE, Event, record

SHOWN = 5
"""Names in a line, at most."""
VALUES = {
    step.AUGMENTED: "the images after augmentation and normalisation",
    step.TARGETS: "the targets of the loss",
    step.LOSS: "the loss, from finite outputs of the model",
}


@dataclasses.dataclass(frozen=True)
class Finding:
    """The first value of a step that is not finite.

    Attributes:
      layer: path of the layer, such as "backbone.blocks.3.attn"; "" if no layer made the value.
      direction: "forward", "backward", or "" for what neither pass made.
      what: the value in words.
      rows: the rows of the batch that have it; () if it belongs to no row, or to all of them.
      before: what was not finite before the step.
      largest: the largest finite |value| that came into the layer in this direction; None if not known.
      weight: the largest finite |value| of the layer's parameters; None if it has none.
    """

    layer: str
    direction: str
    what: str
    rows: tuple[int, ...] = ()
    before: tuple[str, ...] = ()
    largest: float | None = None
    weight: float | None = None

    def lines(self, images: Sequence[str]) -> list[str]:
        """Describe the finding.

        Args:
          images: name of the image of each row.
        """
        found = [f"first value that is not finite: {self.what}"]
        if self.largest is not None:
            found.append(f"largest finite value that came in: {self.largest:.3g}")
        if self.weight is not None:
            found.append(f"largest finite parameter of the layer: {self.weight:.3g}")
        if self.before:
            found.append(f"not finite before the step already: {few(self.before, SHOWN)}")
        if self.rows:
            names = [images[row] for row in self.rows if row < len(images)]
            found.append(f"images ({len(self.rows)} of {len(images)} in the batch): {few(names, SHOWN)}")
        else:
            found.append(f"images: all {len(images)} of the batch, or none in particular: {few(images, SHOWN)}")
        return found


def diagnose(made: Callable, moving: Any, frozen: Any, batch: Any, slices: int = 1) -> Finding | None:
    """Run a step on its state from before and find the first value that is not finite; None if there is none.

    Args:
      made: the step, not compiled: (moving, frozen, batch) -> (moving, measured); it must not have been traced before.
      slices: the slices of the batch that are computed one after another (`accumulate`).
    """
    before = tuple(_bad_leaves({**moving, "frozen": frozen}))
    given = _bad_leaves(batch)
    count = batch["weight"].shape[0]
    events = record(made, moving, frozen, batch)
    if given:
        return Finding("", "", f"the batch as it was read: {few(given, SHOWN)}", _rows_of(batch[given[0]]), before)
    values = {event.name: event for event in events if event.kind == VALUE}
    ahead = [event for event in events if event.name not in (step.GRADIENT, step.UPDATED)]
    found = _forward(ahead, count, slices) or _backward(ahead, count, slices) or _after(values)
    if found is None:
        return None
    weights = {**frozen, **moving["trainable"], **moving["buffers"]}
    inside = [one for name, one in weights.items() if found.layer and name.startswith(f"{found.layer}.")]
    return dataclasses.replace(found, before=before, weight=_largest(inside))


def _forward(events: Sequence[Event], count: int, slices: int) -> Finding | None:
    place = next((n for n, event in enumerate(events) if event.bad(FORWARD)), None)
    if place is None:
        return None
    event, target = events[place], _is_target(events, place)
    rows = _rows(event, FORWARD, count, slices)
    if event.kind == VALUE:
        if event.name == step.LOSS:  # the rows are those whose outputs have such a gradient
            last = next((one for one in reversed(events[:place]) if one.bad(BACKWARD)), None)
            rows = _rows(last, BACKWARD, count, slices) if last else ()
        leaves = f" ({few(event.bad(FORWARD), SHOWN)})" if event.name == step.AUGMENTED else ""
        return Finding("", FORWARD, f"{VALUES[event.name]}{leaves}", rows)
    layer = event.name if event.kind == OUTPUT else _around(events, place)
    what = "the output of" if event.kind == OUTPUT else f"the input of {event.name}, computed in"
    into = next((one for one in reversed(events[:place]) if one.kind == INPUT and one.name == layer), None)
    largest = into.largest.get(FORWARD) if into else None
    return Finding(layer, FORWARD, f"{what} {_named(layer)} ({FORWARD}{target})", rows, largest=largest)


def _backward(events: Sequence[Event], count: int, slices: int) -> Finding | None:
    """Follow the gradients from the loss: the first that is not finite was made by what comes after its place."""
    place = next((n for n in reversed(range(len(events))) if events[n].bad(BACKWARD)), None)
    if place is None:
        return None
    event = events[place]
    layer = event.name if event.kind == INPUT else _around(events, place)
    end = next((one for one in events[place:] if one.kind == OUTPUT and one.name == layer), None)
    largest = end.largest.get(BACKWARD) if end and not end.bad(BACKWARD) else None
    what = f"the gradient in {_named(layer)} ({BACKWARD})"
    if event.kind != INPUT:
        what = f"the gradient at the output of {event.name or 'the model'}, made in {_named(layer)} ({BACKWARD})"
    return Finding(layer, BACKWARD, what, _rows(event, BACKWARD, count, slices), largest=largest)


def _after(values: dict[str, Event]) -> Finding | None:
    """Find parameters whose gradient or new value is not finite though everything before was."""
    for name, what in ((step.GRADIENT, "the gradient of"), (step.UPDATED, "after the optimiser's update:")):
        if name in values and (bad := values[name].bad(FORWARD)):
            direction = BACKWARD if name == step.GRADIENT else ""
            layer = bad[-1].rpartition(".")[0]  # the last in the forward pass is the first in the backward pass
            return Finding(layer, direction, f"{what} {few(list(reversed(bad)), SHOWN)}")
    event = values.get(step.GRADIENT)
    largest = event.largest.get(FORWARD, 0.0) if event else 0.0
    if largest > np.sqrt(np.finfo(np.float32).max) / 1e3:
        return Finding("", BACKWARD, f"the norm of the gradient overflows: its largest entry is {largest:.3g}")
    return None


def _around(events: Sequence[Event], place: int) -> str:
    """Return the innermost layer that is being computed at a place, without the layer of that event; "" if none is."""
    open_: list[str] = []
    for event in events[:place]:
        if event.kind == INPUT:
            open_.append(event.name)
        elif event.kind == OUTPUT and event.name in open_:
            del open_[len(open_) - 1 - open_[::-1].index(event.name) :]
    if events[place].kind == OUTPUT and open_ and open_[-1] == events[place].name:
        open_.pop()
    return open_[-1] if open_ else "the loss"


def _named(layer: str) -> str:
    return layer or "the model"


def _is_target(events: Sequence[Event], place: int) -> str:
    """Return words for a place that computes targets: the teacher of self-distillation, a reference model."""
    names = [event.name for event in events[place:] if event.kind == VALUE]
    return ", while the targets are computed" if step.TARGETS in names else ""


def _rows(event: Event, direction: str, count: int, slices: int) -> tuple[int, ...]:
    """Return the rows of the batch that an event marks; () if all are, or if its values have no rows of the batch."""
    marked: set[int] = set()
    for found in event.leaves.values():
        for number, finite in enumerate(found.get(direction, [])):
            each, rest = divmod(finite.size, max(count // slices, 1))
            if rest or not each:
                continue
            rows = np.flatnonzero(~finite) // each
            marked |= {int(row) * slices + number % slices for row in rows}
    return tuple(sorted(marked)) if len(marked) < count else ()


def _rows_of(array: jax.Array) -> tuple[int, ...]:
    finite = np.isfinite(np.asarray(array)).reshape(array.shape[0], -1).all(1)
    return tuple(np.flatnonzero(~finite).tolist())


def _largest(arrays: Sequence[jax.Array]) -> float | None:
    """Return the largest finite |value|; None without arrays."""
    each = [jnp.max(jnp.abs(jnp.where(jnp.isfinite(one), one, 0)), initial=0) for one in arrays]
    return max(map(float, each), default=None)


def _bad_leaves(tree: Any) -> list[str]:
    """Return the names of the arrays in a tree that are not finite."""
    flat = {name: leaf for name, leaf in flatten(tree).items() if jnp.issubdtype(leaf.dtype, jnp.inexact)}
    good = jax.jit(lambda tree: jax.tree.map(lambda leaf: jnp.isfinite(leaf).all(), tree))(flat)
    return [name for name, one in good.items() if not bool(one)]
