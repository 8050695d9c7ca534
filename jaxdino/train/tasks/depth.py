"""The depth task: depth maps, bins on patch tokens or the DPT decoder, errors at the maps' own sizes."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, cast

import jax
import jax.numpy as jnp
import numpy as np

from jaxdino.core import sharding
from jaxdino.core.errors import UserError
from jaxdino.core.params import Flat, Skeleton, bind
from jaxdino.data import photometric
from jaxdino.data.depth_field import DepthField, survey
from jaxdino.data.presets import get_preset
from jaxdino.evals.augmentation_pictures import Tile
from jaxdino.evals.depth import NAMES, DepthEvaluator
from jaxdino.evals.depth_pictures import draw_depths, tile_of
from jaxdino.evals.median_depth import of_medians
from jaxdino.models.heads.depth import DepthDPTHeadConfig, DepthHeadConfig, DepthLinearHeadConfig
from jaxdino.models.heads.maps import BLOCKS, STAGES, even
from jaxdino.models.spec import ModelSpec
from jaxdino.objectives.depth import Depth
from jaxdino.objectives.depth_settings import Ranging
from jaxdino.objectives.settings import settings_of
from jaxdino.stage import Stage
from jaxdino.train import plots, step
from jaxdino.train.task import Metrics, Part, State
from jaxdino.train.tasks.dense import Dense
from jaxdino.train.tasks.ending import ended
from jaxdino.train.tasks.supervised import in_split

if TYPE_CHECKING:
    from jaxdino.train.session import Session

ROOM = 1.1  # the largest depth of the head, as a multiple of that of the training maps
SQUASH = "squash"


class DepthEstimation(Dense):
    """Give every pixel its distance in metres."""

    field: ClassVar = "depth"
    plane: ClassVar = "depth"
    what: ClassVar = "depth maps"
    arrays: ClassVar = ("image", "depth", "weight")
    columns: ClassVar = ("val/abs_rel", "val/rmse", "val/delta1")
    plots: ClassVar = plots.supervised("val/abs_rel", "Mean relative error of the validation depth")

    def __init__(self, config: Any, *how: Any):
        self.settings: Ranging = settings_of(config, {}, "the run")
        self.short_side = self.settings.short_side
        self.fields = (DepthField(config.data.max_pixels),)
        super().__init__(config, *how)
        given = self.settings.max_depth
        if given is not None and given != self.own_head.max_depth:
            raise UserError(
                f"objective.max_depth={given:g}, but the head of the weights reaches {self.own_head.max_depth:g} m: "
                "leave it out, or --config.model.drop_head=True starts with a new head"
            )

    @property
    def outputs(self) -> tuple[str, ...]:
        """One value: the depth."""
        return ("depth",)

    @property
    def own_head(self) -> DepthHeadConfig:
        """The head of the card."""
        return cast(DepthHeadConfig, self.card.head)  # as `head` gives it, or `weights.start` compared with it

    def head(self, classes: int) -> Callable[[ModelSpec], DepthHeadConfig]:
        """Return the function that makes the head for a model; the range of depths is that of the training maps."""
        how, seen = self.settings, survey(self.source.split("train"), self.config.data.max_pixels)
        most = how.max_depth or float(f"{ROOM * seen.high:.3g}")
        self.tell(
            f"depth: {seen.low:.3g} to {seen.high:.3g} m in {seen.maps} training maps, known for {seen.known:.1%} of "
            f"their pixels; predictions reach from {how.min_depth:g} to {most:g} m (objective.max_depth)"
        )
        if most <= how.min_depth:
            raise UserError(f"objective.min_depth={how.min_depth:g} is above all depths of the training maps")

        def made(spec: ModelSpec) -> DepthHeadConfig:
            staged = hasattr(spec.config, "depths")
            source = STAGES if staged else BLOCKS
            if how.head == "linear":
                if staged and how.blocks != 1:
                    raise UserError(
                        f"objective.blocks={how.blocks} is for vision transformers; {spec.name} has feature maps"
                    )
                return DepthLinearHeadConfig(1, how.blocks, source, how.min_depth, most, bins=how.bins)
            blocks = 1 if staged else even(cast(Any, spec.config).depth)
            return DepthDPTHeadConfig(1, blocks, source, how.min_depth, most, width=how.width, readout=not staged)

        return made

    def skeleton(self, stage: Stage) -> Skeleton:
        """Return the backbone and the head, with the stage's adapters."""
        view = get_preset(stage.augment)
        if view.scale is not None or view.zoom != (1.0, 1.0):
            self.tell(
                f"stage {stage.name!r}: crops of scale={view.scale}, zoom={view.zoom} enlarge what they show, and its "
                "depth stays the same number of metres: the size of things then says less about their distance"
            )
        return super().skeleton(stage)

    def tiles(self, augmented: step.Batch, place: int) -> list[Tile]:
        """Return the image of one entry, and its depth."""
        return [*super().tiles(augmented, place), tile_of(np.asarray(augmented["depth"][place]))]

    def marks(self, augmented: step.Batch, place: int) -> tuple[str, np.ndarray | None]:
        """Return nothing: the depth is a tile of its own."""
        return "", None

    def objective(self, part: Part, current: State) -> Depth:
        """Return the losses with the stage's weights."""
        how: Ranging = settings_of(self.config, part.stage.objective, f"stage {part.stage.name!r}")
        head = self.own_head
        return Depth(head.min_depth, head.max_depth, how.silog_lambda, how.gradient_weight)

    def evaluator(self) -> DepthEvaluator:
        """Return the errors of depth within the range of the head."""
        return DepthEvaluator(self.own_head.min_depth, self.own_head.max_depth)

    def references(self, session: "Session") -> dict[str, Metrics]:
        """Return the metrics of the median of the training maps, and of the initial weights if measured."""
        splits = self.source.split("train"), self.source.split("val")
        found = of_medians(*splits, self.config.data.max_pixels, self.evaluator())
        return {"median of training maps": in_split("val", found)} | super().references(session)

    def squashed(self, part: Part) -> tuple[int, int] | None:
        """Return the training size, if images are resized to it whole and no short side is set."""
        whole = self.short_side is None and self.spec.preprocess.crop_mode == SQUASH
        return part.image_size if whole else None

    def eval_step(self, skeleton: Skeleton) -> Callable[[Flat, step.Batch], Any]:
        """Compile (leaves, {"image": uint8 (B, H, W, C)}) -> metres (B, h, w, 1), on every device."""
        how = self.spec.preprocess

        def predict(flat: Flat, batch: step.Batch) -> jax.Array:
            image = photometric.normalize(batch["image"], mean=how.mean, std=how.std)
            return jnp.asarray(bind(skeleton, flat)(image).predictions["depth"])[..., None]

        return jax.jit(predict, out_shardings=sharding.replicated(self.mesh))

    def evaluation(self, session: "Session", part: Part, skeleton: Skeleton) -> Callable[[str, Flat], DepthEvaluator]:
        """Return a function (split, leaves) -> the evaluator after a pass, at the maps' own sizes.

        Raises (when called):
          Stopped: if the run is asked to stop during the pass.
          UserError: if no image of the split can be read, no depth is known, or the model outputs nan or infinity.
        """
        windows = self.windows(session, part, skeleton)

        def evaluate(split: str, flat: Flat) -> DepthEvaluator:
            found = self.evaluator()
            for (_, depth), given in windows(self.source.split(split), flat):
                if not np.isfinite(given.patches).all():
                    raise UserError(self.not_finite(part, split))
                found.update({"prediction": [given.logits()[0]], "depth": [depth]})
            if not found.rows:
                raise UserError(
                    f"no pixel of the {split} maps has a depth from {found.min_depth:g} to {found.max_depth:g} m"
                )
            return found

        return evaluate

    def finish(self, session: "Session") -> tuple[dict[str, Any], list[str]]:
        """Evaluate the saved best model on the test split, or on the validation split if there is none; draw images."""
        split = self.tested
        found = self.best_evaluated(session, split).compute()
        shown = [(image, truth, given.logits()[0]) for image, truth, given in self.shown(session, split)]
        if session.chief and shown:
            draw_depths(*zip(*shown, strict=True), session.folder / "depth.png")
        return ended(session, split, found, NAMES)


TASK = DepthEstimation
