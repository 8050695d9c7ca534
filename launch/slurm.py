"""Submit training to Slurm from Python: `python -m launch.slurm --nodes 2 --config=configs/gradual.py --workdir=DIR`.

One process a node, with all of its GPUs. When the time limit or a preemption comes, the run is saved, and the job goes
back into the queue. All other flags are those of `jaxdino train`. Logs and the job's script lie in WORKDIR/slurm.
`--local` starts the job on this machine, without Slurm. Needs `pip install 'jaxdino[slurm]'`.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxdino.core.command import finish
from jaxdino.core.errors import UserError

POLL = 0.5
"""Seconds between looks at the training process."""


class Training:
    """A run of `jaxdino train` in a process of its own, which a signal of Slurm ends in good order.

    Raises (when called):
      subprocess.CalledProcessError: if it ends with another status than 0.
    """

    def __init__(self, flags: Sequence[str]):
        self.command = [sys.executable, "-m", "jaxdino.main", *flags]
        self.process: subprocess.Popen | None = None

    def __call__(self) -> None:
        """Train to the end."""
        self.process = subprocess.Popen(self.command)
        if status := self._status(self.process):
            raise subprocess.CalledProcessError(status, self.command)

    def checkpoint(self, *_: Any) -> Any:
        """Let the run save itself and end; return the job to submit again. Called by submitit in a signal's handler."""
        from submitit.helpers import DelayedSubmission

        if self.process is not None:
            self.process.terminate()
            self._status(self.process)
        again = Training([])
        again.command = self.command
        return DelayedSubmission(again)

    @staticmethod
    def _status(process: subprocess.Popen) -> int:
        """Wait by polling: a handler may interrupt this, and `Popen.wait` would then wait for itself."""
        while (status := process.poll()) is None:
            time.sleep(POLL)
        return status


def main(argv: Sequence[str] | None = None) -> int:
    """Submit a job and print its number; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m launch.slurm", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--gpus_per_node", type=int, default=8)
    parser.add_argument("--cpus_per_node", type=int, default=32)
    parser.add_argument("--hours", type=float, default=24.0, help="time limit of one start; the job then goes on")
    parser.add_argument("--partition")
    parser.add_argument("--account")
    parser.add_argument("--workdir", required=True, help="the run folder, on storage that all nodes share")
    parser.add_argument("--local", action="store_true", help="run here, without Slurm")
    given, flags = parser.parse_known_args(argv)
    return finish(lambda: print(submit(given, flags)))


def submit(given: argparse.Namespace, flags: Sequence[str]) -> str:
    """Submit the job; return a line about it.

    Raises:
      UserError: if submitit is not installed, for numbers below 1, or without Slurm on this machine.
    """
    try:
        import submitit
    except ImportError as err:
        raise UserError("python -m launch.slurm needs submitit: pip install 'jaxdino[slurm]'") from err
    for name in ("nodes", "gpus_per_node", "cpus_per_node", "hours"):
        if not getattr(given, name) > (0 if name == "hours" else 0.5):
            raise UserError(f"--{name}={getattr(given, name)} must be {'above 0' if name == 'hours' else 'at least 1'}")
    if given.local and given.nodes > 1:
        raise UserError(
            f"--local has one node, not {given.nodes}: python -m launch.local -n N starts several processes"
        )
    folder = Path(given.workdir).absolute() / "slurm"
    try:
        executor = submitit.AutoExecutor(str(folder), cluster="local" if given.local else "slurm")
    except RuntimeError as err:
        raise UserError("Slurm's sbatch is not found on this machine: use --local, or a login node") from err
    settings: dict[str, Any] = dict(name="jaxdino", nodes=given.nodes, tasks_per_node=1, timeout_min=given.hours * 60)
    if not given.local:
        settings |= dict(gpus_per_node=given.gpus_per_node, cpus_per_task=given.cpus_per_node)
        settings |= dict(slurm_signal_delay_s=300, slurm_additional_parameters={"requeue": True})
        settings |= {f"slurm_{name}": getattr(given, name) for name in ("partition", "account") if getattr(given, name)}
    settings["timeout_min"] = max(1, round(settings["timeout_min"]))
    executor.update_parameters(**settings)
    job = executor.submit(Training([*flags, f"--workdir={given.workdir}"]))
    return f"job {job.job_id}, log {job.paths.stdout}, errors {job.paths.stderr}"


if __name__ == "__main__":
    sys.exit(main())
