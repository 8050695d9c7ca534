"""What a model sees on its own validation data, kept with it: the reference that served images are compared with."""

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file
from safetensors.numpy import save as as_bytes

from jaxdino.core.errors import UserError
from jaxdino.core.json_file import JsonError, read_json, write_json
from jaxdino.serving.watching import distances

FOLDER, ARRAYS, FACTS = "drift_reference", "reference.safetensors", "reference.json"
FACTS_FORMAT = 1
COMPONENTS = 8  # directions of the features whose histograms are compared
MOST = 1000  # images of the reference that the MMD is computed with
LEAST = 60  # images that a reference is made of
DRAWS = 400  # windows that the thresholds are taken from
QUANTILE = 0.999
FLOORS = {"psi_confidence": 0.25, "psi_classes": 0.25, "psi_features": 0.25, "mmd": 0.0}
"""No alarm below: 0.25 is the customary limit of a large shift of the index."""
MEASURES = tuple(FLOORS)


@dataclasses.dataclass(frozen=True)
class Sample:
    """What a set of images gives.

    Attributes:
      features: float32 (n, D). confidence: (n,) largest probabilities. classes: (n,) indices of the most probable
        classes; without a head both are empty, (0,).
    """

    features: np.ndarray
    confidence: np.ndarray
    classes: np.ndarray

    def __len__(self) -> int:
        return len(self.features)

    def rows(self, chosen: np.ndarray) -> "Sample":
        """Return some of the images."""
        empty = not len(self.confidence)
        return Sample(
            self.features[chosen],
            self.confidence if empty else self.confidence[chosen],
            self.classes if empty else self.classes[chosen],
        )


@dataclasses.dataclass(frozen=True)
class Reference:
    """A sample of held-out images, and the distances from which a window of `window` images is an alarm.

    Attributes:
      digest: of the model. num_classes: of its head. thresholds: {measure: distance}.
    """

    sample: Sample
    digest: str
    num_classes: int
    window: int
    thresholds: Mapping[str, float]

    def __post_init__(self):
        sample = self.sample
        features = np.asarray(sample.features, np.float64)
        mean = features.mean(0)
        _, _, directions = np.linalg.svd(features - mean, full_matrices=False)
        kept = features[:: -(-len(features) // MOST)]
        scale = distances.bandwidth(kept)
        parts = {"mean": mean, "directions": directions[:COMPONENTS], "kept": kept, "scale": scale}
        parts["within"] = distances.within(kept, scale)
        columns = [
            (f"component {n}", column) for n, column in enumerate(((features - mean) @ directions[:COMPONENTS].T).T)
        ]
        columns += [("confidence", sample.confidence)] * bool(len(sample.confidence))
        parts["edges"] = {name: distances.edges_of(values) for name, values in columns}
        object.__setattr__(self, "_parts", parts)
        parts["codes"] = self.codes(sample)

    def codes(self, sample: Sample) -> dict[str, np.ndarray]:
        """Return the bin of each image in every histogram, {histogram: int (n,)}."""
        parts: dict[str, Any] = self._parts  # type: ignore[attr-defined]
        projected = (np.asarray(sample.features, np.float64) - parts["mean"]) @ parts["directions"].T
        values = {f"component {n}": column for n, column in enumerate(projected.T)}
        if len(sample.confidence):
            values["confidence"] = sample.confidence
        found = {name: np.searchsorted(parts["edges"][name], column, side="right") for name, column in values.items()}
        return found | ({"classes": sample.classes} if len(sample.confidence) else {})

    def indices(self, of: Mapping[str, np.ndarray], window: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Return the stability indices of two sets of images, each as `codes` gives it."""
        parts: dict[str, Any] = self._parts  # type: ignore[attr-defined]
        each = {}
        for name in of:
            bins = self.num_classes if name == "classes" else len(parts["edges"][name]) + 1
            each[name] = distances.psi(*(np.bincount(one[name], minlength=bins) for one in (of, window)))
        found = {f"psi_{name}": each[name] for name in ("confidence", "classes") if name in each}
        return found | {"psi_features": float(np.mean([each[name] for name in each if name.startswith("component")]))}

    def measure(self, window: Sample) -> dict[str, float]:
        """Return the distances of a window from the reference, by measure; without a head two of them."""
        parts: dict[str, Any] = self._parts  # type: ignore[attr-defined]
        codes = self.codes(window)
        found = self.indices({name: parts["codes"][name] for name in codes if name in parts["codes"]}, codes)
        features = np.asarray(window.features, np.float64)
        return found | {"mmd": distances.mmd2(parts["kept"], features, parts["scale"], parts["within"])}

    def alarms(self, found: Mapping[str, float]) -> list[str]:
        """Return the measures that are above their thresholds."""
        return [name for name, value in found.items() if value > self.thresholds[name]]


def made(sample: Sample, digest: str, num_classes: int, window: int, seed: int = 0) -> Reference:
    """Return the reference of a sample, with thresholds for windows of `window` images.

    The sample is split at random, again and again, into a window and the rest. A threshold is the `QUANTILE` of the
    distances between the two, at least the floor of its measure. So a window of the same data raises an alarm once in
    about 1,000 / number of measures, and the thresholds know the size of the window.

    Raises:
      UserError: for too few images for such a window.
    """
    if len(sample) < LEAST:
        raise UserError(f"a reference needs at least {LEAST} images, and there are {len(sample)}: give another split")
    window = min(window, len(sample) // 2)
    blank = Reference(sample, digest, num_classes, window, {})
    drawn = list(_splits(blank, np.random.default_rng(seed)))
    limits = {name: np.quantile([one[name] for one in drawn], QUANTILE) for name in drawn[0]}
    return dataclasses.replace(blank, thresholds={name: max(FLOORS[name], float(x)) for name, x in limits.items()})


def _splits(of: Reference, rng: np.random.Generator) -> Iterator[dict[str, float]]:
    """Yield the distances between a random window of the reference's own images and the rest, `DRAWS` times."""
    parts: dict[str, Any] = of._parts  # type: ignore[attr-defined]
    rows = rng.permutation(len(of.sample))[: of.window + MOST]
    features, codes = np.asarray(of.sample.features, np.float64)[rows], of.codes(of.sample.rows(rows))
    kernel = np.exp(-distances.squared_distances(features, features) / parts["scale"])
    sums, n, m = kernel.sum(1), of.window, len(rows) - of.window
    for _ in range(DRAWS):
        order = rng.permutation(len(rows))
        chosen, rest = order[:n], order[n:]
        inside = kernel[np.ix_(chosen, chosen)].sum()
        across = sums[chosen].sum() - inside
        outside = sums.sum() - inside - 2 * across
        mmd = (inside - n) / (n * (n - 1)) + (outside - m) / (m * (m - 1)) - 2 * across / (n * m)
        both = [{name: values[part] for name, values in codes.items()} for part in (rest, chosen)]
        yield {**of.indices(*both), "mmd": float(mmd)}


def save(reference: Reference, folder: Path) -> Path:
    """Write a reference into `folder`/drift_reference; return that folder."""
    place = folder / FOLDER
    place.mkdir(parents=True, exist_ok=True)
    sample = reference.sample
    arrays = {"features": sample.features.astype(np.float32), "confidence": sample.confidence.astype(np.float64)}
    (place / ARRAYS).write_bytes(as_bytes({**arrays, "classes": sample.classes.astype(np.int32)}))
    facts = {"format": FACTS_FORMAT, "digest": reference.digest, "num_classes": reference.num_classes}
    write_json(place / FACTS, {**facts, "window": reference.window, "thresholds": dict(reference.thresholds)})
    return place


def load(folder: str | Path, digest: str) -> Reference:
    """Read the reference of a model.

    Raises:
      UserError: if it is missing, damaged, or of other weights.
    """
    place = Path(folder) / FOLDER
    if not place.exists():
        raise UserError(f"there is no reference {place}: jaxdino serve --make_reference makes one")
    try:
        facts = read_json(place / FACTS, dict)
        arrays = load_file(place / ARRAYS)
        sample = Sample(arrays["features"], arrays["confidence"].astype(np.float64), arrays["classes"].astype(np.int64))
        limits = {str(name): float(value) for name, value in facts["thresholds"].items()}
        if facts["format"] != FACTS_FORMAT or not set(limits) <= set(MEASURES) or len(sample) < LEAST:
            raise ValueError("another format")
        if facts["digest"] == digest:
            return Reference(sample, digest, int(facts["num_classes"]), int(facts["window"]), limits)
    except (JsonError, SafetensorError, OSError, KeyError, ValueError, TypeError, AttributeError) as err:
        raise UserError(f"{place} is no reference ({err}): jaxdino serve --make_reference makes one") from None
    raise UserError(f"{place} is of other weights than the model: jaxdino serve --make_reference makes it again")
