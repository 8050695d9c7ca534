"""MLflow: a folder of the run, or a tracking server; one run id over all starts of a run."""

import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxdino.core.errors import UserError
from jaxdino.settings.writers import is_remote
from jaxdino.train.writers.writer import Target, flattened

FOLDER, EXPERIMENT = "mlruns", "jaxdino"
PARAMS, LONGEST = 100, 500
"""Parameters in a request, and characters of a parameter's value, that every server takes."""
FORBIDDEN = re.compile(r"[^\w.:/ -]", re.ASCII)
UNTIL = "epoch"
"""A metric of every line, which says how far an earlier start has come."""


class MLflow:
    """Write to an MLflow run.

    Without `tracking.uri`, the variable MLFLOW_TRACKING_URI decides; without that, the folder mlruns of the run.

    Raises:
      UserError: for tracking.mode=online without a server.
    """

    def __init__(self, target: Target):
        uri = _address(target)
        if not is_remote(uri):
            os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # or its use is reported
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # or newer versions refuse a folder
        from mlflow import MlflowClient

        self._client, self._step = MlflowClient(tracking_uri=uri), 0
        known = target.kept.get("id") if target.kept.get("uri") == uri else None
        self._id = known or self._begun(target)
        self.reached = 0
        if known:
            self._client.update_run(known, status="RUNNING")
            self.reached = max((one.step for one in self._client.get_metric_history(known, UNTIL)), default=0)
        self.kept = {"id": self._id, "uri": uri}
        target.say(f"mlflow: run {self._id} in {uri}")

    def _begun(self, target: Target) -> str:
        """Create a run with the settings as its parameters; return its id."""
        from mlflow.entities import Param

        name = target.tracking.get("project") or os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
        found = self._client.get_experiment_by_name(name)
        experiment = found.experiment_id if found else self._client.create_experiment(name)
        run_id = self._client.create_run(experiment, run_name=target.name).info.run_id
        leaves = flattened(target.config, ".").items()
        params = [Param(_permitted(path), str(value)[:LONGEST]) for path, value in leaves if value is not None]
        for start in range(0, len(params), PARAMS):
            self._client.log_batch(run_id, params=params[start : start + PARAMS])
        return run_id

    def write(self, values: Mapping[str, float], step: int, time: float) -> None:
        """Log the metrics of a step."""
        self._step = step
        self._log(values, step, time)

    def _log(self, values: Mapping[str, float], step: int, time: float) -> None:
        from mlflow.entities import Metric

        milliseconds = int(1000 * time)
        rows = [Metric(_permitted(name), float(one), milliseconds, step) for name, one in values.items()]
        for start in range(0, len(rows), 1000):  # in a request
            self._client.log_batch(self._id, metrics=rows[start : start + 1000])

    def finish(self, summary: Mapping[str, float], files: Sequence[Path]) -> None:
        """Log the results at the last step, and the files as artefacts."""
        import time

        self._log({name: one for name, one in summary.items() if math.isfinite(one)}, self._step, time.time())
        for file in files:
            self._client.log_artifact(self._id, str(file))

    def close(self, finished: bool) -> None:
        """End the run."""
        self._client.set_terminated(self._id, status="FINISHED" if finished else "KILLED")


def _address(target: Target) -> str:
    """Return where MLflow writes. Raises UserError for tracking.mode=online without a server."""
    mode, given = target.tracking.get("mode"), target.tracking.get("uri")
    uri: Any = given or os.environ.get("MLFLOW_TRACKING_URI")
    if mode == "offline" and is_remote(uri):
        uri = None  # from the environment: the setting counts
    if mode == "online" and not is_remote(uri):
        raise UserError(
            "tracking.mode=online needs a server of MLflow's: give --config.tracking.uri=https://..., or set the "
            "variable MLFLOW_TRACKING_URI"
        )
    return uri or (target.folder.resolve() / FOLDER).as_uri()


def _permitted(name: str) -> str:
    """Return a name in the characters that MLflow takes: "stages[0].epochs" is "stages.0.epochs"."""
    return FORBIDDEN.sub("_", re.sub(r"\[(\d+)\]", r".\1", name))
