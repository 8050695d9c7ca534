"""The classification task: labelled images, a linear head, accuracy and related metrics."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import numpy as np
from jax.sharding import Mesh

from jaxdino.core.image_sizes import Sizes
from jaxdino.core.params import Skeleton
from jaxdino.data.sampling import UNIFORM, class_shares, drawn_words
from jaxdino.evals import classification
from jaxdino.evals.classification import ClassificationEvaluator
from jaxdino.evals.mistakes import Mistake, mistakes, write_mistakes
from jaxdino.objectives import class_weights
from jaxdino.objectives.classify import Classify
from jaxdino.objectives.settings import BALANCED, EFFECTIVE, Classifying, settings_of
from jaxdino.stage import Stage
from jaxdino.train import results, run_page, slicing, step
from jaxdino.train.task import Metrics, Part, State, Worst
from jaxdino.train.tasks.ending import ended
from jaxdino.train.tasks.supervised import Supervised, in_split

if TYPE_CHECKING:
    from jaxdino.train.session import Session


class Classification(Supervised):
    """Classify images: one class each."""

    columns: ClassVar = ("val/accuracy", "val/balanced_accuracy")

    def __init__(self, config: Any, mesh: Mesh, tell: Callable[[str], None], *how: Any):
        super().__init__(config, mesh, tell, *how)
        train = self.source.split("train")
        self.counts = np.bincount(train.labels, minlength=len(self.source.class_names))

    def skeleton(self, stage: Stage) -> Skeleton:
        """Return the backbone and the head, with the stage's adapters; say how often classes are drawn and weighed."""
        for line in self._balance_lines(stage):
            self.tell(f"stage {stage.name!r}: {line}")
        return super().skeleton(stage)

    def _balance_lines(self, stage: Stage) -> list[str]:
        settings, names, lines = self.settings(stage), self.source.class_names, []
        if stage.sampling != UNIFORM:
            lines.append(f"sampling={stage.sampling}: {drawn_words(self.counts, names, stage.sampling)}")
        if settings.class_weights is not None:
            lines.append(f"class_weights: {class_weights.described(self.weights(stage), names)}")
        return lines

    def settings(self, stage: Stage) -> Classifying:
        """Return the stage's objective settings."""
        return settings_of(self.config, stage.objective, f"stage {stage.name!r}")

    def weights(self, stage: Stage) -> class_weights.Weights:
        """Return the class weights of a stage: of all classes, or of each one."""
        settings, shares = self.settings(stage), class_shares(self.counts, stage.sampling)
        named = {
            BALANCED: lambda: class_weights.balanced(shares),
            EFFECTIVE: lambda: class_weights.effective(shares * self.counts.sum(), settings.effective_beta),
        }
        names = self.source.class_names
        return class_weights.resolved("objective.class_weights", settings.class_weights, names, named)

    def tokens(self, stage: Stage, sizes: Sizes) -> int:
        """Return the tokens of an image at the largest size."""
        return slicing.tokens(self.spec, [sizes.largest])

    def targets(self, batch: step.Batch) -> tuple[str, jax.Array]:
        """Return the labels, one-hot."""
        return "label", jax.nn.one_hot(batch["label"], self.card.num_classes)

    def objective(self, part: Part, current: State) -> Classify:
        """Return cross entropy, with the stage's label smoothing, class weights, focus and logit adjustment."""
        settings, weights = self.settings(part.stage), self.weights(part.stage)
        shares = class_shares(np.maximum(self.counts, 1), part.stage.sampling)
        offset = settings.logit_adjustment * np.log(shares)
        return Classify(
            part.stage.label_smoothing,
            weights if isinstance(weights, tuple) else None,
            settings.focal_gamma,
            tuple(offset.tolist()) if settings.logit_adjustment else None,
        )

    def augment(self, part: Part, key: jax.Array, batch: step.Batch) -> step.Batch:
        """Augment a batch on the device, and weigh its images by their classes."""
        return self.objective(part, {}).weighed(super().augment(part, key, batch))

    def evaluator(self) -> ClassificationEvaluator:
        """Return accuracy and related metrics."""
        return ClassificationEvaluator(self.source.class_names)

    def references(self, session: "Session") -> dict[str, Metrics]:
        """Return the metrics of always predicting the most frequent class, and of the initial weights if measured."""
        common = {name: value for name, value in self._most_frequent(session, "val").items() if name != "class"}
        return {"most frequent class": in_split("val", common)} | super().references(session)

    def _most_frequent(self, session: "Session", split: str) -> dict[str, Any]:
        """Return the class and its metrics on the images of a split that could be read, as the model's metrics are."""
        whole, bad = self.source.split(split), session.progress.bad.get(split, {})
        labels = np.asarray(whole.labels)
        if bad:
            labels = labels[[row for row in range(len(whole)) if whole.record_name(row) not in bad]]
        return classification.most_frequent(self.source.split("train").labels, labels, self.source.class_names)

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
            self._write_mistakes(session, mistakes(*answers, evaluated.indices))
        common = self._most_frequent(session, split)
        alone = ", ".join(f"{name.replace('_', ' ')} {common[name]:.4f}" for name in ("accuracy", "balanced_accuracy"))
        more = [
            f"{split}, always the most frequent class ({common['class']}): {alone}",
            *results.class_lines(split, classes),
        ]
        return ended(session, split, found, (*found,), more, {"most_frequent_class": common, "per_class": classes})

    def _write_mistakes(self, session: "Session", found: list[Mistake]) -> None:
        """Write the mistakes of the tested split, and keep the worst for the run's page."""
        split, names = self.source.split(self.tested), self.source.class_names
        images = [split.record_name(one.index) for one in found]
        write_mistakes(session.folder / "mistakes.csv", found, images, names)
        self.worst = [
            Worst(name, names[one.label], names[one.predicted], one.probability, split.records[one.index])
            for name, one in zip(images[: run_page.WORST], found, strict=False)
        ]


TASK = Classification
