"""Predictions in MLflow: an artefact for each table, and what is counted in it as metrics."""

import contextlib
import os
import socket
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from jaxdino.core.errors import UserError

EXPERIMENT = "jaxdino-serve"
ARTEFACTS = "predictions"
DEFAULTS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",  # or its use is reported
    "MLFLOW_ALLOW_FILE_STORE": "true",  # or newer versions refuse a folder
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # a server that is away is noticed in seconds, not minutes
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}


class MLflowRun:
    """A run of MLflow's, one for each start of the server.

    Args:
      uri: the address of a tracking server, or a folder.

    Raises:
      UserError: without the package, and for an address or a folder where no run can be created.
    """

    def __init__(self, uri: str):
        for name, value in DEFAULTS.items():
            os.environ.setdefault(name, value)
        try:
            from mlflow import MlflowClient
        except ImportError:
            raise UserError("--log_mlflow needs the package mlflow: pip install 'jaxdino[mlflow]'") from None
        try:
            where = uri if "://" in uri else Path(uri).resolve().as_uri()
            self._client, self._step = MlflowClient(tracking_uri=where), 0
            experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
            found = self._client.get_experiment_by_name(experiment)
            place = found.experiment_id if found else self._client.create_experiment(experiment)
            name = f"{socket.gethostname()}-{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}"
            self.id = self._client.create_run(place, run_name=name).info.run_id
        except Exception as err:  # many kinds, of networks, files and MLflow itself
            raise UserError(
                f"--log_mlflow {uri}: no run can be created there: {str(err).splitlines()[0][:300]}"
            ) from None

    def __call__(self, table: pa.Table, name: str) -> None:
        """Keep a table as an artefact, and the numbers and mean probabilities of its predictions as metrics."""
        from mlflow.entities import Metric

        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / name
            pq.write_table(table, file)
            self._client.log_artifact(self.id, str(file), ARTEFACTS)
        self._step += table.num_rows
        now = int(1000 * time.time())
        rows = [Metric(key, value, now, self._step) for key, value in measured(table).items()]
        self._client.log_batch(self.id, metrics=rows)

    def close(self) -> None:
        """End the run."""
        with contextlib.suppress(Exception):  # a server that is away: the run stays open there
            self._client.set_terminated(self.id)


def measured(table: pa.Table) -> dict[str, float]:
    """Return {"MODEL/predictions", "MODEL/probability" (mean of the first class)} of each model of a table."""
    found: dict[str, Any] = {}
    for model in pc.unique(table["model"]).to_pylist():
        rows = table.filter(pc.equal(table["model"], model))
        mean = pc.mean(rows["probability"]).as_py()
        found[f"{model}/predictions"] = float(rows.num_rows)
        if mean is not None:
            found[f"{model}/probability"] = mean
    return found
