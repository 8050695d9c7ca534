"""The text-prompted segmentation task: images, prompts and masks; CLIP, DINO and SAM's decoder in one model."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxdino.core import sharding
from jaxdino.core.errors import UserError
from jaxdino.core.image_sizes import Sizes
from jaxdino.core.params import Flat, Skeleton, abstract, bind
from jaxdino.data import photometric, pipeline, prompted, tokenizer
from jaxdino.data.fields import Prompts
from jaxdino.data.presets import get_preset
from jaxdino.data.prompts import PromptConfig
from jaxdino.data.recipe import unmixed
from jaxdino.data.sampling import UNIFORM
from jaxdino.evals.samples import spread_first
from jaxdino.models.initial import ShapesOnly
from jaxdino.models.lora import LoRA
from jaxdino.models.spec import ModelSpec
from jaxdino.objectives.segment import Segment, prompt_features
from jaxdino.objectives.segment_settings import Segmenting
from jaxdino.objectives.settings import settings_of
from jaxdino.stage import Stage, stages
from jaxdino.train import adapters, data, pixels, plots, precision, sizing, state, step, weights
from jaxdino.train.placing import on_mesh
from jaxdino.train.results import model_words
from jaxdino.train.task import Metrics, Part, State
from jaxdino.train.tasks.mask_measure import METRICS, MaskMeasure
from jaxdino.train.tasks.segmenter_weights import start
from jaxdino.train.tasks.supervised import OPTIMISTIC, Supervised

if TYPE_CHECKING:
    from jaxdino.train.session import Session

TEXT, IMAGE = "backbone.clip.", "backbone.dino."
EVALUATED = 4  # prompts of an image that are evaluated together, at most


class Segmentation(Supervised):
    """Segment images by text prompts. See `jaxdino.train.task.Task`.

    Raises:
      UserError: for data without masks or a validation split, a prompt that is too long, and weights that do not fit.
    """

    arrays: ClassVar = ("image", "mask", "label", "masked", "asked", "weight", "points", "point_labels")
    columns: ClassVar = ("val/miou", "val/dice")
    mask_names: ClassVar = ("background", "prompt")
    plots: ClassVar = plots.supervised("val/miou", "Mean IoU on the validation pairs")

    def __init__(self, config: Any, mesh: Mesh, tell: Callable[[str], None], check: data.Check = data.unchecked):
        self.config, self.mesh = config, mesh
        chosen = stages(config)
        if any(stage.monitor == "val/loss" and self.settings(stage) != self.settings(chosen[0]) for stage in chosen):
            raise UserError(
                "val/loss cannot compare stages with different objectives: monitor val/miou "
                "(--config.early_stopping.monitor=val/miou), or give all stages the same objective"
            )
        self.prompts = PromptConfig.of(config.prompts)
        cfg = data.config_of(config)
        source = data.validated(cfg, "prompts", prompts=self.prompts)
        if self.prompts.negatives and len(source.class_names) < 2:
            raise UserError(f"prompts.negatives is {self.prompts.negatives}, but there is one prompt only: set it to 0")
        tell(data.summary(source, "pairs", count=prompted.count))
        check("data", source)
        train = prompted.in_groups(source.split("train"), self.prompts.per_image)
        self.source = dataclasses.replace(source, splits=source.splits | {"train": train})
        begun = start(config, self.source.class_names, tell, on_mesh(config, mesh))
        self.card = pixels.settled(cfg, self.source, begun.card, tell)
        self.flat, self.companions = begun.flat, begun.companions
        self.spec = self.card.spec
        self.new_head = "stage" not in self.card.source  # the projections
        text = self.spec.config.text.text
        read = tokenizer.serving(self.companions, text)
        self.ids = read.prompts(self.source.class_names, self.prompts.templates, text.context_length)
        self.monitors = tuple(f"val/{name}" for name in METRICS)
        self.fields = self.read(self.prompts.per_image)

    def read(self, slots: int, spatial: bool = False) -> tuple[Prompts, ...]:
        """Return the fields: up to `slots` prompts of an image."""
        return (Prompts(self.prompts, slots, len(self.source.class_names), self.config.data.max_pixels, spatial),)

    def spec_of(self, stage: Stage) -> ModelSpec:
        """Return the model spec with the stage's adapters."""
        known = self.spec.components
        for name in stage.lora:
            if name not in known:
                raise UserError(f"stage {stage.name!r}: lora.{name} is not part of the model; give {', '.join(known)}")
        adapters = {name: LoRA.of(stage.lora[name]) if name in stage.lora else None for name in known}
        return dataclasses.replace(self.spec, config=self.spec.config.with_adapters(adapters))

    def settings(self, stage: Stage) -> Segmenting:
        """Merge the objective of a stage: the config's settings, then those of the stage."""
        return settings_of(self.config, stage.objective, f"stage {stage.name!r}")

    def skeleton(self, stage: Stage) -> Skeleton:
        """Return the three parts, the projections between them, and the stage's adapters."""
        get_preset(stage.augment)
        self.settings(stage)
        for name, unread in {"label_smoothing": 0.0, "sampling": UNIFORM}.items():
            if getattr(stage, name) != unread:
                raise UserError(f"stage {stage.name!r}: {name}={getattr(stage, name)} is not read by this task")
        return self.spec_of(stage).skeleton(drop_path=stage.drop_path, **precision.how(self.config))

    def sizes(self, stage: Stage) -> Sizes:
        """Return the stage's image size, or the image encoder's. Raises UserError unless it is one square."""
        sizes = sizing.sizes_of(stage, self.spec)
        if sizes.varied or sizes.final[0] != sizes.final[1]:
            raise UserError(
                f"stage {stage.name!r}: SAM's mask decoder takes square images of one size throughout a stage: give "
                "one number, such as --config.data.image_size=224, without multi_scale and aspect_ratios"
            )
        skeleton = self.spec.skeleton()
        images = jax.ShapeDtypeStruct((1, *sizes.final, 3), jnp.float32)
        jax.eval_shape(lambda flat, x: bind(skeleton, flat)(x).patches, skeleton.shapes, images)
        return sizes

    def augment(self, part: Part, key: jax.Array, batch: step.Batch) -> step.Batch:
        """Augment the colours of a batch; a row weighs as much as it has prompts."""
        how = unmixed(get_preset(part.stage.augment)), self.spec.preprocess.mean, self.spec.preprocess.std
        image = photometric.augment_view(key, batch["image"], *how, **photometric.given(batch, "image"))
        return batch | {"image": image, "weight": batch["weight"][:, None] * batch["asked"]}

    def marks(self, augmented: step.Batch, place: int) -> tuple[str, np.ndarray]:
        """Return the first prompt of an entry, and its mask."""
        return self.source.class_names[int(augmented["label"][place][0])], np.asarray(augmented["mask"][place][0])

    def objective(self, part: Part, current: State) -> Segment:
        """Return the stage's objective. The prompts' features are computed once if the stage does not change them."""
        learns = any(path.startswith(TEXT) for path in part.plan.trainable)
        features = (
            None
            if learns
            else self.features(self.spec_of(part.stage), state.whole(current["moving"], current["frozen"]))
        )
        return Segment(self.settings(part.stage), self.ids, features, part.skeleton, self.image_encoder)

    def features(self, spec: ModelSpec, flat: Flat) -> np.ndarray:
        """Compute the features (n, T) of all prompts, on the host."""
        text = dataclasses.replace(spec, config=spec.config.with_adapters({"dino": None, "decoder": None}))
        encode = _text_encoder(text, self.mesh, **precision.how(self.config))
        needed = text.skeleton(**precision.how(self.config)).entries
        return np.asarray(jax.device_get(encode({path: flat[path] for path in needed}, jnp.asarray(self.ids))))

    @cached_property
    def image_encoder(self) -> Skeleton:
        """The skeleton of the image encoder alone."""
        how = precision.how(self.config)
        return abstract(lambda: self.spec.config.image.build(rngs=ShapesOnly(), drop_path=0.0, **how))

    def more(self, flat: Flat) -> State:
        """Return the initial image encoder of the run, if a stage uses it as a reference."""
        if not any(self.settings(stage).ssl for stage in stages(self.config)):
            return {}
        return {"reference": {path: flat[IMAGE + path] for path in self.image_encoder.entries}}

    def carried(self, before: Part, ended: State) -> tuple[Flat, Flat, State]:
        """Return the best weights of the previous stage, including its adapters."""
        more = {name: ended["moving"][name] for name in ("reference",) if name in ended["moving"]}
        return state.whole(ended["best"], ended["frozen"]), {}, more

    def put_on(self, part: Part, flat: Flat, before: Part | None) -> Flat:
        """Keep adapters that both stages have, merge the others, and add new ones."""
        was = self.spec_of(before.stage) if before else self.spec
        return adapters.refitted(was, self.spec_of(part.stage), flat, part.seed)

    def measure(self, session: "Session", part: Part) -> Callable[[State], Metrics]:
        """Return a function that computes the metrics of the validation split."""
        measure = self._measure(part)

        def measured(current: State) -> Metrics:
            return measure(session, "val", state.whole(state.evaluated(current["moving"]), current["frozen"]))[0]

        return measured

    def _measure(self, part: Part) -> MaskMeasure:
        spec, how = self.spec_of(part.stage), precision.how(self.config)

        def batches(split: str, first: int = 0) -> Any:
            """All images of a split; or pairs in the order of `spread_first`, and that order."""
            found, size, order = self.source.split(split), EVALUATED, []
            if first:
                size, found = 1, prompted.in_groups(found, 1)
                images = [image if isinstance(image, str) else id(image) for image in found.records]
                order = spread_first(images, [prompts[0].label for prompts in found.fields["prompts"]], first)
                found = found.chosen(order)
            found = prompted.in_groups(found, size)
            most = max(map(len, found.fields["prompts"]))
            fields = self.read(most, spatial=self.prompts.spatial_prob == 1)
            make = partial(pipeline.make_eval_iter, found, fields=fields)
            made = data.batches(make, self.config, part, self.spec)
            return (made, order) if first else made

        given = dict(features=partial(self.features, spec), batches=batches, arrays=self.arrays, mesh=self.mesh)
        return MaskMeasure(spec, self.settings(part.stage), self.source.class_names, how=how, **given)

    def save_best(self, folder: Path, part: Part, flat: Mapping[str, np.ndarray], metrics: Metrics) -> None:
        """Write the segmenter to best/; its adapters are not merged."""
        card = dataclasses.replace(self.card, spec=self.spec_of(part.stage))
        how = {"stage": part.stage.name, "templates": self.prompts.templates, "num_points": self.prompts.slots}
        card = dataclasses.replace(card, source={**card.source, **how})
        weights.save(folder / "best", card, part.image_size, flat, self.companions)

    def finish(self, session: "Session") -> tuple[dict[str, Any], list[str]]:
        """Evaluate the saved best model, also per prompt; draw some pairs."""
        part = session.setup.parts[session.progress.best_model["stage"]]
        measure = self._measure(part)
        flat, found, lines = weights.load(session.folder / "best", session.setup), {}, []
        for split in [name for name in ("val", "test") if name in self.source.splits]:
            metrics, per_prompt = measure(session, split, flat)
            found |= metrics | {f"{split}/per_prompt": per_prompt}
            lines.append(
                f"{split} ({model_words(session.delivered)}): "
                + ", ".join(f"{name} {metrics[f'{split}/{name}']:.4f}" for name in METRICS)
            )
        if "test" not in self.source.splits:
            lines.append(OPTIMISTIC)
        measure.draw("val", flat, session.folder / "segmentation.png" if session.chief else None)
        return found, lines


@functools.lru_cache(maxsize=2)
def _text_encoder(spec: ModelSpec, mesh: Mesh, **how: Any) -> Callable[[Flat, jax.Array], jax.Array]:
    """Compile (flat, ids (n, t, L)) -> the prompts' features (n, T); stages with the same text encoder share it."""
    skeleton = spec.skeleton(**how)
    return jax.jit(
        lambda flat, ids: prompt_features(bind(skeleton, flat).backbone, ids), out_shardings=sharding.replicated(mesh)
    )


TASK = Segmentation
