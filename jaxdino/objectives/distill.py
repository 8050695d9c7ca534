"""Self-distillation: a student learns to predict its teacher's output from any crop, or from masked patches.

The teacher is the exponential moving average of the student. DINO compares class tokens over views, iBOT compares
masked patches, KoLeo spreads out the class tokens; Gram anchoring and feature distance keep features near a reference.

Sources: Caron et al. 2021, DINO (arXiv:2104.14294); Zhou et al. 2022, iBOT (arXiv:2111.07832); Oquab et al. 2023,
DINOv2 (arXiv:2304.07193); Simeoni et al. 2025, DINOv3 (arXiv:2508.10104); facebookresearch/dino main_dino.py,
facebookresearch/dinov2 and dinov3 train/ssl_meta_arch.py.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxdino.core.params import Flat, Skeleton, bind, values
from jaxdino.core.slices import over_slices
from jaxdino.models.batch_norm import set_training
from jaxdino.models.heads.projection import DINOHead, DINOHeadConfig
from jaxdino.models.lora import set_dropout
from jaxdino.models.spec import ModelSpec
from jaxdino.objectives.ahead import here, look_ahead
from jaxdino.objectives.collapse import signals
from jaxdino.objectives.dino import centred_softmax, dino_loss, moved_centre, sinkhorn_knopp
from jaxdino.objectives.distill_settings import TERMS, Distill, Projection
from jaxdino.objectives.gram import feature_distance, gram_loss
from jaxdino.objectives.ibot import ibot_loss, masked_indices, take
from jaxdino.objectives.koleo import koleo_loss

State = dict[str, Any]
HEADS = ("dino_head", "ibot_head")
"""Names of the projection heads: of class tokens, and of masked patches if they have a separate one."""


def with_heads(spec: ModelSpec, projection: Projection) -> ModelSpec:
    """Return the spec of a backbone with the projection heads on it."""
    fields = {name: value for name, value in dataclasses.asdict(projection).items() if name != "separate"}
    head = DINOHeadConfig(in_dim=spec.config.width, **fields)
    return dataclasses.replace(spec, heads=tuple((name, head) for name in HEADS[: 1 + projection.separate]))


@dataclasses.dataclass(frozen=True)
class SelfDistillation:
    """The objective of one stage.

    Attributes:
      skeleton: the `Network` of student and teacher, see `with_heads`.
      reference: skeleton of the backbone alone, for the reference's leaves.
      temperature, momentum: the teacher's, as functions of the stage's step.
      capacity, groups: number of masked patches per group of images; number of groups per slice, one per device.
    """

    settings: Distill
    skeleton: Skeleton
    reference: Skeleton
    temperature: Callable[[jax.Array], jax.Array]
    momentum: Callable[[jax.Array], jax.Array]
    capacity: int = 0
    groups: int = 1

    @property
    def measures(self) -> tuple[str, ...]:
        """The names of the individual losses."""
        return tuple(f"{name}_loss" for name in TERMS if getattr(self.settings, name))

    def targets(self, moving: State, frozen: Flat, parts: dict[str, jax.Array]) -> tuple[dict, State, dict]:
        """Compute the student's targets for the whole batch, from the teacher and the reference.

        Args:
          moving: with "ema", the teacher's parameters, and "teacher": its buffers, the centres, the reference.
          parts: the batch in S slices, each array (S, b, ...): global (S, b, G, H, W, 3), optionally local; mask (S, b,
            G, h, w); weight (S, b); key (S,).

        Returns:
          (parts with the targets added, updates of `moving`, the monitored signals)
        """
        own = moving["teacher"]
        if self.settings.ibot:  # images that could not be read are not masked
            parts = parts | {"mask": parts["mask"] & (parts["weight"] > 0)[..., None, None, None]}

        def look(buffers: Flat, part: dict) -> tuple[Flat, dict]:
            teacher = bind(self.skeleton, frozen | moving["ema"] | buffers)
            set_training(teacher, moving["trainable"])
            seen = self._teacher_sees(teacher, part) | self._reference_sees(own["reference"], part)
            return values(teacher, buffers), jax.lax.stop_gradient(seen)

        buffers, seen = over_slices(look, own["buffers"], parts)
        temperature = self.temperature(moving["step"])
        views = parts["global"].shape[2]
        weight = jnp.repeat(parts["weight"].reshape(-1), views)
        centres = dict(own["centres"])
        probabilities = self._sharpened("dino_head", seen.pop("scores"), weight, temperature, centres)
        found = signals(_rows(probabilities), weight) | {"features": _rows(seen.pop("features")), "counted": weight}
        more = seen | {"target": probabilities}
        if "patch_scores" in seen:
            kept = (seen["patch_weight"] > 0).astype(jnp.float32).reshape(-1)
            more["patch_target"] = self._sharpened("ibot_head", more.pop("patch_scores"), kept, temperature, centres)
        if self.settings.koleo and parts["weight"].shape[0] > 1:
            more["koleo_ahead"] = self._koleo_ahead(moving, frozen, parts)
        found |= {f"{head}_centre_norm": jnp.linalg.norm(centre) for head, centre in centres.items()}
        found |= {"teacher_temperature": temperature, "momentum": self.momentum(moving["step"])}
        changed = {"teacher": own | {"buffers": buffers, "centres": centres}}
        return parts | more, changed, found

    def _teacher_sees(self, teacher: Any, part: dict) -> dict[str, jax.Array]:
        out, views = teacher.backbone(_flat(part["global"])), part["global"].shape[:2]
        features = _views(out.cls, views)
        seen = {"features": features, "scores": teacher.dino_head(features)}
        if self.settings.ibot:
            index, weight = masked_indices(part["mask"], self.capacity, self.groups)
            patches = take(_views(out.patches, views), index)
            seen |= {"patch_scores": _patch_head(teacher)(patches), "patch_weight": weight, "patch_index": index}
        return seen

    def _reference_sees(self, flat: Flat, part: dict) -> dict[str, jax.Array]:
        if not self.settings.anchored:
            return {}
        out, views = bind(self.reference, flat)(_flat(part["global"])), part["global"].shape[:2]
        seen = {"reference_patches": _views(out.patches, views)} if self.settings.gram else {}
        return seen | ({"reference_features": _views(out.cls, views)} if self.settings.anchor else {})

    def _sharpened(
        self, head: str, scores: jax.Array, weight: jax.Array, temperature: jax.Array, centres: Flat
    ) -> jax.Array:
        """Convert scores (..., K) to probabilities; updates the head's centre in `centres`."""
        rows, settings = _rows(scores), self.settings
        if settings.centring == "sinkhorn":
            probabilities = sinkhorn_knopp(rows, weight, temperature)
        else:
            probabilities = centred_softmax(rows, centres[head], temperature)
        if settings.centring == "centre":
            centres[head] = moved_centre(centres[head], rows, weight, settings.centre_momentum)
        return probabilities.reshape(scores.shape)

    def _koleo_ahead(self, moving: State, frozen: Flat, parts: dict) -> dict[str, Any]:
        def look(part: dict) -> jax.Array:
            student = bind(self.skeleton, frozen | moving["buffers"] | moving["trainable"])
            set_training(student, moving["trainable"])
            set_dropout(student, part["key"])
            return self._global_view(student, part, part["key"])[0].astype(jnp.float32)

        return look_ahead(look, lambda features: _koleo(features, parts["weight"].reshape(-1)), parts)

    def _global_view(self, model: Any, part: dict, key: jax.Array | None) -> tuple[jax.Array, jax.Array]:
        """Compute the student's class tokens (b, G, D) and patches (b, G, h, w, D) of global views, masked for iBOT."""
        views = part["global"].shape[:2]
        mask = _flat(part["mask"]) if self.settings.ibot else None
        out = model.backbone(_flat(part["global"]), mask=mask, key=None if key is None else jax.random.fold_in(key, 0))
        return _views(out.cls, views), _views(out.patches, views)

    def loss(self, model: Any, part: dict, key: jax.Array | None) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Compute the weighted sum of the losses over one slice of a batch, each a mean over its images.

        Returns:
          (loss, {"dino_loss": ...}), scalars in float32.
        """
        settings, weight = self.settings, part["weight"]
        cls, patches = self._global_view(model, part, key)
        student, views = cls, cls.shape[1]
        if "local" in part:
            local_key = None if key is None else jax.random.fold_in(key, 1)
            local = model.backbone(_flat(part["local"]), key=local_key).cls
            student = jnp.concatenate([cls, _views(local, part["local"].shape[:2])], axis=1)
        found = {}
        if settings.dino:
            scores = model.dino_head(student)
            found["dino_loss"] = dino_loss(scores, part["target"], weight, settings.student_temperature)
        if settings.ibot:
            scores = _patch_head(model)(take(patches, part["patch_index"]))
            found["ibot_loss"] = ibot_loss(
                scores,
                part["patch_target"],
                part["patch_weight"],
                jnp.sum(weight) * views,
                settings.student_temperature,
            )
        if settings.koleo:
            ahead = part.get("koleo_ahead")
            found["koleo_loss"] = here(cls.astype(jnp.float32), ahead, weight) if ahead else _koleo(cls, weight)
        row_weight = jnp.repeat(weight, views)
        if settings.gram:
            grids = (_flat(patches), _flat(part["reference_patches"]))
            found["gram_loss"] = gram_loss(*grids, row_weight, clip_negatives=settings.gram_negatives)
        if settings.anchor:
            found["anchor_loss"] = feature_distance(_rows(cls), _rows(part["reference_features"]), row_weight)
        total = sum(getattr(settings, name.removesuffix("_loss")) * value for name, value in found.items())
        return jnp.asarray(total), found


def _patch_head(model: Any) -> DINOHead:
    """Return the head of masked patches: their own, or that of class tokens."""
    return getattr(model, "ibot_head", None) or model.dino_head


def _koleo(features: jax.Array, weight: jax.Array) -> jax.Array:
    """Sum the KoLeo losses of the global views of features (B, G, D), as DINOv2 does."""
    return jnp.asarray(sum(koleo_loss(features[:, view], weight) for view in range(features.shape[1])))


def _flat(x: jax.Array) -> jax.Array:
    """Reshape (b, V, ...) to (b V, ...): views go through a network as one batch, those of an image adjacent."""
    return x.reshape(-1, *x.shape[2:])


def _views(x: jax.Array, views: tuple[int, int]) -> jax.Array:
    """Reshape (b V, ...) to (b, V, ...)."""
    return x.reshape(*views, *x.shape[1:])


def _rows(x: jax.Array) -> jax.Array:
    """Reshape (..., D) to (n, D)."""
    return x.reshape(-1, x.shape[-1])
