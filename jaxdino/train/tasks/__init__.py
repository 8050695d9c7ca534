"""The tasks: data, model, train step and metrics for each objective. See `jaxdino.train.task.Task`.

The task of `objective.name=classify` is `TASK` of `classify.py`; only the run's own is imported.
"""

import importlib
from collections.abc import Callable

from jaxdino.train.task import Task


def task_of(name: str) -> Callable[..., Task]:
    """Return what makes the task of an objective, a key of `jaxdino.objectives.settings.OBJECTIVES`."""
    return importlib.import_module(f"{__name__}.{name}").TASK
