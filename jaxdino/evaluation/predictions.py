"""One pass over a split: logits, labels and features of all images that can be read, and who they are."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import jax
import numpy as np
from scipy.special import expit, log_expit, log_softmax, softmax

from jaxdino.api.several_views import averaged, views
from jaxdino.core.bars import bar
from jaxdino.core.errors import UserError
from jaxdino.core.params import Flat, bind
from jaxdino.data.bad_images import check_read
from jaxdino.data.photometric import standardise
from jaxdino.data.pipeline import EvalBatches, make_eval_iter
from jaxdino.data.record import Split
from jaxdino.evals.passes import outputs
from jaxdino.evaluation.finished_run import FinishedRun
from jaxdino.models.heads.calibration import Calibration
from jaxdino.models.heads.linear import POOLS


@dataclasses.dataclass(frozen=True)
class Predictions:
    """Outputs for N images of a split.

    Attributes:
      logits: float64 (N, C). labels: int (N,), or bool (N, C) for images with several classes.
      features: float32 (N, D), what the head reads. indices: the images' numbers in the split.
      unread: number of images that could not be read. calibration: that of the model, None without one.
    """

    split: Split
    names: tuple[str, ...]
    logits: np.ndarray
    labels: np.ndarray
    features: np.ndarray
    indices: np.ndarray
    unread: int = 0
    calibration: Calibration | None = None

    def __len__(self) -> int:
        return len(self.logits)

    @property
    def several(self) -> bool:
        """Whether an image has any number of classes."""
        return self.labels.ndim == 2

    @cached_property
    def there(self) -> np.ndarray:
        """Whether each image has each class, bool (N, C)."""
        return self.labels if self.several else self.labels.reshape(-1, 1) == np.arange(len(self.names))

    @cached_property
    def odds(self) -> np.ndarray:
        """Probabilities float64 (N, C) that the model gives: softmax, or sigmoid for images with several classes."""
        if self.calibration is not None:
            return self.calibration.odds(self.logits, self.several)
        return expit(self.logits) if self.several else softmax(self.logits, axis=1)

    @cached_property
    def log_odds(self) -> np.ndarray:
        """Logarithms of the probabilities: they rank images of which the probability is 1 to the last digit."""
        if self.calibration is not None and self.calibration.method == "isotonic":
            return self.odds
        scores = self.logits if self.calibration is None else self.calibration.scores(self.logits)
        return log_expit(scores) if self.several else log_softmax(scores, axis=1)

    @cached_property
    def said(self) -> np.ndarray:
        """The most probable class of each image, int (N,); of several as probable, that of the highest logit."""
        if self.calibration is None:
            return self.logits.argmax(axis=1)
        best = self.odds == self.odds.max(axis=1, keepdims=True)
        return np.where(best, self.logits, -np.inf).argmax(axis=1)

    def rows(self, chosen: np.ndarray) -> "Predictions":
        """Return the predictions of some images."""
        parts = {key: getattr(self, key)[chosen] for key in ("logits", "labels", "features", "indices")}
        return dataclasses.replace(self, **parts)


def forward(model: Any, flat: Flat, images: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return logits (B, C) and the head's features (B, D) of images float (B, H, W, C) in 0..1, inside jit."""
    how = model.card.spec.preprocess
    network = bind(model.skeleton, flat)
    pixels = standardise(images, how.mean, how.std)
    outs = [network.backbone(pixels)]
    if network.blocks != 1:
        outs = network.backbone.intermediate_layers(pixels, network.blocks)
    return network.head(outs)["logits"], POOLS[model.card.head.pool].features(outs)


def batches_of(run: FinishedRun, split: Split, batch_size: int) -> EvalBatches:
    """Return the batches of a split, preprocessed for the model."""
    how = run.model.card.spec.preprocess
    return make_eval_iter(
        split,
        run.data,
        batch_size=min(batch_size, len(split)),
        image_size=how.size,
        resize=how.resize,
        channels=len(how.mean),
        fields=run.fields,
    )


def predicted(
    run: FinishedRun,
    split: Split,
    batch_size: int,
    what: str,
    say: Callable[[str], None],
    tta: Sequence[str] = (),
) -> Predictions:
    """Pass a split through the model.

    Args:
      tta: kinds of views whose probabilities are averaged; the features are those of the image alone.
      what: its name for the progress bar. say: called with a line about images that could not be read.

    Raises:
      UserError: if no image can be read, or the model outputs nan or infinity.
    """
    field = run.fields[0].name

    @jax.jit
    def step(flat: Flat, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        logits, features = forward(run.model, flat, batch["image"].astype("float32") / 255)
        kept = {name: batch[name] for name in (field, "weight", "index")}
        return kept | {"logits": logits, "features": features}

    batches = batches_of(run, split, batch_size)
    found: dict[str, list[np.ndarray]] = {name: [] for name in ("logits", "features", field, "index")}
    each = ({**batch, "index": batch["index"].astype(np.int32)} for batch in bar(batches, what, unit="batch"))

    def seen(batch: Any) -> dict[str, Any]:
        given = dict(batch)
        if not tta:
            return step(run.model.flat, given)
        of_views = [step(run.model.flat, given | {"image": view}) for view in views(given["image"], tta)]
        return of_views[0] | {f"logits{n}": one["logits"] for n, one in enumerate(of_views)}

    for out in outputs(seen, each, ("image", field, "weight", "index")):
        read = out["weight"] > 0
        if tta:
            logits = [
                np.asarray(out[name], np.float64) for name in out if name.startswith("logits") and name != "logits"
            ]
            out["logits"] = averaged(logits, run.several)
        for name, parts in found.items():
            parts.append(out[name][read])
    arrays = {name: np.concatenate(parts) for name, parts in found.items()}
    check_read(batches.bad, len(batches.bad), len(split), say)
    if batches.bad:
        say(batches.bad.report())
    if not np.isfinite(arrays["logits"]).all():
        raise UserError(f"the model in {run.folder} outputs nan or infinity for images of {split.name}")
    labels = arrays[field] > 0.5 if run.several else arrays[field].astype(np.int64)
    logits, features = arrays["logits"].astype(np.float64), arrays["features"].astype(np.float32)
    kept = run.model.card.calibration
    return Predictions(split, run.names, logits, labels, features, arrays["index"], len(batches.bad), kept)


def spread(split: Split, most: int | None) -> Split:
    """Return at most `most` images of a split, spread evenly over it; all for None."""
    places = spread_places(len(split), most)
    return split if len(places) == len(split) else split.chosen(places.tolist())


def spread_places(count: int, most: int | None) -> np.ndarray:
    """Return the numbers of the images that `spread` takes of `count`."""
    if most is None or count <= most:
        return np.arange(count)
    return np.linspace(0, count - 1, most).astype(int)


def joined_batches(found: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Return the arrays of all batches by name, one after the other."""
    return {name: np.concatenate([one[name] for one in found]) for name in found[0]}


def shown_names(found: Predictions, rows: Sequence[int]) -> list[str]:
    """Return the names of some images."""
    return [found.split.record_name(int(found.indices[row])) for row in rows]
