"""The folder of a run, as `--workdir` of the commands that use a trained model."""

from pathlib import Path

from jaxdino.core.errors import UserError


def check_run_folder(workdir: str | Path) -> None:
    """Raise UserError for a `--workdir` that is no folder, and for a run that has not finished a stage yet."""
    folder = Path(workdir)
    if not folder.is_dir():
        raise UserError(f"there is no folder {workdir}: --workdir takes the folder of a training run")
    begun = any((folder / name).exists() for name in ("checkpoints", "metrics.jsonl"))
    if begun and not (folder / "best").is_dir():
        raise UserError(f"the run in {workdir} has not finished a stage yet")
