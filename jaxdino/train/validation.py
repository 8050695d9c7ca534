"""Validation of a stage at the image size of each epoch, and of the best weights so far when that size changes."""

from typing import TYPE_CHECKING

from jaxdino.core.image_sizes import Size, words
from jaxdino.train.state import State
from jaxdino.train.task import Metrics, Part
from jaxdino.train.workdir import say

if TYPE_CHECKING:
    from collections.abc import Callable

    from jaxdino.train.session import Session


class Validation:
    """Measure the weights of a stage. The evaluation is compiled once for each size, also if a size comes again."""

    def __init__(self, session: "Session", part: Part):
        self._session, self._part = session, part
        self._known: dict[Size, Callable[[State], Metrics]] = {}

    def measure(self, current: State) -> Metrics:
        """Compute the validation metrics at the size of the epoch that has just ended, or of the first one."""
        return self._at(self._part.sizes.place(self._session.progress.epochs))(current)

    def _at(self, place: int) -> "Callable[[State], Metrics]":
        part = self._part.at(place)
        if part.image_size not in self._known:
            self._known[part.image_size] = self._session.setup.task.measure(self._session, part)
        return self._known[part.image_size]

    def begin_epoch(self, current: State) -> bool:
        """Evaluate the stage's best weights at the size of the next epoch, if it is another one; print what changes.

        So metrics of two sizes are never compared. Return whether the size has changed.
        """
        now, part, stage = self._session.progress, self._part, self._part.stage
        place = part.sizes.place(now.epochs)
        if place == now.size_place:
            return False
        before, after = (words(part.sizes.schedule[one][1]) for one in (now.size_place, place))
        was, found = now.best, {}
        if stage.monitor and was is not None:
            best = current["best"]
            found = self._at(place)({"moving": best | {"ema": {}}, "frozen": current["frozen"]})
        now.resized(stage, place, found)
        text = f"{stage.name}: images of {after} from epoch {now.epochs + 1} on, {before} until now"
        if found and now.best is not None:
            text += (
                f"; the best weights so far have {stage.monitor} {now.best:.4f} at the new size ({was:.4f} before), "
                "which is what the next epochs are compared with"
            )
        say(text)
        return True
