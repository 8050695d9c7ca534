"""Segmentation metrics on a split of (image, prompt, mask) pairs, and example pictures."""

import functools
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxdino.core import sharding
from jaxdino.core.errors import UserError
from jaxdino.core.params import Flat, bind
from jaxdino.data import photometric
from jaxdino.data.pipeline import Batch
from jaxdino.evals import segmentation as evals
from jaxdino.evals.passes import outputs
from jaxdino.models.spec import ModelSpec
from jaxdino.objectives.segment import Segment, predict
from jaxdino.objectives.segment_settings import Segmenting
from jaxdino.train.task import Metrics

if TYPE_CHECKING:
    from jaxdino.train.session import Session

SHOWN = 6  # pairs in the picture
METRICS = ("miou", "dice", "iou", "iou_50", "iou_75", "iou_90", "precision", "recall", "loss")
"""Metrics of a split; see `evals.segmentation.summarise`."""


@functools.lru_cache(maxsize=2)
def _compiled(spec: ModelSpec, settings: Segmenting, mesh: Mesh, **how: Any) -> Callable[[Flat, Any, Batch], Batch]:
    """Compile (flat, text, batch) -> {"logits" (B, P, H, W), the counts of `evals.counts` (B, P), "loss" ()}.

    Stages with the same model share the compiled function. `how`: the precision, as `ModelSpec.build` takes it.
    """
    skeleton, objective = spec.skeleton(**how), Segment(settings, ids=None)
    normalize = partial(photometric.normalize, mean=spec.preprocess.mean, std=spec.preprocess.std)

    def look(flat: Flat, text: jax.Array, batch: Batch) -> Batch:
        net = bind(skeleton, flat).backbone
        weight = batch["weight"][:, None] * batch["asked"]
        part = batch | {"image": normalize(batch["image"]), "weight": weight}
        logits, iou = predict(net, net.tokens(part["image"]), text[batch["label"].reshape(-1)], part)
        losses = objective.mask_losses(logits, iou, part)
        loss = sum(getattr(settings, name.removesuffix("_loss")) * value for name, value in losses.items())
        return evals.counts(logits, batch["mask"]) | {"logits": logits, "loss": loss, "weight": weight}

    return jax.jit(look, out_shardings=sharding.replicated(mesh))


class MaskMeasure:
    """Evaluate the masks of a stage's model under the conditions of training: same size, same crop, same prompts.

    Args:
      how: the precision, as `ModelSpec.build` takes it.
      features: (flat) -> the prompts' features (n, T).
      batches: makes the batches of a split: (name of the split) -> `EvalBatches`; (name of the split, n) ->
        (`EvalBatches` in the order of `samples.spread_first`, that order).
    """

    def __init__(
        self,
        spec: ModelSpec,
        settings: Segmenting,
        names: tuple[str, ...],
        *,
        how: dict[str, Any],
        features: Callable[[Flat], np.ndarray],
        batches: Callable[..., Any],
        arrays: tuple[str, ...],
        mesh: Mesh,
    ):
        self.names, self.features, self.batches, self.arrays, self.mesh = names, features, batches, arrays, mesh
        self._look = _compiled(spec, settings, mesh, **how)

    def __call__(self, session: "Session", split: str, flat: Flat) -> tuple[Metrics, dict[str, Metrics]]:
        """Compute the metrics of a whole split, {"val/miou": ...}, and those of each prompt.

        Raises:
          Stopped: if the run is asked to stop during the pass.
          UserError: if no pair of the split can be read, or the model outputs nan or infinity.
        """
        text = self.features(flat)

        def step(batch: Batch) -> Batch:
            seen = {name: value for name, value in self._look(flat, text, batch).items() if name != "logits"}
            return seen | {"prompt": batch["label"], "masked": batch["masked"]}

        found: dict[str, list[np.ndarray]] = {"prompt": []}
        losses, weights = [], []
        for seen in outputs(step, session.each(split, self.batches(split)), self.arrays, self.mesh):
            weight = seen.pop("weight")
            losses.append(float(seen.pop("loss")) * weight.sum())
            weights.append(weight.sum())
            counted = weight * seen.pop("masked") > 0
            for name, value in seen.items():
                found.setdefault(name, []).append(value[counted])
        loss = float(sum(losses) / max(sum(weights), 1e-12))
        if not np.isfinite(loss):
            raise UserError(
                f"the model outputs nan or infinity for the {split} images: lower the learning rates of its stage, "
                "check the weights it started from for nan, and start in a new --workdir"
            )
        counts = {name: np.concatenate(values) for name, values in found.items()}
        metrics = evals.summarise(counts, counts.pop("prompt"), self.names)
        per_prompt = metrics.pop("per_prompt")
        return {f"{split}/{name}": value for name, value in {**metrics, "loss": loss}.items()}, per_prompt

    def draw(self, split: str, flat: Flat, file: Path | None) -> None:
        """Draw image, prompt, true mask and predicted mask of some pairs of a split, from different images if possible.

        Pairs of the same image are adjacent; a pair that cannot be read is left out. All processes of a run compute;
        those without a `file` do not draw.
        """
        from jaxdino.evals.segmentation_pictures import draw_pairs

        text, shown = self.features(flat), []
        batches, order = self.batches(split, SHOWN)
        for batch in batches:
            given = {name: batch[name] for name in self.arrays if name in batch}
            given = sharding.put_batch(given | {"index": batch["index"].astype(np.int32)}, self.mesh)
            index = given.pop("index")
            logits = np.asarray(jax.device_get(self._look(flat, text, given)["logits"]))
            batch = sharding.gather(given | {"index": index})
            for row in np.flatnonzero(batch["weight"] > 0):
                prompt = self.names[batch["label"][row, 0]]
                pair = batch["image"][row], prompt, batch["mask"][row, 0], logits[row, 0] > 0
                shown.append((order[batch["index"][row]], pair))
            if len(shown) >= SHOWN:
                break
        shown = [pair for _, pair in sorted(shown[:SHOWN], key=lambda each: each[0])]
        if file:
            draw_pairs(*zip(*shown, strict=True), file)
