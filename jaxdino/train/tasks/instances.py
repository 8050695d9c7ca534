"""The task of instance and panoptic segmentation: mask queries, COCO's average precision of masks, panoptic quality."""

import math
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
from jaxdino.data.instance_field import InstanceField, slots_of
from jaxdino.data.instances import Instances as Truth
from jaxdino.data.instances import read
from jaxdino.data.presets import get_preset
from jaxdino.data.recipe import unmixed
from jaxdino.data.record import Split
from jaxdino.evals.augmentation_pictures import Tile, denormalised
from jaxdino.evals.detection_pictures import draw_curves, draw_pairs
from jaxdino.evals.instance_pictures import regions_over
from jaxdino.evals.instances import Found, InstanceEvaluator
from jaxdino.evals.object_confusion import write_confusion
from jaxdino.evals.passes import outputs
from jaxdino.evals.regions_found import regions_found, scored
from jaxdino.models import registry
from jaxdino.models.heads.mask_queries import MaskQueriesHeadConfig
from jaxdino.objectives.instances import Instances
from jaxdino.objectives.instances_settings import Masking
from jaxdino.objectives.settings import settings_of
from jaxdino.stage import Stage
from jaxdino.train import data, plots, step
from jaxdino.train.task import Part, State
from jaxdino.train.tasks.ending import each_class, ended, read_whole, spread
from jaxdino.train.tasks.supervised import Supervised

if TYPE_CHECKING:
    from jaxdino.train.session import Session

NAMES = ("mask_map", "mask_map50", "pq", "miou")


class InstanceSegmentation(Supervised):
    """Find the objects of an image: a mask and a class each."""

    field: ClassVar = "instances"
    arrays: ClassVar = ("image", "weight", "instances", "instance_labels", "instance_valid")
    columns: ClassVar = ("val/mask_map", "val/mask_map50", "val/pq")
    plots: ClassVar = plots.supervised("val/mask_map", "Mean average precision of the validation masks")

    def __init__(self, config: Any, *how: Any):
        self.settings: Masking = settings_of(config, {}, "the run")
        super().__init__(config, *how)
        cfg = data.config_of(config)
        slots, line = slots_of(self.source.splits, cfg.max_boxes)
        self.tell(line)
        if slots > self.settings.queries:
            slots = self.settings.queries
            self.tell(
                f"objective.queries={slots}: the most objects of a view that can be found; of more, the largest stay"
            )
        self.fields = (InstanceField(slots, cfg.max_pixels, cfg.min_visibility),)

    def head(self, classes: int) -> MaskQueriesHeadConfig:
        """Return the head, on the feature maps of a hierarchical network or inside of a vision transformer."""
        name = self.config.model.name
        family = registry.MODELS[name].family if name in registry.MODELS else name.removesuffix(CUSTOM)
        staged = hasattr(registry.CONFIGS.get(family), "depths")
        if not staged and family not in ("dino", "dinov2", "dinov3", "vit"):
            raise UserError(
                f"{name} has neither feature maps nor the tokens of one vision transformer for mask queries"
            )
        own = self.settings
        patch = self.patch(name, family)
        return MaskQueriesHeadConfig(
            classes,
            own.queries,
            "stages" if staged else "tokens",
            own.layers,
            upscale=0 if staged else max(0, round(math.log2(patch)) - 2),
            width=own.width,
            things=self.things,
            threshold=own.threshold,
        )

    def patch(self, name: str, family: str) -> int:
        """Return the size of a vision transformer's patches, as the model's name or shape says."""
        config = registry.MODELS[name].config if name in registry.MODELS else None
        return getattr(config, "patch_size", 16)

    @property
    def things(self) -> tuple[bool, ...]:
        """For each class whether it has objects."""
        return tuple(next(iter(self.source.splits.values())).fields["instances"].things)

    @property
    def own_head(self) -> MaskQueriesHeadConfig:
        """The head of the card."""
        return cast(MaskQueriesHeadConfig, self.card.head)  # as `head` gives it, or `weights.start` compared with it

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

    def tiles(self, augmented: step.Batch, place: int) -> list[Tile]:
        """Return the image of one entry with its objects."""
        how, used = self.spec.preprocess, np.asarray(augmented["instance_valid"][place]) > 0
        image = np.clip(denormalised(augmented["image"][place], how.mean, how.std), 0, 1)
        labels = np.asarray(augmented["instance_labels"][place])[used]
        ids = np.asarray(augmented["instances"][place])
        shown = regions_over(np.rint(255 * image).astype(np.uint8), ids, labels, self.source.class_names)
        return [Tile(np.asarray(shown, np.float32) / 255, f"{used.sum()} objects")]

    def objective(self, part: Part, current: State) -> Instances:
        """Return the losses of mask queries."""
        how: Masking = settings_of(self.config, part.stage.objective, f"stage {part.stage.name!r}")
        weights = (how.class_weight, how.mask_weight, how.dice_weight, how.none_weight)
        masking = self.own_head.layers if self.own_head.form == "tokens" else 0
        return Instances(how.points, *weights, total_steps=part.total_steps, blocks=masking)

    def evaluator(self) -> InstanceEvaluator:
        """Return COCO's metrics of masks, panoptic quality, and IoU."""
        return InstanceEvaluator(self.source.class_names, self.things)

    def evaluation(self, session: "Session", part: Part, skeleton: Skeleton) -> Callable[[str, Flat], Any]:
        """Return a function (split, leaves) -> the evaluator after a pass, in pixels of the images themselves.

        Raises (when called):
          Stopped: if the run is asked to stop during the pass.
          UserError: if no image of the split can be read, or the model outputs nan or infinity.
        """

        def evaluate(split: str, flat: Flat) -> InstanceEvaluator:
            found = self.evaluator()
            for _, truth, one in self._found(session, part, skeleton, self.source.split(split), flat):
                found.update({"found": [one], "truth": [truth]})
            return found

        return evaluate

    def _found(
        self, session: "Session", part: Part, skeleton: Skeleton, split: Split, flat: Flat
    ) -> Iterator[tuple[int, Truth, Found]]:
        """Yield (row, the true objects, what is found) of each readable image."""
        batches = self.batches(partial(pipeline.make_eval_iter, split), part)
        each = ({**batch, "index": batch["index"].astype(np.int32)} for batch in session.each(split.name, batches))
        names = ("image", "weight", "index", "instance_origin")
        head = self.own_head
        for out in outputs(partial(self._eval_step(skeleton), flat), each, names, self.mesh):
            for place in np.flatnonzero(out["weight"] > 0).tolist():
                if not out["finite"][place]:
                    raise UserError(self.not_finite(part, split.name))
                row = int(out["index"][place])
                truth = read(split.fields["instances"][row], self.config.data.max_pixels)
                one = (out[name][place] for name in ("scores", "labels", "masks"))
                full = (truth.ids.shape[0], truth.ids.shape[1])
                where = part.image_size, out["instance_origin"][place], full
                yield row, truth, regions_found(*one, *where, head.things, head.threshold)

    def _eval_step(self, skeleton: Skeleton) -> Callable[[Flat, step.Batch], step.Batch]:
        """Compile (leaves, batch) -> what each query shows, and whether the outputs are finite."""
        how = self.spec.preprocess

        def eval_step(flat: Flat, batch: step.Batch) -> step.Batch:
            image = photometric.normalize(batch["image"], mean=how.mean, std=how.std)
            predictions = bind(skeleton, flat)(image).predictions
            finite = jnp.isfinite(predictions["logits"]).all(axis=(1, 2))
            rest = {name: value for name, value in batch.items() if name != "image"}
            return rest | scored(predictions) | {"finite": finite}

        return jax.jit(eval_step, out_shardings=sharding.replicated(self.mesh))

    def finish(self, session: "Session") -> tuple[dict[str, Any], list[str]]:
        """Evaluate the saved best model on the test split, or on the validation split if there is none; draw images."""
        split = self.tested
        evaluated = self.best_evaluated(session, split)
        found = evaluated.compute()
        self._draw(session, split)
        if session.chief:
            draw_curves(evaluated.masks.curves(), session.folder / "precision_recall.png")
            write_confusion(session.folder / "confusion.csv", evaluated.masks.confusion(), self.source.class_names)
        return ended(session, split, found, NAMES, each_class(split, "PQ", found, "pq"))

    def _draw(self, session: "Session", split: str) -> None:
        """Draw some images of a split, evenly spaced, with the true objects and those of the saved best model."""
        whole, part = self.source.split(split), session.setup.parts[session.progress.best_model["stage"]]
        chosen = spread(session, whole)
        pairs, names = [], self.source.class_names
        pixels = read_whole(self, chosen)
        for row, truth, one in self._found(session, part, self.bare(part.stage), chosen, self.best(session)):
            shown = regions_over(pixels[row], truth.ids, truth.labels, names)
            pairs.append((shown, regions_over(pixels[row], one.ids, one.classes, names)))
        if session.chief and pairs:
            draw_pairs(pairs, session.folder / "instances.png")


TASK = InstanceSegmentation
