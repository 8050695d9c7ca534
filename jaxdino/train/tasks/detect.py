"""The detection task: boxes around objects, a dense head without anchors, COCO's mean average precision."""

import dataclasses
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, cast

import jax
import jax.numpy as jnp
import numpy as np

from convert.naming import CUSTOM
from jaxdino.core import sharding
from jaxdino.core.errors import UserError
from jaxdino.core.params import Flat, Skeleton, bind
from jaxdino.data import photometric, pipeline
from jaxdino.data.box_field import BoxField, slots_of
from jaxdino.data.mosaic import mosaic
from jaxdino.data.presets import get_preset
from jaxdino.data.recipe import unmixed
from jaxdino.data.record import Split
from jaxdino.evals.augmentation_pictures import Tile, denormalised
from jaxdino.evals.detection import NAMES, DetectionEvaluator
from jaxdino.evals.detection_pictures import boxes_over, draw_curves, draw_pairs
from jaxdino.evals.object_confusion import write_confusion
from jaxdino.evals.passes import outputs
from jaxdino.models import registry
from jaxdino.models.boxes import detections
from jaxdino.models.heads.detr import DETRHeadConfig
from jaxdino.models.heads.fcos import FCOSHeadConfig
from jaxdino.objectives.detect import Detect
from jaxdino.objectives.detect_queries import DetectQueries
from jaxdino.objectives.detect_settings import Detecting
from jaxdino.objectives.settings import settings_of
from jaxdino.stage import Stage
from jaxdino.train import data, plots, step
from jaxdino.train.task import Part, State
from jaxdino.train.tasks.ending import each_class, ended, read_whole, spread
from jaxdino.train.tasks.supervised import Supervised

if TYPE_CHECKING:
    from jaxdino.train.session import Session

MOSAIC = 7  # what the key of the mosaics is folded in with
SHOWN = 0.3  # smallest score of a box in it
STAGES = (8, 16, 32, 64)
"""Strides of the levels on feature maps: those of the last three stages, and one more."""


class Detection(Supervised):
    """Find the objects of an image: a box and a class each."""

    field: ClassVar = "boxes"
    arrays: ClassVar = ("image", "weight", "boxes", "box_labels", "box_valid", "box_ignored")
    columns: ClassVar = ("val/map", "val/map50")
    plots: ClassVar = plots.supervised("val/map", "Mean average precision of the validation boxes")

    def __init__(self, config: Any, *how: Any):
        self.settings: Detecting = settings_of(config, {}, "the run")
        super().__init__(config, *how)
        cfg = data.config_of(config)
        slots, line = slots_of(self.source.splits, cfg.max_boxes)
        self.tell(line)
        self.fields = (BoxField(slots, cfg.min_visibility),)
        if isinstance(self.own_head, FCOSHeadConfig):
            head = dataclasses.replace(self.own_head, strides=self._strides(self.own_head.pyramid))
            self.card = dataclasses.replace(self.card, head=head)
        elif slots > self.own_head.queries:
            raise UserError(
                f"objective.queries={self.own_head.queries} are fewer than the {slots} slots for boxes: give more, or "
                "a smaller data.max_boxes"
            )
        self.monitors = tuple(f"val/{name}" for name in self.evaluator().names)

    def head(self, classes: int) -> FCOSHeadConfig | DETRHeadConfig:
        """Return the head, on the feature maps of a hierarchical network or on patch tokens."""
        name = self.config.model.name
        family = registry.MODELS[name].family if name in registry.MODELS else name.removesuffix(CUSTOM)
        staged = hasattr(registry.CONFIGS.get(family), "depths")
        settings = self.settings
        if staged and settings.blocks != 1:
            raise UserError(f"objective.blocks={settings.blocks} is for vision transformers; {name} has feature maps")
        pyramid = "stages" if staged else "patches"
        if settings.head == "detr":
            shape = dict(queries=settings.queries, layers=settings.layers, width=settings.width)
            return DETRHeadConfig(classes, pyramid=pyramid, **shape)
        return FCOSHeadConfig(classes, settings.blocks, pyramid, width=settings.width, convs=settings.convs)

    @property
    def own_head(self) -> FCOSHeadConfig | DETRHeadConfig:
        """The head of the card."""
        return cast(Any, self.card.head)  # as `head` gives it, or `weights.start` compared with it

    def _strides(self, pyramid: str) -> tuple[int, ...]:
        if pyramid == "stages":
            return STAGES
        patch = getattr(self.spec.config, "patch_size", 0)
        if not isinstance(patch, int) or patch < 2:
            raise UserError(f"{self.spec.name} has no patches that a detection head reads")
        return patch // 2, patch, 2 * patch, 4 * patch

    def skeleton(self, stage: Stage) -> Skeleton:
        """Return the backbone and the head, with the stage's adapters."""
        view = get_preset(stage.augment)
        if view != unmixed(view):
            self.tell(f"stage {stage.name!r}: erasing, mixup and cutmix are not applied to images with boxes")
        return super().skeleton(stage)

    def augment(self, part: Part, key: jax.Array, batch: step.Batch) -> step.Batch:
        """Make mosaics, if the stage has them, and augment the colours of a batch."""
        settings: Detecting = settings_of(self.config, part.stage.objective, f"stage {part.stage.name!r}")
        if settings.mosaic:
            own = jax.random.fold_in(key, MOSAIC)
            batch = mosaic(own, batch, settings.mosaic, data.config_of(self.config).min_visibility)
        how = unmixed(get_preset(part.stage.augment)), self.spec.preprocess.mean, self.spec.preprocess.std
        image = photometric.augment_view(key, batch["image"], *how, **photometric.given(batch, "image"))
        return batch | {"image": image}

    def tiles(self, augmented: step.Batch, place: int) -> list[Tile]:
        """Return the image of one entry with its boxes."""
        how, used = self.spec.preprocess, np.asarray(augmented["box_valid"][place]) > 0
        image = np.clip(denormalised(augmented["image"][place], how.mean, how.std), 0, 1)
        boxes, labels = (np.asarray(augmented[name][place])[used] for name in ("boxes", "box_labels"))
        shown = boxes_over(np.rint(255 * image).astype(np.uint8), boxes, labels, self.source.class_names)
        return [Tile(np.asarray(shown, np.float32) / 255, f"{used.sum()} objects")]

    def objective(self, part: Part, current: State) -> Detect | DetectQueries:
        """Return the losses of the head."""
        how: Detecting = settings_of(self.config, part.stage.objective, f"stage {part.stage.name!r}")
        head, focal = self.own_head, (how.focal_alpha, how.focal_gamma)
        if isinstance(head, DETRHeadConfig):
            return DetectQueries(head.num_classes, *focal, denoising=how.denoising)
        return Detect(head.strides, how.radius, *focal)

    def evaluator(self) -> DetectionEvaluator:
        """Return COCO's metrics."""
        return DetectionEvaluator(self.source.class_names)

    def evaluation(self, session: "Session", part: Part, skeleton: Skeleton) -> Callable[[str, Flat], Any]:
        """Return a function (split, leaves) -> the evaluator after a pass, in pixels of the images themselves.

        Raises (when called):
          Stopped: if the run is asked to stop during the pass.
          UserError: if no image of the split can be read, or the model outputs nan or infinity.
        """

        def evaluate(split: str, flat: Flat) -> DetectionEvaluator:
            found, whole = self.evaluator(), self.source.split(split)
            for rows in self._found(session, part, skeleton, whole, flat):
                if not rows["finite"].all():
                    raise UserError(self.not_finite(part, split))
                found.update({**rows, "truth": [whole.fields["boxes"][int(row)] for row in rows["index"]]})
            return found

        return evaluate

    def _found(
        self, session: "Session", part: Part, skeleton: Skeleton, split: Split, flat: Flat
    ) -> Iterator[dict[str, np.ndarray]]:
        """Yield what is found in the readable images of each batch, boxes in pixels of the images themselves."""
        batches = self.batches(partial(pipeline.make_eval_iter, split), part)
        each = ({**batch, "index": batch["index"].astype(np.int32)} for batch in session.each(split.name, batches))
        names = ("image", "weight", "index", "box_origin")
        for out in outputs(partial(self._eval_step(skeleton), flat), each, names, self.mesh):
            rows = {name: values[out["weight"] > 0] for name, values in out.items()}
            scale, start = np.tile(rows["box_origin"][:, None, :2], 2), np.tile(rows["box_origin"][:, None, 2:], 2)
            yield rows | {"boxes": rows["boxes"] * scale + start}

    def _eval_step(self, skeleton: Skeleton) -> Callable[[Flat, step.Batch], step.Batch]:
        """Compile (leaves, batch) -> detections in pixels of the view, and whether the outputs are finite."""
        how, strides = self.spec.preprocess, self.own_head.strides

        def eval_step(flat: Flat, batch: step.Batch) -> step.Batch:
            image = photometric.normalize(batch["image"], mean=how.mean, std=how.std)
            predictions = bind(skeleton, flat)(image).predictions
            finite = jnp.isfinite(predictions["logits"]).all(axis=(1, 2))
            found = detections(predictions, (image.shape[1], image.shape[2]), strides)
            return {name: value for name, value in batch.items() if name != "image"} | found | {"finite": finite}

        return jax.jit(eval_step, out_shardings=sharding.replicated(self.mesh))

    def finish(self, session: "Session") -> tuple[dict[str, Any], list[str]]:
        """Evaluate the saved best model on the test split, or on the validation split if there is none; draw images."""
        split = self.tested
        evaluated = self.best_evaluated(session, split)
        found = evaluated.compute()
        self._draw(session, split)
        if session.chief:
            draw_curves(evaluated.curves(), session.folder / "precision_recall.png")
            write_confusion(session.folder / "confusion.csv", evaluated.confusion(), self.source.class_names)
        return ended(session, split, found, NAMES, each_class(split, "AP", found, "ap"))

    def _draw(self, session: "Session", split: str) -> None:
        """Draw some images of a split, evenly spaced, with the true boxes and those of the saved best model."""
        whole, part = self.source.split(split), session.setup.parts[session.progress.best_model["stage"]]
        chosen = spread(session, whole)
        pairs, names = [], self.source.class_names
        read = read_whole(self, chosen)
        for rows in self._found(session, part, self.bare(part.stage), chosen, self.best(session)):
            for row, boxes, scores, labels in zip(
                *(rows[n] for n in ("index", "boxes", "scores", "labels")), strict=True
            ):
                image, truth, kept = read[int(row)], chosen.fields["boxes"][int(row)], scores >= SHOWN
                found = boxes_over(image, boxes[kept], labels[kept], names, scores[kept])
                pairs.append((boxes_over(image, truth[:, :4], truth[:, 4].astype(int), names), found))
        if session.chief and pairs:
            draw_pairs(pairs, session.folder / "detections.png")


TASK = Detection
