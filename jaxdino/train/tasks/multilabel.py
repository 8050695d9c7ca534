"""The multi-label task: images with any number of classes each, a linear head, mean average precision."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, cast

import jax
import numpy as np
from jax.sharding import Mesh

from convert.card import Card, load_card
from jaxdino.core.errors import UserError
from jaxdino.core.image_sizes import Sizes
from jaxdino.data.fields import Number
from jaxdino.evals import multilabel
from jaxdino.evals.multilabel import MultilabelEvaluator
from jaxdino.models.heads.linear import LinearHeadConfig
from jaxdino.objectives import class_weights
from jaxdino.objectives.class_weights import Weights
from jaxdino.objectives.multilabel import Multilabel
from jaxdino.objectives.settings import BALANCED, Multilabelling, settings_of
from jaxdino.stage import Stage, stages
from jaxdino.train import plots, results, slicing, step
from jaxdino.train.task import Metrics, Part, State
from jaxdino.train.tasks.ending import ended
from jaxdino.train.tasks.supervised import Supervised

if TYPE_CHECKING:
    from jaxdino.train.session import Session


class MultilabelClassification(Supervised):
    """Classify images: any number of classes each.

    The head of the saved model has a threshold for each class, that with the largest F1 on the validation split in the
    epoch that the model is from.
    """

    field: ClassVar = "labels"
    arrays: ClassVar = ("image", "labels", "weight")
    columns: ClassVar = ("val/map", "val/macro_auc", "val/macro_f1")
    plots: ClassVar = plots.supervised("val/map", "Validation mean average precision")

    def __init__(self, config: Any, mesh: Mesh, tell: Callable[[str], None], *how: Any):
        super().__init__(config, mesh, tell, *how)
        self.fields = (Number("labels", "float32", (self.card.num_classes,)),)
        self.card = self.best_card({})
        for split in ("val", self.tested):
            if not np.any(self.source.split(split).fields["labels"]):
                raise UserError(f"no image of {split} has a class, so that nothing can be measured on it")
        for given in dict.fromkeys(self.settings(stage).pos_weight for stage in stages(config)):
            if given is not None:
                tell(self._weights_line(given))

    def tokens(self, stage: Stage, sizes: Sizes) -> int:
        """Return the tokens of an image at the largest size."""
        return slicing.tokens(self.spec, [sizes.largest])

    def targets(self, batch: step.Batch) -> tuple[str, jax.Array]:
        """Return the labels, multi-hot."""
        return "labels", batch["labels"]

    def objective(self, part: Part, current: State) -> Multilabel:
        """Return binary cross entropy, with the stage's label smoothing and weights."""
        settings = self.settings(part.stage)
        return Multilabel(
            part.stage.label_smoothing,
            self.pos_weight(settings.pos_weight),
            settings.target_threshold,
            settings.sum_classes,
            settings.focal_gamma,
        )

    def settings(self, stage: Stage) -> Multilabelling:
        """Return the stage's objective settings."""
        return settings_of(self.config, stage.objective, f"stage {stage.name!r}")

    def pos_weight(self, given: Any) -> Weights:
        """Return the weight of all classes, or of each; see `Multilabelling`. Raise UserError for too few or many."""
        labels = self.source.split("train").fields["labels"]
        named = {BALANCED: lambda: class_weights.positives(labels)}
        return class_weights.resolved("objective.pos_weight", given, self.source.class_names, named)

    def _weights_line(self, given: Any) -> str:
        how = ", images of train without the class / with it" if given == BALANCED else ""
        return f"pos_weight{how}: {class_weights.described(self.pos_weight(given), self.source.class_names)}"

    def evaluator(self) -> MultilabelEvaluator:
        """Return mean average precision and related metrics."""
        return MultilabelEvaluator(self.source.class_names)

    def best_card(self, metrics: Metrics) -> Card:
        """Return the card with the thresholds of these metrics; 0.5 where they have none."""
        names = [f"val/{multilabel.THRESHOLD}{name}" for name in self.source.class_names]
        thresholds = tuple(metrics.get(name, multilabel.UNKNOWN) for name in names)
        head = LinearHeadConfig(self.card.num_classes, self.card.pool, thresholds)
        return dataclasses.replace(self.card, head=head)

    def finish(self, session: "Session") -> tuple[dict[str, Any], list[str]]:
        """Evaluate the saved best model, with its thresholds, on the test split.

        Without a test split the validation split is evaluated; the thresholds are those that are best for it.
        """
        split, head = self.tested, load_card(session.folder / "best").head
        thresholds = cast("LinearHeadConfig", head).thresholds  # as saved by `best_card`
        logits, labels = self.best_evaluated(session, split).answers
        found = multilabel.multilabel(logits, labels, thresholds)
        classes = multilabel.per_class(logits, labels, thresholds, self.source.class_names)
        words = "F1 is at the thresholds that are best on val; predict gives the classes above them"
        more = [words, *_class_lines(split, classes)]
        return ended(session, split, found, (*found,), more, {"per_class": classes})


def _class_lines(split: str, classes: Mapping[str, Mapping[str, Any]], most: int = 10, ends: int = 5) -> list[str]:
    """List the metrics of each class; of more than `most`, the lowest and highest few. Name classes without images."""
    there = sorted((one["average_precision"], name) for name, one in classes.items() if one["images"])

    def listed(chosen: Sequence[tuple[float, str]]) -> list[str]:
        return [
            f"  {name}: average precision {ap:.3f}, AUC {_shown(classes[name]['auc'])}, F1 {classes[name]['f1']:.3f} "
            f"at {classes[name]['threshold']:.3f} ({classes[name]['images']} images)"
            for ap, name in chosen
        ]

    lines = [f"{split}, each class:", *listed(there)]
    if len(there) > most:
        lines = [f"{split}, the {ends} lowest of {len(there)} classes:", *listed(there[:ends])]
        lines += [f"{split}, the {ends} highest; all are in summary.json:", *listed(there[-ends:])]
    missing = [name for name, one in classes.items() if not one["images"]]
    return lines + [f"left out of the means, without an image in {split}: {', '.join(missing)}"] * bool(missing)


def _shown(value: float | None) -> str:
    return results.NONE if value is None else f"{value:.3f}"


TASK = MultilabelClassification
