"""Forgetting: what a backbone still knows of a held-back data set at the start of a run and after each stage."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxdino.api.opening import open_model
from jaxdino.comparison.cka import linear_cka
from jaxdino.core.bars import bar
from jaxdino.core.params import Digest
from jaxdino.data.bad_images import check_read
from jaxdino.data.config import DataConfig
from jaxdino.data.record import Source, Split
from jaxdino.data.sources import load_source
from jaxdino.evals import pools, report
from jaxdino.evals.knn import knn_accuracy
from jaxdino.evals.linear_heads import right_of, standardisation
from jaxdino.evals.passes import Arrays, outputs
from jaxdino.evaluation.predictions import spread
from jaxdino.probing import logistic
from jaxdino.train.workdir import STAGES

K, C, ITERATIONS = 10, 1.0, 500
"""Neighbours of k-NN; the inverse penalty and most iterations of logistic regression on standardised features."""


class Features(NamedTuple):
    """Features of N images: those that a head reads (N, D), mean patches of each layer (N, D_i), labels (N,)."""

    pooled: np.ndarray
    layers: list[np.ndarray]
    labels: np.ndarray


@dataclasses.dataclass
class ProbeSet:
    """A data set that no run trains on: a bank, and the images that are asked.

    Attributes:
      known: {digest of a backbone: its measures}, so that each backbone is measured once.
    """

    name: str
    classes: int
    bank: Split
    asked: Split
    data: DataConfig
    batch_size: int
    say: Callable[[str], None]
    known: dict[str, tuple[dict[str, float], Features]] = dataclasses.field(default_factory=dict)

    def about(self) -> dict[str, Any]:
        """Return what the measures depend on, beside the model."""
        return {"data": self.name, "bank": len(self.bank), "asked": len(self.asked), "k": K, "C": C}

    def measure(self, folder: Path) -> tuple[dict[str, float], Features]:
        """Return ({"knn", "linear"}, the features of the asked images) of the model in a folder."""
        model, _ = open_model(folder)
        digest = _digest(model)
        if digest in self.known:
            return self.known[digest]
        bank, asked = (self._features(model, split) for split in (self.bank, self.asked))
        given = bank.pooled, bank.labels, asked.pooled, asked.labels
        k = min(K, len(bank.labels))
        near = knn_accuracy(*given, k=(k,), num_classes=self.classes)[k]
        mean, scale = standardisation(bank.pooled)
        heads = logistic.fit((bank.pooled - mean) * scale, bank.labels, [C], self.classes, ITERATIONS).heads
        (linear,) = right_of(heads, (asked.pooled - mean) * scale, asked.labels).mean(axis=0)
        found = {"knn": float(near), "linear": float(linear)}, asked
        self.known[digest] = found
        return found

    def _features(self, model: Any, split: Split) -> Features:
        depth, pool = layer_count(model.card.spec.config), model.card.pool

        @jax.jit
        def means(outs: list[Any]) -> list[jax.Array]:
            return [out.patches.mean(axis=(1, 2)).astype(np.float32) for out in outs]

        def step(batch: Arrays) -> dict[str, Any]:
            images = batch["image"]
            found = {"pooled": pools.look(model, images, pool), "label": batch["label"], "weight": batch["weight"]}
            layers = means(model.intermediate_layers(images, depth)) if depth else []
            return found | {f"layer{place}": one for place, one in enumerate(layers)}

        batches = report.batches_of(split, self.data, model, self.batch_size)
        kept: dict[str, list[np.ndarray]] = {}
        each = bar(batches, f"features of {self.name}, {split.name}", unit="batch")
        for out in outputs(step, each, ("image", "label", "weight")):
            read = out.pop("weight") > 0
            for name, values in out.items():
                kept.setdefault(name, []).append(np.asarray(values)[read])
        check_read(batches.bad, len(batches.bad), len(split), self.say)
        arrays = {name: np.concatenate(parts) for name, parts in kept.items()}
        layers = [arrays[f"layer{place}"] for place in range(depth)]
        return Features(arrays["pooled"].astype(np.float32), layers, arrays["label"].astype(np.int32))


def _digest(model: Any) -> str:
    """Return the digest of a backbone: its head does not change the features."""
    digest = Digest()
    for path, leaf in model.flat.items():
        if path.startswith("backbone."):
            digest.add(path, np.asarray(leaf))
    return f"{digest.value()} {model.card.pool}"


def layer_count(config: Any) -> int:
    """Return the number of blocks (of a ViT) or stages (of a ResNet, a ConvNeXt); 0 if the family does not say it."""
    return getattr(config, "depth", 0) or len(getattr(config, "depths", ()))


def probe_set(
    root: str | None, name: str | None, most: int, batch_size: int, data: DataConfig, say: Callable[[str], None]
) -> ProbeSet:
    """Return the held-back data set: a folder with classes, or the embedded digits.

    Args:
      most: most images of the bank, and of those that are asked; they are spread over their splits.
      data: of the runs, for the number of threads and the limit of pixels.

    Raises:
      UserError: if the data cannot be listed, or has no validation or test split.
    """
    kind = name or ("folder" if root else "digits")
    how = {"num_threads": data.num_threads, "max_pixels": data.max_pixels, "sixteen_bit": data.sixteen_bit}
    given = DataConfig(name=kind, root=root, **how)
    source: Source = load_source(given)
    asked = source.splits["test"] if "test" in source.splits else source.split("val")
    bank = spread(source.split("train"), most)
    label = root or source.name
    return ProbeSet(label, len(source.class_names), bank, spread(asked, most), given, batch_size, say)


def forgetting(folder: Path, probe: ProbeSet) -> list[dict[str, Any]]:
    """Return, for the start and each stage of a run: {"stage", "knn", "linear", "cka": a list over the layers}.

    CKA compares the mean patches of each layer with those at the start. [] if the run did not keep its models.
    """
    places = sorted((folder / STAGES).glob("*/best"), key=lambda place: int(place.parent.name.split("_")[0]))
    rows: list[dict[str, Any]] = []
    first: Features | None = None
    for place in places:
        measures, found = probe.measure(place)
        first = first or found
        cka = [linear_cka(*pair) for pair in zip(first.layers, found.layers, strict=True)]
        rows.append({"stage": place.parent.name.split("_", 1)[1], **measures, "cka": cka})
    return rows
