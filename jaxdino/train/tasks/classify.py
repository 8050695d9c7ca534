"""The classification task: labelled images, a linear head, accuracy and related metrics."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxdino.core import sharding
from jaxdino.core.errors import UserError
from jaxdino.core.params import Flat, Skeleton, bind
from jaxdino.data import device_aug, pipeline
from jaxdino.data.transforms import as_size, get_preset
from jaxdino.evals.passes import outputs
from jaxdino.objectives.classify import Classify
from jaxdino.stage import Stage
from jaxdino.strategy import Plan
from jaxdino.train import adapters, data, metrics, pixels, plots, precision, results, state, step, weights
from jaxdino.train.task import Metrics, Part, State

if TYPE_CHECKING:
    from jaxdino.train.session import Session

MONITORS = ("val/accuracy", "val/balanced_accuracy", "val/macro_f1", "val/loss", "val/top5_accuracy")


class Classification:
    """Classify images. See `jaxdino.train.task.Task`.

    Raises:
      UserError: for data without classes or without a validation split, and weights that do not fit.
    """

    arrays: ClassVar = ("image", "label", "weight")
    shown: ClassVar = "val/accuracy"
    columns: ClassVar = ("val/accuracy", "val/balanced_accuracy")
    hands_on: ClassVar = "best"

    def __init__(self, config: Any, mesh: Mesh, tell: Callable[[str], None]):
        self.config, self.mesh, self.tell = config, mesh, tell
        self.source = data.labelled(data.config_of(config))
        tell(data.summary(self.source))
        card, self.flat = weights.start(config, self.source.class_names, tell)
        self.card = pixels.settled(data.config_of(config), self.source, card, tell)
        self.spec = self.card.spec
        self.new_head = weights.has_new_head(config, self.card, self.flat)
        self.monitors = MONITORS if self.card.num_classes > 5 else MONITORS[:-1]

    def skeleton(self, stage: Stage) -> Skeleton:
        """Return the backbone and the head, with the stage's adapters."""
        if idle := pixels.without_effect(get_preset(stage.augment), self.spec.config.in_channels):
            self.tell(f"stage {stage.name!r}: {idle}")
        return adapters.adapted(self._bare(stage), self.spec, stage)

    def _bare(self, stage: Stage) -> Skeleton:
        how = precision.how(self.config)
        return self.spec.skeleton(self.card.num_classes, pool=self.card.pool, drop_path=stage.drop_path, **how)

    def image_size(self, stage: Stage) -> tuple[int, int]:
        """Return the stage's image size, or the model's own."""
        skeleton, size = self._bare(stage), as_size(stage.image_size or self.spec.preprocess.size)
        shapes = skeleton.shapes
        images = jax.ShapeDtypeStruct((1, *size, self.spec.config.in_channels), jnp.float32)
        jax.eval_shape(lambda flat, x: bind(skeleton, flat)(x).logits, shapes, images)
        return size

    def averaged(self, plans: list[Plan], stage: Stage) -> tuple[str, ...]:
        """Return the paths that the stage trains, if it keeps an average."""
        return plans[-1].trainable if stage.ema_decay else ()

    def train_step(self, part: Part, current: State) -> Callable:
        """Make the step: augmentation, cross entropy, update."""
        mean, std = self.spec.preprocess.mean, self.spec.preprocess.std
        preset = get_preset(part.stage.augment)

        def augment(key: jax.Array, batch: step.Batch) -> step.Batch:
            given = (batch[name] for name in self.arrays)
            image, label = device_aug.augment(key, *given, preset, mean, std, self.card.num_classes)
            return batch | {"image": image, "label": label}

        return step.make_train_step(
            part.skeleton,
            Classify(part.stage.label_smoothing),
            part.tx,
            augment,
            accumulate=part.stage.accumulate,
            ema_decay=part.stage.ema_decay,
            scale_loss=self.config.precision == "float16",
        )

    def train_batches(self, part: Part) -> pipeline.TrainIter:
        """Return batches of the training split."""
        make = partial(
            pipeline.make_train_iter,
            self.source.split("train"),
            seed=part.seed,
            preset=part.stage.augment,
            **self._channels,
        )
        return data.batches(make, self.config, part, self.spec.preprocess)

    def more(self, flat: Flat) -> State:
        """Nothing."""
        return {}

    def carried(self, before: Part, ended: State) -> tuple[Flat, Flat, State]:
        """Return the best weights of the previous stage."""
        return adapters.merged(state.whole(ended["best"], ended["frozen"]), before), {}, {}

    def put_on(self, part: Part, flat: Flat, before: Part | None) -> Flat:
        """Add the stage's adapters."""
        return adapters.put_on(flat, self._bare(part.stage), self.spec, part)

    def baseline(self, session: "Session") -> Metrics:
        """Return {}: nothing is measured here; see `given`."""
        return {}

    def references(self, session: "Session") -> dict[str, Metrics]:
        """Return the metrics of always predicting the most frequent class, and of the initial weights if measured."""
        given = session.progress.baseline
        common = {f"val/{name}": value for name, value in self._most_frequent("val").items() if name != "class"}
        return {"most frequent class": common} | ({"start": given} if given else {})

    def _most_frequent(self, split: str) -> dict[str, Any]:
        train, other = self.source.split("train").labels, self.source.split(split).labels
        return metrics.most_frequent(train, other, self.source.class_names)

    def given(self, session: "Session", part: Part, measured: Callable[[], Metrics]) -> Metrics:
        """Return the measured metrics, or {} if the head is new."""
        if part.index:
            return measured()
        session.progress.baseline = {} if self.new_head else measured()
        return session.progress.baseline

    def measure(self, session: "Session", part: Part) -> Callable[[State], Metrics]:
        """Return a function that computes the metrics of the validation split."""
        eval_step = self._eval_step(part.skeleton)

        def measured(current: State) -> Metrics:
            flat = state.whole(state.evaluated(current["moving"]), current["frozen"])
            return self._evaluate(session, part, "val", eval_step, flat)

        return measured

    @property
    def _channels(self) -> dict[str, int]:
        return {"channels": self.spec.config.in_channels}

    def _eval_step(self, skeleton: Skeleton) -> Callable:
        preprocess = self.spec.preprocess
        normalize = partial(device_aug.normalize, mean=preprocess.mean, std=preprocess.std)
        return step.compile_eval_step(skeleton, normalize, self.mesh)

    def _evaluate(self, session: "Session", part: Part, split: str, eval_step: Callable, flat: Flat) -> Metrics:
        """Compute the metrics of a whole split, over all devices and processes: {"val/accuracy": ...}."""
        found = metrics.classification(*self._answers(session, part, split, eval_step, flat))
        return {f"{split}/{name}": value for name, value in found.items()}

    def _answers(
        self, session: "Session", part: Part, split: str, eval_step: Callable, flat: Flat
    ) -> tuple[np.ndarray, np.ndarray]:
        """Compute logits (N, C) and collect labels (N,) of all readable images of a split.

        Raises:
          Stopped: if the run is asked to stop during the pass.
          UserError: if no image of the split can be read, or the model outputs nan or infinity.
        """
        make = partial(pipeline.make_eval_iter, self.source.split(split), **self._channels)
        batches = session.each(split, data.batches(make, self.config, part, self.spec.preprocess))
        logits, labels = [], []
        for out in outputs(partial(eval_step, flat), batches, self.arrays, self.mesh):
            counted = out["weight"] > 0
            logits.append(out["logits"][counted])
            labels.append(out["label"][counted])
        if not all(np.isfinite(each).all() for each in logits):
            raise UserError(
                f"the model of stage {part.stage.name!r} outputs nan or infinity for the {split} images: lower its "
                "learning rates, check the weights it started from for nan, and start in a new --workdir"
            )
        return np.concatenate(logits), np.concatenate(labels)

    def reading(self, measured: Mapping[str, jax.Array]) -> Metrics:
        """Return all measures."""
        return {name: float(value) for name, value in measured.items()}

    def judge(self, session: "Session", reading: Metrics) -> None:
        """Do nothing: only the loss is checked, by the loop."""

    def save_best(self, folder: Path, part: Part, flat: Mapping[str, np.ndarray]) -> None:
        """Write the model to best/."""
        weights.save(folder / "best", self.card, part.image_size, adapters.merged(flat, part))

    def end(self, session: "Session", part: Part, current: State) -> None:
        """Nothing."""

    def finish(self, session: "Session") -> tuple[dict[str, Any], list[str]]:
        """Evaluate the saved best model on the test split, or on the validation split if there is no test split.

        The metrics of each class are included; the confusion matrix is written to a separate file.
        """
        split = "test" if "test" in self.source.splits else "val"
        part = session.setup.parts[session.progress.best_model["stage"]]
        flat = weights.load(session.folder / "best")
        eval_step = self._eval_step(self._bare(part.stage))
        answers = self._answers(session, part, split, eval_step, sharding.put(flat, session.where(flat)))
        names = self.source.class_names
        found, classes = metrics.classification(*answers), metrics.per_class(*answers, names)
        if session.chief:
            metrics.write_confusion(session.folder / "confusion.csv", *answers, names)
        common = self._most_frequent(split)
        alone = ", ".join(f"{name.replace('_', ' ')} {common[name]:.4f}" for name in ("accuracy", "balanced_accuracy"))
        values = ", ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in found.items())
        lines = [
            f"{split} ({results.model_words(session.delivered)}): {values}",
            f"{split}, always the most frequent class ({common['class']}): {alone}",
            *results.class_lines(split, classes),
        ]
        if split == "val":
            lines.append("the data has no test split: the model was selected on these images, so this is optimistic")
        summary = found | {"most_frequent_class": common, "per_class": classes}
        return {f"{split}/{name}": value for name, value in summary.items()}, lines

    def pictures(self, session: "Session") -> None:
        """Plot loss, learning rates and accuracy."""
        plots.draw(session.folder.records(), session.folder.folder, plots.CLASSIFICATION)
