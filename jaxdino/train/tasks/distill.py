"""The self-distillation task: unlabelled images, a student and its teacher; k-NN accuracy if there are labels."""

import dataclasses
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from convert.training_checkpoint import CENTRE_SHAPES, TrainingCheckpoint, parts_of, save_training
from jaxdino import api, optim
from jaxdino.core import params, processes, sharding, size_text
from jaxdino.core.errors import UserError
from jaxdino.core.image_sizes import Sizes
from jaxdino.core.params import Flat, Skeleton
from jaxdino.data import pipeline, recipe
from jaxdino.data.config import OF_SIZES
from jaxdino.data.crops import as_size
from jaxdino.data.fields import HiddenPatches
from jaxdino.data.masking import Masking
from jaxdino.data.recipe import KINDS
from jaxdino.data.record import Split
from jaxdino.data.sources import load_source
from jaxdino.evals import report
from jaxdino.evals.augmentation_pictures import Tile, view_tiles
from jaxdino.models.initial import ShapesOnly
from jaxdino.objectives.collapse import feature_rank, feature_std
from jaxdino.objectives.distill import HEADS, SelfDistillation, with_heads
from jaxdino.objectives.distill_settings import Distill, Projection
from jaxdino.stage import Stage, stages
from jaxdino.strategy import Plan
from jaxdino.train import adapters, data, pixels, plots, precision, slicing, state, step, weights
from jaxdino.train.placing import drawn, on_mesh
from jaxdino.train.task import Metrics, Part, State
from jaxdino.train.tasks import alarms, distill_objective
from jaxdino.train.tasks.retrieval import KNN, Retrieval

if TYPE_CHECKING:
    from jaxdino.train.session import Session

BACKBONE = "backbone."


class Distillation:
    """Train by self-distillation. See `jaxdino.train.task.Task`.

    Raises:
      UserError: for invalid views, projection or objective, or weights that do not fit.
    """

    arrays: ClassVar = ("global", "local", "mask", "weight")
    columns: ClassVar = (KNN,)
    hands_on: ClassVar = "latest"
    worst: ClassVar = ()
    shown_times: ClassVar = 1
    mask_names: ClassVar = ()

    def __init__(self, config: Any, mesh: Mesh, tell: Callable[[str], None], check: data.Check = data.unchecked):
        self.config, self.mesh, self.tell = config, mesh, tell
        self.views = recipe.check(config.data.views)
        self.source = load_source(data.config_of(config))
        tell(data.summary(self.source))
        check("data", self.source)
        place = on_mesh(config, mesh)
        card, backbone = weights.backbone(config, tell, place)
        self.card = pixels.settled(data.config_of(config), self.source, card, tell)
        channels = self.card.spec.config.in_channels
        for idle in sorted({pixels.without_effect(view, channels) for view in self.views} - {""}):
            tell(f"data.views: {idle}")
        self.spec = with_heads(self.card.spec, Projection.of(config.projection))
        fresh = drawn(lambda rngs: self.spec.build(rngs=rngs), config.seed, place)
        self.flat = {path: backbone.get(path, leaf) for path, leaf in fresh.items()}
        size = as_size(self.views_of("global")[0].size)
        self.retrieval = Retrieval.of(config, self.source, self.card.spec, self.backbone, size, mesh, tell, check)
        self.monitors = self.retrieval.names if self.retrieval else ()
        alarms.check(config.alarms)

    def views_of(self, kind: str) -> tuple[recipe.View, ...]:
        """Return a view per crop."""
        return recipe.expanded(self.views, kind)

    def settings(self, stage: Stage) -> Distill:
        """Return the stage's objective settings; see `distill_objective.settings`."""
        return distill_objective.settings(self.config, stage, self.card.spec)

    def skeleton(self, stage: Stage) -> Skeleton:
        """Return the backbone and the projection heads, with the stage's adapters."""
        distill_objective.check_stage(stage, self.settings(stage), self.tell)
        return adapters.adapted(self._bare(stage), self.spec, stage)

    def _bare(self, stage: Stage) -> Skeleton:
        return self.spec.skeleton(drop_path=stage.drop_path, **precision.how(self.config))

    def sizes(self, stage: Stage) -> Sizes:
        """Return the size of the global views. Raises UserError if the model does not support a view's size."""
        for name in OF_SIZES:
            if getattr(stage, name):
                raise UserError(
                    f"stage {stage.name!r}: {name} is not read in self-distillation: data.views gives the sizes of the "
                    "views for the whole run, as --config.data.views[0].size=224. To train at another size afterwards, "
                    "begin a new run with other views from this one: --config.model.weights=WORKDIR"
                )
        places = {f"data.views[{index}].size": view.size for index, view in enumerate(self.views)}
        if self.retrieval and self.config.evaluation.image_size:
            places["evaluation.image_size"] = self.retrieval.size
        distill_objective.check_sizes(places, self.card.spec, self.backbone)
        return Sizes.one(as_size(self.views_of("global")[0].size))

    def tokens(self, stage: Stage, sizes: Sizes) -> int:
        """Return the tokens of all views of an image; 0 if the heads normalise over the batch."""
        if self.config.projection.use_bn:
            return 0
        return slicing.tokens(self.card.spec, [as_size(view.size) for view in self.views for _ in range(view.count)])

    @cached_property
    def backbone(self) -> Skeleton:
        """The skeleton of the backbone alone."""
        how = precision.how(self.config)
        return params.abstract(lambda: self.card.spec.config.build(rngs=ShapesOnly(), drop_path=0.0, **how))

    def averaged(self, plans: list[Plan], stage: Stage) -> tuple[str, ...]:
        """Return all paths trained so far; the other parameters are equal in teacher and student."""
        trained = {path for plan in plans for path in plan.trainable}
        trained |= adapters.kernels(trained)
        return tuple(path for path in plans[-1].leaves if path in trained)

    def objective(self, part: Part) -> SelfDistillation:
        """Return the stage's objective."""
        settings = self.settings(part.stage)
        warmup = settings.warmup_teacher_temperature_epochs * part.steps_per_epoch
        masking, capacity, groups = self.masking(part.stage), 0, sharding.batch_shards(self.mesh)
        if masking:
            batch, size, count = part.stage.batch_size, part.image_size, len(self.views_of("global"))
            capacity = masking.capacity(batch, masking.grid(size), count, groups=groups, slices=part.stage.accumulate)
        return SelfDistillation(
            settings,
            part.skeleton,
            self.backbone,
            temperature=optim.linear_between(settings.warmup_teacher_temperature, settings.teacher_temperature, warmup),
            momentum=optim.cosine_between(settings.momentum, settings.final_momentum, part.total_steps),
            capacity=capacity,
            groups=groups,
        )

    def masking(self, stage: Stage) -> Masking | None:
        """Return the iBOT masking: which patches are hidden from the student."""
        return distill_objective.masking(self.settings(stage), self.card.spec)

    def train_step(self, part: Part, current: State) -> Callable:
        """Make the step: photometric augmentation, teacher outputs, student losses, update, average."""
        objective = self.objective(part)
        return step.make_train_step(
            part.skeleton,
            objective,
            part.tx,
            partial(self.augment, part),
            accumulate=part.stage.accumulate,
            ema_decay=objective.momentum,
            scale_loss=self.config.precision == "float16",
        )

    def augment(self, part: Part, key: jax.Array, batch: step.Batch) -> step.Batch:
        """Augment the colours of every view of a batch, by its recipe."""
        return distill_objective.augmented(key, batch, self.views_of, self.card.spec.preprocess)

    def augment_words(self, stage: Stage) -> str:
        """Return what augments."""
        return "data.views"

    def tiles(self, augmented: step.Batch, place: int) -> list[Tile]:
        """Return the views of an image."""
        how, views = self.card.spec.preprocess, {kind: augmented[kind][place] for kind in KINDS if kind in augmented}
        return view_tiles(views, how.mean, how.std)

    def train_batches(self, part: Part, split: Split | None = None) -> pipeline.TrainIter:
        """Return crops of the images, with the hidden patches if the stage masks any; see `Task.train_batches`."""
        masking, fields = self.masking(part.stage), ()
        if masking:
            grid = masking.grid(part.image_size)
            counts = masking.counts(part.stage.batch_size, grid, len(self.views_of("global")))
            fields = (HiddenPatches(masking, counts, grid),)
        chosen, how = self.source.split("train") if split is None else split, dict(seed=part.seed, views=self.views)
        make = partial(pipeline.make_train_iter, chosen, fields=fields, **how)
        return data.batches(make, self.config, part, self.spec, alone=split is not None)

    def more(self, flat: Flat) -> State:
        """Return the teacher's buffers and centres, and the reference weights if a stage uses them."""
        skeleton = self.spec.skeleton()
        settings = [self.settings(stage) for stage in stages(self.config)]
        heads = HEADS if any(one.ibot for one in settings) else HEADS[:1]  # one centre each, even for a shared head
        anchored = any(one.anchored for one in settings)
        return {
            "teacher": {
                "buffers": {path: flat[path] for path in skeleton.entries if skeleton.entries[path].kind != "param"},
                "centres": {head: jnp.zeros((self.config.projection.out_dim,)) for head in heads},
                "reference": {path: leaf for path, leaf in backbone_of(flat).items() if path in self.backbone.entries}
                if anchored
                else {},
            }
        }

    def carried(self, before: Part, ended: State) -> tuple[Flat, Flat, State]:
        """Return the latest student and teacher, with their adapters merged."""
        moving, frozen = ended["moving"], ended["frozen"]
        student = adapters.merged(state.whole(moving, frozen), before)
        teacher = adapters.merged(frozen | moving["ema"] | moving["buffers"], before)
        return student, teacher, {"teacher": moving["teacher"]}

    def put_on(self, part: Part, flat: Flat, before: Part | None) -> Flat:
        """Add the stage's adapters."""
        return adapters.put_on(flat, self._bare(part.stage), self.spec, part)

    def baseline(self, session: "Session") -> Metrics:
        """Compute the k-NN accuracy of the initial weights and of raw pixels."""
        if not self.retrieval:
            return {}
        found = self.retrieval.measure(session, backbone_of(self.flat))
        pixels = self.retrieval.pixels(session)
        self.tell(f"k-NN accuracy: {found[KNN]:.4f} at the start, {pixels[KNN]:.4f} from raw pixels")
        self.judge(session, found)
        return {"start": found[KNN], "pixels": pixels[KNN]}

    def references(self, session: "Session") -> dict[str, Metrics]:
        """Return the k-NN accuracy of raw pixels and of the initial weights."""
        names = {"raw pixels": "pixels", "start": "start"}
        found = session.progress.baseline
        return {name: {KNN: found[key]} for name, key in names.items() if key in found}

    def given(self, session: "Session", part: Part, measured: Callable[[], Metrics]) -> Metrics:
        """Return the k-NN accuracy of the teacher that a stage starts with; for the first stage, the baseline."""
        if not part.index and part.stage.monitor == KNN:
            return {KNN: session.progress.baseline["start"]}
        return measured()

    def measure(self, session: "Session", part: Part) -> Callable[[State], Metrics]:
        """Return a function that computes the teacher's k-NN accuracy in the epochs when it is due."""

        def measured(current: State) -> Metrics:
            now = session.progress
            due = (now.epochs + 1) % self.config.evaluation.every_epochs == 0
            if not self.retrieval or not (due or now.stage_step in (0, part.total_steps)):
                return {}
            flat = adapters.merged(state.whole(state.evaluated(current["moving"]), current["frozen"]), part)
            return self.retrieval.measure(session, backbone_of(flat))

        return measured

    def reading(self, measured: Mapping[str, jax.Array]) -> Metrics:
        """Return the scalar measures, and the rank and spread of the teacher's features."""
        features = np.asarray(measured["features"], np.float32)[np.asarray(measured["counted"]) > 0]
        found = {name: float(value) for name, value in measured.items() if name not in ("features", "counted")}
        return found | {"feature_rank": feature_rank(features), "feature_std": feature_std(features)}

    def judge(self, session: "Session", reading: Metrics) -> None:
        """Raise Lost if the alarms detect a collapse."""
        if not self.config.alarms.stop:
            return
        of_run = {"trained_start": self.config.model.weights != weights.RANDOM}
        if self.retrieval:
            source = self.retrieval.source
            of_run |= {"knn_images": len(source.split("val")), "chance": 1 / len(source.class_names)}
        alarms.judge(session, reading, self.config.alarms, **of_run)

    def save_best(self, folder: Path, part: Part, flat: Mapping[str, np.ndarray], metrics: Metrics) -> None:
        """Write the teacher's backbone to best/, with the image size of the evaluation."""
        given = self.config.evaluation.image_size
        size = size_text.read_size(given, "evaluation.image_size") if given else part.image_size
        kept = {path: leaf for path, leaf in adapters.merged(flat, part).items() if path.startswith(BACKBONE)}
        weights.save(folder / "best", self.card, size, kept)

    def end(self, session: "Session", part: Part, current: State) -> None:
        """Write teacher, student, heads and centres to training/, see docs/training_checkpoints.md."""
        moving, frozen = current["moving"], current["frozen"]
        roles = {"teacher": state.whole(state.evaluated(moving), frozen), "student": state.whole(moving, frozen)}
        card = dataclasses.replace(self.card, spec=self.spec)
        networks = {role: parts_of(card, sharding.gather(adapters.merged(flat, part))) for role, flat in roles.items()}
        centres = sharding.gather(moving["teacher"]["centres"])
        shaped = {head: np.asarray(one).reshape(CENTRE_SHAPES[head]) for head, one in centres.items()}
        if session.chief:
            extras = {"epoch": session.progress.epochs, "iteration": session.progress.step}
            save_training(session.folder / "training", TrainingCheckpoint(networks, shaped, extras), overwrite=True)
        processes.wait_until_visible(session.folder / "training")

    def finish(self, session: "Session") -> tuple[dict[str, Any], list[str]]:
        """Draw the teacher's attention and features; evaluate k-NN and linear accuracy of teacher and student."""
        splits = self.source.splits
        session.stop.check()
        if session.chief:
            model = api.load(session.folder / "best")
            report.draw(model, splits.get("val", splits["train"]), session.folder.folder)
        session.stop.check()
        if not self.retrieval:
            return {}, [
                "the data has no labels: no accuracy was measured (config.evaluation.root sets a labelled folder)"
            ]
        return self.retrieval.finish(session)

    def pictures(self, session: "Session") -> None:
        """Plot loss, entropy, k-NN accuracy and learning rates."""
        plots.draw(session.folder.records(), session.folder.folder, plots.distillation(session.progress.baseline))


def backbone_of(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Return the backbone's leaves under its own paths."""
    return {path.removeprefix(BACKBONE): leaf for path, leaf in flat.items() if path.startswith(BACKBONE)}


TASK = Distillation
