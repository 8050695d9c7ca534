"""What watches a server, as its settings say."""

from collections.abc import Callable
from typing import Any

from jaxdino.serving.server.metrics import Metrics
from jaxdino.serving.server.settings import ServeSettings
from jaxdino.serving.watching.alerts import Alerts
from jaxdino.serving.watching.drift import DriftWatch
from jaxdino.serving.watching.prediction_log import Folder, PredictionLog


def watchers_of(settings: ServeSettings, metrics: Metrics, say: Callable[..., None]) -> list[Any]:
    """Return the drift watch, and the logs of predictions. The server closes them.

    Raises:
      UserError: for a folder that cannot be written to, a program that does not exist, another kind of address, a
        server of MLflow's that does not answer.
    """
    found: list[Any] = [DriftWatch(metrics, Alerts(settings.alert_command, settings.alert_webhook, say), say)]
    stores: list[Any] = [Folder(settings.log_predictions)] if settings.log_predictions else []
    if settings.log_mlflow:
        from jaxdino.serving.watching.mlflow_run import MLflowRun

        stores.append(MLflowRun(settings.log_mlflow))

    def failed(err: Exception) -> None:
        say("predictions not logged", level="error", why=str(err)[:500])

    return found + [PredictionLog(store, metrics.unlogged.inc, failed) for store in stores]
