"""Text-prompted segmentation: masks for (image, prompt) pairs, optionally aligned with the prompts' features.

Sources: Kirillov et al. 2023, Segment Anything (arXiv:2304.02643), section 3 and appendix A, for Dice, cross entropy
and the regression of the IoU; Radford et al. 2021, CLIP (arXiv:2103.00020), for the alignment.
"""

import dataclasses
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from jaxdino.core.params import Flat, Skeleton, bind
from jaxdino.core.slices import over_slices
from jaxdino.models.lora import set_dropout
from jaxdino.objectives.ahead import here, look_ahead
from jaxdino.objectives.gram import feature_distance, gram_loss
from jaxdino.objectives.masks import (
    alignment_loss,
    bce_loss,
    dice_loss,
    iou_loss,
    prompted,
    prompted_weight,
    upsampled,
)
from jaxdino.objectives.segment_settings import TERMS, Segmenting

State = dict[str, Any]
Batch = dict[str, Any]


@dataclasses.dataclass(frozen=True, eq=False)
class Segment:
    """The objective of one stage.

    Attributes:
      ids: (n, t, L) int32, the tokens of the n prompts in t templates.
      features: (n, T) of the prompts, if the stage does not train the text encoder; None computes them in each step.
      skeleton: skeleton of the model, to align a batch that is processed in slices.
      reference: skeleton of the image encoder alone, for `ssl`; its leaves are `moving["reference"]`.
    """

    settings: Segmenting
    ids: np.ndarray | None
    features: np.ndarray | None = None
    skeleton: Skeleton | None = None
    reference: Skeleton | None = None

    @property
    def measures(self) -> tuple[str, ...]:
        """The names of the individual losses."""
        return tuple(f"{name}_loss" for name in TERMS if getattr(self.settings, name))

    def targets(self, moving: State, frozen: Flat, parts: Batch) -> tuple[Batch, State, Batch]:
        """Compute for the whole batch: the outputs of the run's initial image encoder, for `ssl`; the alignment, which
        contrasts all pairs, of a batch in slices."""
        more = {}
        if self.settings.ssl:
            reference = cast(Skeleton, self.reference)

            def began(_: Any, part: Batch) -> tuple[Any, Batch]:
                out = bind(reference, moving["reference"])(part["image"])
                return None, {"reference_patches": out.patches, "reference_cls": out.cls}

            more |= jax.lax.stop_gradient(over_slices(began, None, parts)[1])
        if self.settings.align:
            more["align_weight"] = prompted_weight(parts["mask"], parts["masked"], parts["weight"])
            if parts["weight"].shape[0] > 1:
                more["align_ahead"] = self._align_ahead(moving, frozen, parts | more)
        return parts | more, {}, {}

    def _align_ahead(self, moving: State, frozen: Flat, parts: Batch) -> dict[str, Any]:
        def look(part: Batch) -> tuple[jax.Array, jax.Array]:
            model = bind(cast(Skeleton, self.skeleton), frozen | moving["buffers"] | moving["trainable"])
            set_dropout(model, part["key"])
            net = model.backbone
            tokens = net.token_projection(net.dino(part["image"], key=part["key"]).patches)
            return of_pairs(tokens, part), self.text(net, part["label"].reshape(-1))

        label, weight = (parts[name].reshape(-1) for name in ("label", "align_weight"))
        return look_ahead(
            look, lambda pairs: alignment_loss(pairs[0], pairs[1], label, weight, self.settings.temperature), parts
        )

    def loss(self, model: Any, part: Batch, key: jax.Array | None) -> tuple[jax.Array, Batch]:
        """Compute the weighted sum of the losses over one slice of a batch.

        Args:
          model: has a `ClipDinoSam` as its backbone.
          part: image (b, H, W, 3) float, normalised; of up to P prompts each: mask (b, P, H, W), 0, 1 or 255 for
            ignored pixels; label (b, P), index of the prompt; masked and weight (b, P); optionally points (b, P, K, 2)
            and point_labels (b, P, K).

        Returns:
          (loss, {"dice_loss": ...}), scalars in float32.
        """
        net, settings = model.backbone, self.settings
        out = net.dino(part["image"], key=key)
        tokens, text = net.token_projection(out.patches), self.text(net, part["label"].reshape(-1))
        found = {}
        if settings.dice or settings.bce or settings.iou:
            found |= self.mask_losses(*predict(net, tokens, text, part), part)
        if settings.align:
            found["align_loss"] = self._alignment(of_pairs(tokens, part), text, part)
        if settings.ssl:
            weight = part["weight"].sum(axis=1)
            held = gram_loss(out.patches, part["reference_patches"], weight)
            found["ssl_loss"] = held + feature_distance(out.cls, part["reference_cls"], weight)
        total = sum(getattr(settings, name.removesuffix("_loss")) * value for name, value in found.items())
        return jnp.asarray(total), found

    def _alignment(self, image: jax.Array, text: jax.Array, part: Batch) -> jax.Array:
        if "align_ahead" in part:
            return here((image, text), part["align_ahead"], part["weight"].reshape(-1))
        label, weight = (part[name].reshape(-1) for name in ("label", "align_weight"))
        return alignment_loss(image, text, label, weight, self.settings.temperature)

    def text(self, net: Any, label: jax.Array) -> jax.Array:
        """Compute the features of prompts: (n,) -> (n, T), float32."""
        if self.features is None:
            return prompt_features(net, jnp.asarray(self.ids)[label])
        return jnp.asarray(self.features)[label]

    def mask_losses(self, logits: jax.Array, iou: jax.Array, part: Batch) -> Batch:
        """Compute Dice, cross entropy and IoU regression over the pairs with a mask, as shares of all pairs.

        Args:
          logits: (b, P, H, W). iou: (b, P), predicted.
        """
        weight, masks = (part["weight"] * part["masked"]).reshape(-1), part["mask"].reshape(-1, *part["mask"].shape[2:])
        logits, iou = logits.reshape(masks.shape), iou.reshape(-1)
        share = jnp.sum(weight) / jnp.maximum(jnp.sum(part["weight"]), 1e-12)
        losses = {
            "dice_loss": lambda: dice_loss(logits, masks, weight, self.settings.smooth),
            "bce_loss": lambda: bce_loss(logits, masks, weight),
            "iou_loss": lambda: iou_loss(iou, logits, masks, weight),
        }
        return {name: share * loss() for name, loss in losses.items() if name in self.measures}


def predict(net: Any, tokens: jax.Array, text: jax.Array, part: Batch) -> tuple[jax.Array, jax.Array]:
    """Predict the masks of the prompts of each image.

    Args:
      net: a `ClipDinoSam`. tokens: (b, h, w, T). text: (b P, T). part: image, label (b, P), optionally points and
        point_labels.

    Returns:
      logits (b, P, H, W) at the image's size and predicted IoU (b, P), float32.
    """
    spatial = dict(points=part["points"], labels=part["point_labels"]) if "points" in part else {}
    rows, prompts = part["label"].shape
    logits, iou = net.masks(tokens, text.reshape(rows, prompts, -1), **spatial)
    size = part["image"].shape[1:3]
    large = upsampled(logits[:, :, 0].reshape(rows * prompts, *logits.shape[3:]), size)
    return large.reshape(rows, prompts, *size), iou[:, :, 0]


def of_pairs(tokens: jax.Array, part: Batch) -> jax.Array:
    """Pool the tokens (b, h, w, T) that are aligned with each prompt: (b P, T), float32; see `masks.prompted`."""
    mask, masked = part["mask"].reshape(-1, *part["mask"].shape[2:]), part["masked"].reshape(-1)
    return prompted(jnp.repeat(tokens, part["label"].shape[1], axis=0), mask, masked)


def prompt_features(net: Any, ids: jax.Array) -> jax.Array:
    """Compute prompt features from tokens (n, t, L) in t templates: (n, T) float32, template means of unit length.

    Source: openai/CLIP notebooks/Prompt_Engineering_for_ImageNet.ipynb, zeroshot_classifier.
    """
    n, templates, length = ids.shape
    features = net.encode_text(ids.reshape(n * templates, length)).reshape(n, templates, -1)
    mean = jnp.mean(features.astype(jnp.float32), axis=1)
    return mean / jnp.maximum(jnp.linalg.norm(mean, axis=-1, keepdims=True), 1e-12)
