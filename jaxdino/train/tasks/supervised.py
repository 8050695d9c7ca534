"""What tasks with labels share: a backbone with a head, augmented views, validation with an evaluator."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from convert.card import Card
from jaxdino.core.errors import UserError
from jaxdino.core.image_sizes import Sizes
from jaxdino.core.params import Flat, Skeleton, bind
from jaxdino.data import photometric, pipeline
from jaxdino.data.fields import LABEL, Field
from jaxdino.data.mixing import augment
from jaxdino.data.presets import get_preset
from jaxdino.data.record import Source, Split
from jaxdino.data.sampling import UNIFORM
from jaxdino.evals.augmentation_pictures import Tile, denormalised
from jaxdino.evals.evaluator import Evaluator
from jaxdino.evals.passes import outputs
from jaxdino.models.heads import HeadConfig
from jaxdino.models.spec import ModelSpec
from jaxdino.objectives.objective import Objective
from jaxdino.stage import Stage
from jaxdino.strategy import Plan
from jaxdino.train import adapters, data, pixels, plots, precision, sizing, state, step, weights
from jaxdino.train.placing import on_mesh
from jaxdino.train.task import Metrics, Part, State, Worst

if TYPE_CHECKING:
    from jaxdino.train.session import Session


class Supervised:
    """A model with a head, trained on images with labels. See `jaxdino.train.task.Task`.

    A task of this kind says what it reads (`field`, `fields`), what it learns (`targets`, `objective`), how it is
    evaluated (`evaluator`) and what it reports at the end (`finish`).

    Attributes:
      field: the field of the data source. fields: how it is read. plots: the pictures of a run.

    Raises:
      UserError: for data without this field or without a validation split, and weights that do not fit.
    """

    field: ClassVar[str] = "label"
    fields: tuple[Field, ...] = (LABEL,)
    arrays: ClassVar[tuple[str, ...]] = ("image", "label", "weight")
    columns: ClassVar[tuple[str, ...]]
    hands_on: ClassVar[str] = "best"
    worst: Sequence[Worst] = ()
    shown_times: ClassVar[int] = 6
    mask_names: Sequence[str] = ()
    plots: ClassVar[Any] = plots.supervised("val/accuracy", "Validation accuracy")

    def __init__(self, config: Any, mesh: Mesh, tell: Callable[[str], None], check: data.Check = data.unchecked):
        self.config, self.mesh, self.tell = config, mesh, tell
        cfg = data.config_of(config)
        self.source = self.listed(cfg)
        tell(data.summary(self.source))
        check("data", self.source)
        head = self.head(len(self.outputs))
        card, self.flat = weights.start(config, self.outputs, tell, head, on_mesh(config, mesh))
        self.card = pixels.settled(cfg, self.source, card, tell)
        self.spec = self.card.spec
        self.new_head = weights.has_new_head(config, self.card, self.flat)
        self.monitors = tuple(f"val/{name}" for name in self.evaluator().names)

    def listed(self, cfg: data.DataConfig) -> Source:
        """Return the data. Raises UserError for data without this field or without a validation split."""
        return data.validated(cfg, self.field)

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of what the head gives scores or values of."""
        return self.source.class_names

    def head(self, classes: int) -> HeadConfig | Callable[[ModelSpec], HeadConfig] | None:
        """Return the head to train, or a function that returns it for a model.

        None is the linear classification head, pooled as the settings or weights say.
        """
        return None

    def targets(self, batch: step.Batch) -> tuple[str, jax.Array]:
        """Return the entry of the batch that is learned, and its values (B, classes), which mixing may soften."""
        raise NotImplementedError

    def objective(self, part: Part, current: State) -> Objective:
        """Return the stage's objective."""
        raise NotImplementedError

    def evaluator(self) -> Evaluator:
        """Return a new evaluator, for one pass over a split."""
        raise NotImplementedError

    def skeleton(self, stage: Stage) -> Skeleton:
        """Return the backbone and the head, with the stage's adapters."""
        if stage.sampling != UNIFORM and self.field != "label":
            raise UserError(
                f"stage {stage.name!r}: sampling={stage.sampling} needs images with one class each: use "
                f"sampling={UNIFORM}"
            )
        if idle := pixels.without_effect(get_preset(stage.augment), self.spec.config.in_channels):
            self.tell(f"stage {stage.name!r}: {idle}")
        return adapters.adapted(self.bare(stage), self.spec, stage)

    def bare(self, stage: Stage) -> Skeleton:
        """Return the stage's model without adapters."""
        how = precision.how(self.config)
        return self.spec.skeleton(head=self.card.head, drop_path=stage.drop_path, **how)

    def sizes(self, stage: Stage) -> Sizes:
        """Return the stage's image sizes, or the model's own. Raises UserError if the model does not support them."""
        skeleton, sizes = self.bare(stage), sizing.sizes_of(stage, self.spec)
        for size in (*sizes.trained(), *(size for _, size in sizes.schedule)):
            images = jax.ShapeDtypeStruct((1, *size, self.spec.config.in_channels), jnp.float32)
            jax.eval_shape(lambda flat, x: bind(skeleton, flat)(x).logits, skeleton.shapes, images)
        shapes = self.shapes() if sizes.ratios else None
        sizes = sizes if shapes is None else sizing.of_data(sizes, shapes)
        for line in sizing.lines(stage, sizes, self.source.split("train"), shapes):
            self.tell(f"stage {stage.name!r}: {line}")
        return sizes

    def tokens(self, stage: Stage, sizes: Sizes) -> int:
        """Return 0: losses that count objects or pixels are not sums over images."""
        return 0

    @cached_property
    def shapes(self) -> sizing.Shapes:
        """Width and height of the training images."""
        return sizing.Shapes(self.source.split("train"), self.config.data.max_pixels, self.tell)

    def averaged(self, plans: list[Plan], stage: Stage) -> tuple[str, ...]:
        """Return the paths that the stage trains, if it keeps an average."""
        return plans[-1].trainable if stage.ema_decay else ()

    def train_step(self, part: Part, current: State) -> Callable:
        """Make the step: augmentation, objective, update."""
        return step.make_train_step(
            part.skeleton,
            self.objective(part, current),
            part.tx,
            partial(self.augment, part),
            accumulate=part.stage.accumulate,
            ema_decay=part.stage.ema_decay,
            scale_loss=self.config.precision == "float16",
        )

    def augment(self, part: Part, key: jax.Array, batch: step.Batch) -> step.Batch:
        """Augment a batch of a stage on the device: colours, and mixing of images and targets."""
        name, soft = self.targets(batch)
        how = get_preset(part.stage.augment), self.spec.preprocess.mean, self.spec.preprocess.std
        image, soft = augment(key, batch["image"], soft, batch["weight"], *how, **photometric.given(batch, "image"))
        return batch | {"image": image, name: soft}

    def train_batches(self, part: Part, split: Split | None = None) -> pipeline.TrainIter:
        """Return batches of the training split; of another one whole batches, in this process alone."""
        stage = part.stage
        how = dict(seed=part.seed, preset=stage.augment, sampling=stage.sampling)
        if split is not None:  # of one size
            return self.batches(partial(pipeline.make_train_iter, split, **how), part, alone=True)
        varied = dict(sizes=part.sizes) if part.sizes.varied else {}
        varied |= dict(shapes=self.shapes()) if part.sizes.ratios else {}
        return self.batches(partial(pipeline.make_train_iter, self.source.split("train"), **how, **varied), part)

    def batches(self, make: Callable[..., Any], part: Part, alone: bool = False) -> Any:
        """Make this process's batches, with the task's fields and the model's channels and preprocessing."""
        return data.batches(partial(make, fields=self.fields), self.config, part, self.spec, alone)

    def augment_words(self, stage: Stage) -> str:
        """Return the stage's preset."""
        return f"augment={stage.augment}"

    def tiles(self, augmented: step.Batch, place: int) -> list[Tile]:
        """Return the image of one entry, with its classes."""
        how, (caption, mask) = self.spec.preprocess, self.marks(augmented, place)
        return [Tile(denormalised(augmented["image"][place], how.mean, how.std), caption, mask)]

    def marks(self, augmented: step.Batch, place: int) -> tuple[str, np.ndarray | None]:
        """Return what the picture of augmentations shows of an entry's labels: a line, and a mask over the image."""
        shares = dict(zip(self.source.class_names, augmented[self.field][place], strict=True))
        most = sorted((name for name in shares if shares[name] >= LEAST), key=shares.__getitem__, reverse=True)[:2]
        return ", ".join(name if shares[name] > 1 - LEAST else f"{name} {shares[name]:.0%}" for name in most), None

    def more(self, flat: Flat) -> State:
        """Nothing."""
        return {}

    def carried(self, before: Part, ended: State) -> tuple[Flat, Flat, State]:
        """Return the best weights of the previous stage."""
        return adapters.merged(state.whole(ended["best"], ended["frozen"]), before), {}, {}

    def put_on(self, part: Part, flat: Flat, before: Part | None) -> Flat:
        """Add the stage's adapters."""
        return adapters.put_on(flat, self.bare(part.stage), self.spec, part)

    def baseline(self, session: "Session") -> Metrics:
        """Return {}: nothing is measured here; see `given`."""
        return {}

    def references(self, session: "Session") -> dict[str, Metrics]:
        """Return the metrics of the initial weights, if they were measured."""
        return {"start": session.progress.baseline} if session.progress.baseline else {}

    def given(self, session: "Session", part: Part, measured: Callable[[], Metrics]) -> Metrics:
        """Return the measured metrics, or {} if the head is new."""
        if part.index:
            return measured()
        session.progress.baseline = {} if self.new_head else measured()
        return session.progress.baseline

    def measure(self, session: "Session", part: Part) -> Callable[[State], Metrics]:
        """Return a function that computes the metrics of the validation split."""
        evaluate = self.evaluation(session, part, part.skeleton)

        def measured(current: State) -> Metrics:
            flat = state.whole(state.evaluated(current["moving"]), current["frozen"])
            return in_split("val", evaluate("val", flat).compute())

        return measured

    def evaluation(self, session: "Session", part: Part, skeleton: Skeleton) -> Callable[[str, Flat], Any]:
        """Return a function (split, leaves) -> the evaluator after a pass, over all devices and processes.

        Raises (when called):
          Stopped: if the run is asked to stop during the pass.
          UserError: if no image of the split can be read, or the model outputs nan or infinity.
        """
        how = self.spec.preprocess
        normalize = partial(photometric.normalize, mean=how.mean, std=how.std)
        eval_step = step.compile_eval_step(skeleton, normalize, self.mesh)

        def evaluate(split: str, flat: Flat) -> Evaluator:
            batches = self.batches(partial(pipeline.make_eval_iter, self.source.split(split)), part)
            found, finite = self.evaluator(), True
            each = ({**batch, "index": batch["index"].astype(np.int32)} for batch in session.each(split, batches))
            for out in outputs(partial(eval_step, flat), each, (*self.arrays, "index"), self.mesh):
                counted = out.pop("weight") > 0
                rows = {name: values[counted] for name, values in out.items()}
                finite &= bool(np.isfinite(rows["logits"]).all())
                found.update(rows)
            if not finite:
                raise UserError(self.not_finite(part, split))
            return found

        return evaluate

    def not_finite(self, part: Part, split: str) -> str:
        """Return the error of a model that outputs nan or infinity."""
        return (
            f"the model of stage {part.stage.name!r} outputs nan or infinity for the {split} images: lower its "
            "learning rates, check the weights it started from for nan, and start in a new --workdir"
        )

    def best_evaluated(self, session: "Session", split: str) -> Any:
        """Return the evaluator of a split after a pass of the saved best model."""
        part = session.setup.parts[session.progress.best_model["stage"]]
        return self.evaluation(session, part, self.bare(part.stage))(split, self.best(session))

    def best(self, session: "Session") -> Flat:
        """Return the leaves of the saved best model, on the devices."""
        return weights.load(session.folder / "best", session.setup)

    @property
    def tested(self) -> str:
        """The split on which the best model is evaluated at the end: "test", or "val" without one."""
        return "test" if "test" in self.source.splits else "val"

    def reading(self, measured: Mapping[str, jax.Array]) -> Metrics:
        """Return all measures."""
        return {name: float(value) for name, value in measured.items()}

    def judge(self, session: "Session", reading: Metrics) -> None:
        """Do nothing: only the loss is checked, by the loop."""

    def save_best(self, folder: Path, part: Part, flat: Mapping[str, np.ndarray], metrics: Metrics) -> None:
        """Write the model to best/."""
        weights.save(folder / "best", self.best_card(metrics), part.image_size, adapters.merged(flat, part))

    def best_card(self, metrics: Metrics) -> Card:
        """Return the card of the saved model, given its validation metrics."""
        return self.card

    def end(self, session: "Session", part: Part, current: State) -> None:
        """Nothing."""

    def finish(self, session: "Session") -> tuple[dict[str, Any], list[str]]:
        """Evaluate the saved best model; return (entries for the summary, lines to print)."""
        raise NotImplementedError

    def pictures(self, session: "Session") -> None:
        """Plot loss, learning rates and validation metrics."""
        plots.draw(session.folder.records(), session.folder.folder, self.plots)


def in_split(split: str, found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metrics under their names in a split: {"val/accuracy": ...}."""
    return {f"{split}/{name}": value for name, value in found.items()}


LEAST = 0.01  # share of a class that a picture names
OPTIMISTIC = "the data has no test split: the model was selected on these images, so this is optimistic"
