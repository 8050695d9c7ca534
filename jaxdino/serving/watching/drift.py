"""Compare what is served with the reference of the model, window by window."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from jaxdino.core.errors import UserError
from jaxdino.serving.server.catalogue import Served
from jaxdino.serving.server.metrics import Metrics
from jaxdino.serving.server.work import EMBED, PREDICT, Seen
from jaxdino.serving.watching import reference
from jaxdino.serving.watching.alerts import Alerts
from jaxdino.serving.watching.background import Background
from jaxdino.serving.watching.reference import Reference, Sample


@dataclasses.dataclass
class _Window:
    """The images of a model since the last comparison. `of` is its reference, None without one."""

    digest: str
    of: Reference | None
    seen: list[Seen] = dataclasses.field(default_factory=list)
    alarm: bool = False


def sample_of(seen: list[Seen]) -> Sample:
    """Return what images gave as a sample: features, and probabilities and classes if all have them."""
    features = np.stack([one.features for one in seen if one.features is not None])
    best = [one.best for one in seen if one.best is not None]
    if len(best) < len(seen):
        best = []
    odds = np.round([odds for _, odds in best], 6)  # many are 1 but for rounding, which no bin should divide
    return Sample(features, odds, np.array([place for place, _ in best], np.int64))


class DriftWatch:
    """Compare windows of served images with the references kept in the models' folders.

    A window is as large as that of the reference. An alert is sent when an alarm begins and when it ends. A
    model without a reference, or with one of other weights, is not watched, which is said once.
    """

    def __init__(self, metrics: Metrics, alerts: Alerts, say: Callable[..., None]):
        self.metrics, self.alerts, self.say = metrics, alerts, say
        self._windows: dict[tuple[str, str], _Window] = {}
        self._background = Background(self._add, failed=lambda err: say("drift failed", level="error", why=str(err)))

    def saw(self, served: Served, endpoint: str, request_id: str, seen: Seen) -> None:
        """Keep an image: those of /predict, of models without classes those of /embed."""
        if endpoint == (PREDICT if PREDICT in served.works else EMBED) and seen.features is not None:
            self._background.put((served, seen))

    def close(self) -> None:
        """Compare what is a window, and end."""
        self._background.close()

    def _add(self, thing: tuple[Served, Seen]) -> None:
        served, seen = thing
        window = self._windows.get(served.label)
        if window is None or window.digest != served.model.digest:
            window = self._windows[served.label] = _Window(served.model.digest, self._reference(served))
        if window.of is None:
            return
        window.seen.append(seen)
        if len(window.seen) >= window.of.window:
            found, window.seen = sample_of(window.seen), []
            self._compare(served, window, window.of, found)

    def _reference(self, served: Served) -> Reference | None:
        model, version = served.label
        try:
            found = reference.load(served.place.source, served.model.digest)
        except UserError as err:
            self.say("drift is not watched", model=model, version=version, why=str(err))
            return None
        for name, limit in found.thresholds.items():
            self.metrics.drift_threshold.labels(*served.label, name).set(limit)
        self.say("drift is watched", model=model, version=version, window=found.window)
        return found

    def _compare(self, served: Served, window: _Window, of: Reference, found: Sample) -> None:
        measures = of.measure(found)
        above = of.alarms(measures)
        for name, value in measures.items():
            self.metrics.drift.labels(*served.label, name).set(value)
        self.metrics.drift_windows.labels(*served.label).inc()
        self.metrics.drift_alarm.labels(*served.label).set(bool(above))
        if bool(above) == window.alarm:
            return
        window.alarm = bool(above)
        model, version = served.label
        about: dict[str, Any] = {"event": "drift", "alarm": window.alarm, "model": model, "version": version}
        about |= {"digest": of.digest, "images": len(found), "above": above}
        rounded = {name: round(value, 5) for name, value in measures.items()}
        self.alerts.send({**about, "measures": rounded, "thresholds": dict(of.thresholds)})
