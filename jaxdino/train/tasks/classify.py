"""The classification task: labelled images, a linear head, accuracy and related metrics."""

from typing import TYPE_CHECKING, Any, ClassVar

import jax

from jaxdino.evals import classification
from jaxdino.evals.classification import ClassificationEvaluator
from jaxdino.objectives.classify import Classify
from jaxdino.train import results, step
from jaxdino.train.task import Metrics, Part, State
from jaxdino.train.tasks.supervised import OPTIMISTIC, Supervised, in_split

if TYPE_CHECKING:
    from jaxdino.train.session import Session


class Classification(Supervised):
    """Classify images: one class each."""

    columns: ClassVar = ("val/accuracy", "val/balanced_accuracy")

    def targets(self, batch: step.Batch) -> tuple[str, jax.Array]:
        """Return the labels, one-hot."""
        return "label", jax.nn.one_hot(batch["label"], self.card.num_classes)

    def objective(self, part: Part, current: State) -> Classify:
        """Return cross entropy, with the stage's label smoothing."""
        return Classify(part.stage.label_smoothing)

    def evaluator(self) -> ClassificationEvaluator:
        """Return accuracy and related metrics."""
        return ClassificationEvaluator(self.source.class_names)

    def references(self, session: "Session") -> dict[str, Metrics]:
        """Return the metrics of always predicting the most frequent class, and of the initial weights if measured."""
        common = {name: value for name, value in self._most_frequent("val").items() if name != "class"}
        return {"most frequent class": in_split("val", common)} | super().references(session)

    def _most_frequent(self, split: str) -> dict[str, Any]:
        train, other = self.source.split("train").labels, self.source.split(split).labels
        return classification.most_frequent(train, other, self.source.class_names)

    def finish(self, session: "Session") -> tuple[dict[str, Any], list[str]]:
        """Evaluate the saved best model on the test split, or on the validation split if there is no test split.

        The metrics of each class are included; the confusion matrix is written to a separate file.
        """
        split, names = self.tested, self.source.class_names
        evaluated = self.best_evaluated(session, split)
        answers, found = evaluated.answers, evaluated.compute()
        classes = classification.per_class(*answers, names)
        if session.chief:
            classification.write_confusion(session.folder / "confusion.csv", *answers, names)
        common = self._most_frequent(split)
        alone = ", ".join(f"{name.replace('_', ' ')} {common[name]:.4f}" for name in ("accuracy", "balanced_accuracy"))
        values = ", ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in found.items())
        lines = [
            f"{split} ({results.model_words(session.delivered)}): {values}",
            f"{split}, always the most frequent class ({common['class']}): {alone}",
            *results.class_lines(split, classes),
            *([OPTIMISTIC] if split == "val" else []),
        ]
        return in_split(split, found | {"most_frequent_class": common, "per_class": classes}), lines
