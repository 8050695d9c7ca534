"""The tasks: what a run makes of its data and its model, for each objective. See `jaxdino.train.task.Task`."""

from collections.abc import Callable

from jaxdino.train.task import Task
from jaxdino.train.tasks.classify import Classification
from jaxdino.train.tasks.distill import Distillation
from jaxdino.train.tasks.segment import Segmentation

TASKS: dict[str, Callable[..., Task]] = {
    "classify": Classification,
    "distill": Distillation,
    "segment": Segmentation,
}
"""objective.name -> its task."""
