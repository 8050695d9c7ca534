"""Weights & Biases: offline in the run's folder, or its server; one run id over all starts of a run."""

import os
import secrets
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxdino.train.writers.writer import Target

FOLDER, PROJECT = "wandb", "jaxdino"


class WeightsAndBiases:
    """Write to a W&B run.

    Without `tracking.mode`, the variable WANDB_MODE decides; without that, nothing is sent.
    """

    def __init__(self, target: Target):
        mode = target.tracking.get("mode") or os.environ.get("WANDB_MODE") or "offline"
        if mode == "offline":
            os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # or errors of wandb itself are sent
        import wandb

        run_id = target.kept.get("id") or os.environ.get("WANDB_RUN_ID") or secrets.token_hex(4)
        project = target.tracking.get("project") or os.environ.get("WANDB_PROJECT") or PROJECT
        quiet = wandb.Settings(console="off", silent=mode != "online", reinit="create_new")
        self._run: Any = wandb.init(
            project=project,
            name=target.name,
            id=run_id,
            resume=None if mode == "offline" else "allow",  # offline the id is enough, and W&B would warn
            dir=str(target.folder),
            mode=mode,
            config=dict(target.config),
            allow_val_change=True,
            settings=quiet,
        )
        self._wandb = wandb
        self.reached = max(self._run.starting_step - 1, 0)  # what the server has; 0 offline
        self.kept = {"id": run_id, "project": project}
        if mode == "offline":
            self._only_this(target)

    def _only_this(self, target: Target) -> None:
        """Remove the files of earlier starts, which this one writes again.

        W&B writes them in large blocks: a kill may have lost the last one.
        """
        place, now = target.folder / FOLDER, Path(self._run.settings.sync_dir)
        for old in place.glob(f"offline-run-*-{self._run.id}"):
            if old.name != now.name:
                shutil.rmtree(old)
        target.say(
            f"wandb: run {self._run.id} is not sent (later: wandb sync {place / now.name}; "
            "now: --config.tracking.mode=online)"
        )

    def write(self, values: Mapping[str, float], step: int, time: float) -> None:
        """Log the metrics of a step. W&B ignores steps before its last one; `reached` keeps them away."""
        self._run.log(dict(values), step=step, commit=True)

    def finish(self, summary: Mapping[str, float], files: Sequence[Path]) -> None:
        """Set the results in the run's summary; upload the files as an artefact."""
        self._run.summary.update(dict(summary))
        if files:
            found = self._wandb.Artifact(f"report-{self._run.id}", type="report")
            for file in files:
                found.add_file(str(file))
            self._run.log_artifact(found)

    def close(self, finished: bool) -> None:
        """Write what is left and end the run."""
        self._run.finish(exit_code=0 if finished else 1)
