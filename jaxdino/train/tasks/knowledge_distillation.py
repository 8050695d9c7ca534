"""Knowledge distillation: a student of any family learns from a frozen teacher, with labels or without."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from convert.assumptions import spelled, spelling
from convert.card import Card
from convert.load import open_pretrained
from jaxdino.core.errors import UserError
from jaxdino.core.image_sizes import Sizes, whole
from jaxdino.core.params import Flat, Skeleton, bind
from jaxdino.core.words import few
from jaxdino.data.presets import get_preset
from jaxdino.data.record import Source, Split
from jaxdino.data.sources import load_source
from jaxdino.models.heads.align import AlignHeadConfig
from jaxdino.objectives.knowledge import FEATURES, PATCHES, REFERENCE, KnowledgeDistillation, Teacher
from jaxdino.objectives.settings import Teaching
from jaxdino.stage import Stage, stages
from jaxdino.train import data, placing, precision
from jaxdino.train.placing import on_mesh
from jaxdino.train.task import Metrics, Part, State
from jaxdino.train.tasks.classify import Classification
from jaxdino.train.teacher_outputs import fields_of, with_outputs

if TYPE_CHECKING:
    from jaxdino.train.session import Session

UNLABELLED = "images"
"""The data source without labels."""
WORDS = {"model": "--config.objective.teacher"}


class Taught(Classification):
    """Classify images with what a teacher adds to the labels.

    Attributes:
      spec: the student with its layers to the teacher's width; `card` is the student that is saved, without them.

    Raises:
      UserError: without a teacher, for one of other classes or without the head that alpha needs, or of other images.
    """

    labelled = True

    def __init__(self, config: Any, mesh: Mesh, tell: Callable[[str], None], *how: Any):
        self.config = config
        each = [self.settings(stage) for stage in stages(config)]
        if not (of := each[0]).teacher:
            raise UserError(
                "objective.teacher is not set: give the teacher's weights, as --config.objective.teacher=runs/large"
            )
        self.of_teacher, self.reference = opened(of.teacher, on_mesh(config, mesh), tell)
        self.taught_classes, self.cached = any(one.alpha for one in each), of.cache
        super().__init__(config, mesh, tell, *how)
        self._check_teacher(each)
        if self.cached:
            self._check_cache(each)
            kept = fields_of(self.of_teacher, self.taught_classes, any(one.features for one in each))
            self.fields = (*self.fields, *kept)
            self.arrays = (*self.arrays, *(one.name for one in kept))
        width, place = self.of_teacher.spec.config.width, on_mesh(config, mesh)
        theirs, ours = (one.config.in_channels for one in (self.of_teacher.spec, self.spec))
        if theirs != ours:
            raise UserError(f"the teacher takes images of {theirs} channels, the student of {ours}")
        named = {FEATURES: any(one.features for one in each), PATCHES: any(one.patches for one in each)}
        heads = tuple((name, AlignHeadConfig(width)) for name, used in named.items() if used)
        self.spec = dataclasses.replace(self.spec, heads=heads)
        fresh = placing.drawn(lambda rngs: self.spec.build(head=self.card.head, rngs=rngs), config.seed, place)
        self.flat = {path: self.flat.get(path, leaf) for path, leaf in fresh.items()}
        tell(f"teacher: {self.of_teacher.spec.name} ({of.teacher}); student: {self.card.spec.name}")

    def _check_teacher(self, each: list[Teaching]) -> None:
        teacher, ours = self.of_teacher, self.source.class_names
        for stage, one in zip(stages(self.config), each, strict=True):
            where = f"stage {stage.name!r}"
            if not (self.labelled or one.alpha or one.features or one.patches):
                raise UserError(
                    f"{where}: without labels, objective.alpha, objective.features or objective.patches must be above 0"
                )
            if one.alpha and not teacher.num_classes:
                raise UserError(
                    f"{where}: the teacher has no classification head: set --config.objective.alpha=0, and "
                    "--config.objective.features=1.0"
                )
            if one.alpha and getattr(teacher.head.choice, "several", False):
                raise UserError(f"{where}: the teacher gives several labels: set --config.objective.alpha=0")
            if one.alpha and self.labelled and teacher.class_names != ours:
                raise UserError(
                    f"{where}: the teacher has other classes ({few(list(teacher.class_names), 3)}) than the data has "
                    f"({few(list(ours), 3)}): set --config.objective.alpha=0, and --config.objective.features=1.0"
                )

    def _check_cache(self, each: list[Teaching]) -> None:
        for stage, one in zip(stages(self.config), each, strict=True):
            where, view = f"objective.cache=True: stage {stage.name!r} has", get_preset(stage.augment)
            if one.patches:
                raise UserError(f"{where} objective.patches={one.patches}: patches move with each crop, set it to 0")
            if view.mixup or view.cutmix:
                raise UserError(
                    f"{where} augment={stage.augment}, which mixes images: choose one without mixup and cutmix"
                )

    def train_batches(self, part: Part, split: Split | None = None) -> Any:
        """Return batches of the training split, with the teacher's outputs if they are computed once."""
        train = self.source.split("train")
        if self.cached and split is None and self.fields[-1].name not in train.fields:
            how = precision.how(self.config) | {"remat": False}
            self.source = with_outputs(
                self.source,
                self.of_teacher,
                self.reference,
                self.teacher(part).size,
                self.fields[1:],
                data.config_of(self.config),
                self.mesh,
                how,
                self.tell,
            )
            self.reference = {}
        return super().train_batches(part, split)

    def teacher(self, part: Part) -> Teacher:
        """Return how the teacher sees the images of a stage. Raises UserError for a size that it cannot take."""
        of, how = self.of_teacher.spec, self.of_teacher.spec.preprocess
        given = self.settings(part.stage).teacher_size
        patch = getattr(of.config, "patch_size", 1)
        size = (given, given) if given else tuple(whole(side, patch) for side in part.image_size)
        skeleton = of.skeleton(head=self.of_teacher.head, **precision.how(self.config) | {"remat": False})
        images = jax.ShapeDtypeStruct((1, *size, of.config.in_channels), jnp.float32)
        jax.eval_shape(lambda flat, x: bind(skeleton, flat)(x).cls, skeleton.shapes, images)
        mine = self.card.spec.preprocess
        return Teacher(skeleton, size, how.mean, how.std, mine.mean, mine.std)

    def tokens(self, stage: Stage, sizes: Sizes) -> int:
        """Return 0: the batch stays whole for the teacher."""
        return 0

    def objective(self, part: Part, current: State) -> KnowledgeDistillation:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return the stage's losses: of the labels, and of the teacher."""
        labels = super().objective(part, current) if self.labelled else None
        return KnowledgeDistillation(self.settings(part.stage), None if self.cached else self.teacher(part), labels)

    def augment(self, part: Part, key: jax.Array, batch: Any) -> Any:
        """Augment a batch on the device, and weigh its images by their classes."""
        return Classification.objective(self, part, {}).weighed(super(Classification, self).augment(part, key, batch))

    def more(self, flat: Flat) -> State:
        """Return the teacher's leaves, unless its outputs are computed once."""
        return {} if self.cached else {REFERENCE: self.reference}

    def carried(self, before: Part, ended: State) -> tuple[Flat, Flat, State]:
        """Return the best weights of the previous stage, and the teacher."""
        flat, ema, _ = super().carried(before, ended)
        return flat, ema, {} if self.cached else {REFERENCE: ended["moving"][REFERENCE]}

    def save_best(self, folder: Path, part: Part, flat: Mapping[str, np.ndarray], metrics: Metrics) -> None:
        """Write the student to best/, without its layers to the teacher's width."""
        kept = {path: leaf for path, leaf in flat.items() if path.split(".")[0] not in (FEATURES, PATCHES)}
        super().save_best(folder, part, kept, metrics)

    def best_evaluated(self, session: "Session", split: str) -> Any:
        """Return the evaluator of a split after a pass of the saved best student."""
        part = session.setup.parts[session.progress.best_model["stage"]]
        return self.evaluation(session, part, self.student)(split, self.best(session))

    @property
    def student(self) -> Skeleton:
        """The student that is saved."""
        return self.card.spec.skeleton(head=self.card.head, **precision.how(self.config))


class TaughtWithoutLabels(Taught):
    """A student learns a teacher's classes or features from images without labels; the latest weights are the best."""

    labelled = False
    columns = ()

    def __init__(self, config: Any, mesh: Mesh, tell: Callable[[str], None], *how: Any):
        super().__init__(config, mesh, tell, *how)
        self.monitors = ()

    def listed(self, cfg: data.DataConfig) -> Source:
        """Return the images."""
        return load_source(cfg)

    @property
    def outputs(self) -> tuple[str, ...]:
        """The classes of the teacher, if they are learned."""
        of = self.of_teacher
        return (of.class_names or tuple(map(str, range(of.num_classes)))) if self.taught_classes else ()

    def targets(self, batch: Any) -> tuple[str, jax.Array]:
        """Return one class that all images have, which nothing reads."""
        return "label", jnp.ones((len(batch["label"]), 1))

    def marks(self, augmented: Any, place: int) -> tuple[str, np.ndarray | None]:
        """Return nothing to show beside an image."""
        return "", None

    def measure(self, session: "Session", part: Part) -> Callable[[State], Metrics]:
        """Return a function that measures nothing."""
        return lambda current: {}

    def given(self, session: "Session", part: Part, measured: Callable[[], Metrics]) -> Metrics:
        """Return {}: nothing is measured."""
        return {}

    def references(self, session: "Session") -> dict[str, Metrics]:
        """Return {}: nothing is measured."""
        return {}

    def finish(self, session: "Session") -> tuple[dict[str, Any], list[str]]:
        """Measure nothing."""
        return {}, ["nothing is measured without labels: `jaxdino evaluate --weights RUN --root LABELLED` measures it"]


def task(config: Any, *how: Any) -> Taught:
    """Return the task, for data with labels or without."""
    return (TaughtWithoutLabels if config.data.name == UNLABELLED else Taught)(config, *how)


def opened(src: str, place: placing.Place, tell: Callable[[str], None]) -> tuple[Card, dict[str, Any]]:
    """Read the teacher's card and its leaves, each put on the mesh as soon as it is read.

    Raises:
      UserError: for weights that cannot be read, and models that do not take images.
    """
    try:
        with spelling(WORDS), open_pretrained(src) as found:
            card = found.card
            if not card.spec.config.in_channels or card.finds_boxes or card.labels_pixels:
                raise UserError(f"a {card.spec.name} with this head is no teacher: give a backbone or a classifier")
            card = dataclasses.replace(card, spec=dataclasses.replace(card.spec, heads=()))
            skeleton = card.spec.skeleton(head=card.head)
            flat, _ = placing.read(found.flat, place, skeleton.entries)
            for note in found.notes:
                tell(f"teacher: {spelled(note, WORDS)}")
    except UserError as err:
        raise UserError(f"objective.teacher={src}: {err}") from None
    return card, flat


TASK = task
