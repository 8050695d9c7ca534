"""The tasks: data, model, train step and metrics for each objective. See `jaxdino.train.task.Task`."""

from collections.abc import Callable

from jaxdino.train.task import Task
from jaxdino.train.tasks.classify import Classification
from jaxdino.train.tasks.depth import DepthEstimation
from jaxdino.train.tasks.detect import Detection
from jaxdino.train.tasks.distill import Distillation
from jaxdino.train.tasks.instances import InstanceSegmentation
from jaxdino.train.tasks.knowledge import knowledge_distillation
from jaxdino.train.tasks.multilabel import MultilabelClassification
from jaxdino.train.tasks.segment import Segmentation
from jaxdino.train.tasks.semantic import SemanticSegmentation

TASKS: dict[str, Callable[..., Task]] = {
    "classify": Classification,
    "depth": DepthEstimation,
    "detect": Detection,
    "distill": Distillation,
    "instances": InstanceSegmentation,
    "knowledge_distillation": knowledge_distillation,
    "multilabel": MultilabelClassification,
    "segment": Segmentation,
    "semantic": SemanticSegmentation,
}
"""objective.name -> its task."""
