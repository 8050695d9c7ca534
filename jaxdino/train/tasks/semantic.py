"""The semantic segmentation task: masks of classes, a linear head on patch tokens, mIoU in sliding windows."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from jaxdino.core.errors import UserError
from jaxdino.core.params import Flat, Skeleton
from jaxdino.data.fields import ClassMap
from jaxdino.evals.segmentation_pictures import draw_classes
from jaxdino.evals.semantic import NAMES, SemanticEvaluator
from jaxdino.models.heads.patches import PatchesHeadConfig
from jaxdino.objectives.semantic import Semantic
from jaxdino.objectives.semantic_settings import Labelling
from jaxdino.objectives.settings import settings_of
from jaxdino.train import plots, results, step
from jaxdino.train.task import Part, State
from jaxdino.train.tasks.dense import Dense
from jaxdino.train.tasks.supervised import OPTIMISTIC, in_split

if TYPE_CHECKING:
    from jaxdino.train.session import Session

DRAWN = 6  # images of the picture at the end


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

    def head(self, classes: int) -> PatchesHeadConfig:
        """Return batch norm and a linear layer on the patch tokens."""
        return PatchesHeadConfig(classes, self.settings.blocks, self.settings.dropout)

    def marks(self, augmented: step.Batch, place: int) -> tuple[str, np.ndarray]:
        """Return the mask of an entry."""
        return "", np.asarray(augmented["mask"][place])

    def objective(self, part: Part, current: State) -> Semantic:
        """Return cross entropy of the pixels, with the stage's label smoothing."""
        return Semantic(part.stage.label_smoothing)

    def evaluator(self) -> SemanticEvaluator:
        """Return IoU and accuracies."""
        return SemanticEvaluator(self.source.class_names)

    def evaluation(
        self, session: "Session", part: Part, skeleton: Skeleton
    ) -> Callable[[str, Flat], SemanticEvaluator]:
        """Return a function (split, leaves) -> the evaluator after a pass, at the masks' own sizes.

        Raises (when called):
          Stopped: if the run is asked to stop during the pass.
          UserError: if no image of the split can be read, no pixel has a class, or the model outputs nan or infinity.
        """
        windows = self.windows(session, part, skeleton)

        def evaluate(split: str, flat: Flat) -> SemanticEvaluator:
            found = self.evaluator()
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
        evaluated = self.best_evaluated(session, split)
        found = evaluated.compute()
        self._draw(session, split)
        values = ", ".join(f"{name.replace('_', ' ')} {found[name]:.4f}" for name in NAMES)
        iou = {name.removeprefix("iou/"): value for name, value in found.items() if name.startswith("iou/")}
        lines = [
            f"{split} ({results.model_words(session.delivered)}): {values}",
            *results.listed(f"{split} IoU", [f"{name} {iou[name]:.3f}" for name in sorted(iou, key=iou.__getitem__)]),
            *([f"{', '.join(evaluated.absent)}: in no {split} mask"] if evaluated.absent else []),
            *([OPTIMISTIC] if split == "val" else []),
        ]
        return in_split(split, found), lines

    def _draw(self, session: "Session", split: str) -> None:
        """Draw some images of a split with truth and prediction of the saved best model."""
        shown = [(image, truth, logits.labels()) for image, truth, logits in self.shown(session, split)]
        if session.chief and shown:
            images, truths, predictions = zip(*shown, strict=True)
            file = session.folder / "segmentation.png"
            draw_classes(images, truths, predictions, self.source.class_names, file)
