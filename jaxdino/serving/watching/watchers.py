"""What watches a server, as its settings say."""

from collections.abc import Callable
from typing import Any

from jaxdino.serving.server.metrics import Metrics
from jaxdino.serving.server.settings import ServeSettings
from jaxdino.serving.watching.alerts import Alerts
from jaxdino.serving.watching.drift import DriftWatch
from jaxdino.serving.watching.prediction_log import PredictionLog


def watchers_of(settings: ServeSettings, metrics: Metrics, say: Callable[..., None]) -> list[Any]:
    """Return the drift watch, and the log of predictions if there is one. The server closes them.

    Raises:
      UserError: for a folder that cannot be written to, a program that does not exist, another kind of address.
    """
    found: list[Any] = [DriftWatch(metrics, Alerts(settings.alert_command, settings.alert_webhook, say), say)]
    if settings.log_predictions:

        def failed(err: Exception) -> None:
            say("predictions not logged", level="error", why=str(err)[:500])

        found.append(PredictionLog(settings.log_predictions, metrics.unlogged.inc, failed))
    return found
