"""The semantic segmentation task: masks of classes, a linear head on patch tokens, mIoU in sliding windows."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import numpy as np

from jaxdino.core.errors import UserError
from jaxdino.core.params import Flat, Skeleton
from jaxdino.data import photometric, pipeline
from jaxdino.data.fields import ClassMap
from jaxdino.data.presets import get_preset
from jaxdino.data.recipe import unmixed
from jaxdino.data.record import Split
from jaxdino.evals.segmentation_pictures import draw_classes
from jaxdino.evals.semantic import NAMES, SemanticEvaluator
from jaxdino.evals.sliding import WindowLogits, slide
from jaxdino.models.heads.patches import PatchesHeadConfig
from jaxdino.objectives.semantic import Semantic
from jaxdino.objectives.semantic_settings import Labelling
from jaxdino.objectives.settings import settings_of
from jaxdino.stage import Stage
from jaxdino.train import adapters, data, pixels, plots, results, step, weights
from jaxdino.train.task import Metrics, Part, State
from jaxdino.train.tasks.supervised import OPTIMISTIC, Supervised, in_split

if TYPE_CHECKING:
    from jaxdino.train.session import Session

DRAWN = 6  # images of the picture at the end


class SemanticSegmentation(Supervised):
    """Give every pixel a class."""

    field: ClassVar = "class_mask"
    arrays: ClassVar = ("image", "mask", "weight")
    columns: ClassVar = ("val/miou", "val/pixel_accuracy")
    plots: ClassVar = plots.supervised("val/miou", "Mean IoU of the validation masks")

    def __init__(self, config: Any, *how: Any):
        self.settings: Labelling = settings_of(config, {}, "the run")
        self.fields = (ClassMap(config.data.max_pixels),)
        super().__init__(config, *how)
        self.mask_names = self.source.class_names
        self.monitors = tuple(f"val/{name}" for name in NAMES)

    def head(self, classes: int) -> PatchesHeadConfig:
        """Return batch norm and a linear layer on the patch tokens."""
        return PatchesHeadConfig(classes, self.settings.blocks, self.settings.dropout)

    def skeleton(self, stage: Stage) -> Skeleton:
        """Return the backbone and the head, with the stage's adapters."""
        view = get_preset(stage.augment)
        if view != unmixed(view):
            self.tell(f"stage {stage.name!r}: erasing, mixup and cutmix are not applied to images with masks")
        return super().skeleton(stage)

    def augment(self, part: Part, key: jax.Array, batch: step.Batch) -> step.Batch:
        """Augment the colours of a batch."""
        how = unmixed(get_preset(part.stage.augment)), self.spec.preprocess.mean, self.spec.preprocess.std
        image = photometric.augment_view(key, batch["image"], *how, **photometric.given(batch, "image"))
        return batch | {"image": image}

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

    def windows(
        self, session: "Session", part: Part, skeleton: Skeleton
    ) -> Callable[[Split, Flat], Iterator[tuple[tuple[np.ndarray, np.ndarray], WindowLogits]]]:
        """Return a function (split, leaves) -> ((image, mask), logits) of each readable image, over all devices."""
        how, size = self.spec.preprocess, part.image_size
        normalize = partial(photometric.normalize, mean=how.mean, std=how.std)
        eval_step = step.compile_eval_step(skeleton, normalize, self.mesh)
        short = min(size) if self.settings.short_side is None else self.settings.short_side
        cfg, channels = pixels.of_model(data.config_of(self.config), how), self.spec.config.in_channels
        whole = partial(pipeline.make_whole_iter, cfg=cfg, fields=self.fields, channels=channels)
        read = partial(whole, short_side=short, resize=how.resize)

        def images(split: Split) -> Iterator[Any]:
            for batch in session.each(split.name, read(split)):
                if batch["weight"][0]:
                    image, mask = batch["image"][0], batch["mask"][0]
                    yield (image, mask), image, mask.shape

        def found(split: Split, flat: Flat) -> Iterator[Any]:
            forward = lambda image: eval_step(flat, {"image": image})["logits"]  # noqa: E731
            fill = tuple(min(255, max(0, round(255 * mean))) for mean in how.mean)
            return slide(forward, images(split), crop=size, batch_size=part.stage.batch_size, fill=fill, mesh=self.mesh)

        return found

    def save_best(self, folder: Path, part: Part, flat: Mapping[str, np.ndarray], metrics: Metrics) -> None:
        """Write the model to best/, with the short side that it was evaluated at if it is not the training size."""
        short = self.settings.short_side
        how = {} if short is None else {"short_side": short}
        card = dataclasses.replace(self.card, source={**self.card.source, **how})
        weights.save(folder / "best", card, part.image_size, adapters.merged(flat, part))

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
        """Draw some images of a split, evenly spaced, with truth and prediction of the saved best model."""
        whole, part = self.source.split(split), session.setup.parts[session.progress.best_model["stage"]]
        bad = session.progress.bad.get(split, {})
        good = [row for row in range(len(whole)) if whole.record_name(row) not in bad]
        rows = [good[place] for place in np.unique(np.linspace(0, len(good) - 1, DRAWN).astype(int))]
        windows = self.windows(session, part, self.bare(part.stage))
        shown = [(*pair, logits.labels()) for pair, logits in windows(whole.chosen(rows), self.best(session))]
        if session.chief and shown:
            images, truths, predictions = zip(*shown, strict=True)
            images = [image[..., :3] if image.shape[2] >= 3 else image[..., [0, 0, 0]] for image in images]
            file = session.folder / "segmentation.png"
            draw_classes(images, truths, predictions, self.source.class_names, file)
