"""The semantic segmentation task: masks of classes, a linear head or a decoder, mIoU in sliding windows."""

import contextlib
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np

from jaxdino.core.errors import UserError
from jaxdino.core.params import Flat, Skeleton
from jaxdino.data.bad_images import BadImage
from jaxdino.data.fields import ClassMap
from jaxdino.evals.segmentation import IGNORED
from jaxdino.evals.segmentation_pictures import draw_classes
from jaxdino.evals.semantic import BOUNDARY, NAMES, SemanticEvaluator
from jaxdino.models.heads import HeadConfig
from jaxdino.models.heads.decoders import DPTHeadConfig, FPNHeadConfig, MLPHeadConfig
from jaxdino.models.heads.maps import BLOCKS, STAGES, even
from jaxdino.models.heads.patches import PatchesHeadConfig
from jaxdino.models.spec import ModelSpec
from jaxdino.objectives.class_weights import balanced, described, resolved
from jaxdino.objectives.semantic import Semantic
from jaxdino.objectives.semantic_settings import BALANCED, Labelling
from jaxdino.objectives.settings import settings_of
from jaxdino.train import plots, step
from jaxdino.train.task import Part, State
from jaxdino.train.tasks.dense import Dense
from jaxdino.train.tasks.ending import each_class, ended

if TYPE_CHECKING:
    from jaxdino.train.session import Session

SAMPLE = 200  # masks whose pixels are counted for class weights


class SemanticSegmentation(Dense):
    """Give every pixel a class."""

    field: ClassVar = "class_mask"
    plane: ClassVar = "mask"
    what: ClassVar = "masks"
    arrays: ClassVar = ("image", "mask", "weight")
    columns: ClassVar = ("val/miou", "val/pixel_accuracy")
    plots: ClassVar = plots.supervised("val/miou", "Mean IoU of the validation masks")

    def __init__(self, config: Any, *how: Any):
        self.settings: Labelling = settings_of(config, {}, "the run")
        self.short_side = self.settings.short_side
        self.fields = (ClassMap(config.data.max_pixels),)
        super().__init__(config, *how)
        self.mask_names = self.source.class_names
        self.monitors = tuple(f"val/{name}" for name in NAMES)

    def head(self, classes: int) -> Callable[[ModelSpec], HeadConfig]:
        """Return the function that makes the head for a model."""
        how = self.settings

        def made(spec: ModelSpec) -> HeadConfig:
            staged = hasattr(spec.config, "depths")
            if how.head == "linear":
                several = how.blocks if staged and how.blocks > 1 else 0
                return PatchesHeadConfig(classes, 1 if staged else how.blocks, how.dropout, several)
            if how.head == "fpn":
                return FPNHeadConfig(classes, 1, STAGES if staged else BLOCKS, how.width, how.dropout)
            reads = (1, STAGES) if staged else (even(cast(Any, spec.config).depth), BLOCKS)
            if how.head == "mlp":
                return MLPHeadConfig(classes, *reads, how.width, how.dropout)
            return DPTHeadConfig(classes, *reads, how.width, how.dropout, readout=not staged)

        return made

    def marks(self, augmented: step.Batch, place: int) -> tuple[str, np.ndarray]:
        """Return the mask of an entry."""
        return "", np.asarray(augmented["mask"][place])

    def objective(self, part: Part, current: State) -> Semantic:
        """Return the losses with the stage's weights and label smoothing."""
        where = f"stage {part.stage.name!r}"
        how: Labelling = settings_of(self.config, part.stage.objective, where)
        names = self.source.class_names
        weights = resolved(
            "objective.class_weights", how.class_weights, names, {BALANCED: lambda: balanced(self.pixel_shares)}
        )
        if how.class_weights is not None:
            self.tell(f"{where}: weights of pixels: {described(weights, names)}")
        each = weights if isinstance(weights, tuple) else () if weights == 1 else (weights,) * len(names)
        kept = how.cross_entropy, how.dice, how.lovasz, how.focal_gamma
        return Semantic(part.stage.label_smoothing, *kept, each, how.boundary_ignore)

    @cached_property
    def pixel_shares(self) -> np.ndarray:
        """The share of each class in the pixels of up to `SAMPLE` training masks, evenly spaced, float64 (C,)."""
        masks, classes = self.source.split("train").fields[self.field], len(self.source.class_names)
        counts = np.zeros(classes, np.int64)
        for row in np.unique(np.linspace(0, len(masks) - 1, min(len(masks), SAMPLE)).astype(int)).tolist():
            with contextlib.suppress(BadImage):  # named when the image is read
                mask = masks[row](self.config.data.max_pixels) if callable(masks[row]) else masks[row]
                counts += np.bincount(mask[mask != IGNORED], minlength=classes)
        return counts / max(counts.sum(), 1)

    def evaluator(self, boundaries: bool = False) -> SemanticEvaluator:
        """Return IoU, Dice and accuracies; at a run's end also the boundaries, which take longer."""
        return SemanticEvaluator(self.source.class_names, boundaries)

    def evaluation(
        self, session: "Session", part: Part, skeleton: Skeleton, boundaries: bool = False
    ) -> Callable[[str, Flat], SemanticEvaluator]:
        """Return a function (split, leaves) -> the evaluator after a pass, at the masks' own sizes.

        Raises (when called):
          Stopped: if the run is asked to stop during the pass.
          UserError: if no image of the split can be read, no pixel has a class, or the model outputs nan or infinity.
        """
        windows = self.windows(session, part, skeleton)

        def evaluate(split: str, flat: Flat) -> SemanticEvaluator:
            found = self.evaluator(boundaries)
            for (_, mask), logits in windows(self.source.split(split), flat):
                if not np.isfinite(logits.patches).all():
                    raise UserError(self.not_finite(part, split))
                labels, loss = logits.judged(mask)
                found.update({"prediction": [labels], "mask": [mask], "loss": [loss]})
            if not found.matrix.any():
                raise UserError(f"no pixel of the {split} masks has a class: all are ignored")
            return found

        return evaluate

    def finish(self, session: "Session") -> tuple[dict[str, Any], list[str]]:
        """Evaluate the saved best model on the test split, or on the validation split if there is none; draw images."""
        split = self.tested
        part = session.setup.parts[session.progress.best_model["stage"]]
        evaluated = self.evaluation(session, part, self.bare(part.stage), boundaries=True)(split, self.best(session))
        found = evaluated.compute()
        self._draw(session, split)
        absent = [f"{', '.join(evaluated.absent)}: in no {split} mask"] if evaluated.absent else []
        return ended(session, split, found, (*NAMES, BOUNDARY), [*each_class(split, "IoU", found, "iou"), *absent])

    def _draw(self, session: "Session", split: str) -> None:
        """Draw some images of a split with truth and prediction of the saved best model."""
        shown = [(image, truth, logits.labels()) for image, truth, logits in self.shown(session, split)]
        if session.chief and shown:
            images, truths, predictions = zip(*shown, strict=True)
            file = session.folder / "segmentation.png"
            draw_classes(images, truths, predictions, self.source.class_names, file)


TASK = SemanticSegmentation
