"""Detect the collapse of a self-distillation run from its readings; does not need JAX.

Sources of the signals: `jaxdino.objectives.collapse`.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

FIXES = {
    "constant": "Try: centring (momentum 0.9) or Sinkhorn-Knopp if both are off, a slower teacher (momentum 0.996 or "
    "more), a longer warm-up of the teacher's temperature, a lower learning rate, a last layer frozen for longer.",
    "uniform": "Try: a lower teacher temperature (0.04; always below the student's 0.1) with a shorter warm-up, a "
    "slower teacher (momentum 0.996 or more), a lower learning rate, larger batches.",
    "features": "Try: a KoLeo weight above 0, a lower learning rate, a slower teacher (momentum 0.996 or more); from "
    "trained weights also an anchor to them (Gram or feature distance), layer decay or LoRA.",
    "knn": "Try: the backbone frozen until the new head has warmed up, a lower learning rate with layer decay, an "
    "anchor to the initial weights (Gram or feature distance), LoRA, a slower teacher.",
}
ANSWERS = {
    "constant": "the teacher gives nearly the same output for every image",
    "uniform": "the teacher gives a nearly uniform output for every image",
}
SIGNALS = ("teacher_entropy", "kl_to_uniform", "marginal_entropy", "information")
REMEMBERED = ("information", "feature_rank", "feature_std", "knn_accuracy")


@dataclasses.dataclass
class Health:
    """Judge from a run's readings whether it has collapsed. Signals missing from a reading are not judged.

    A collapse is reported after several bad readings in a row, of one of these kinds:
      outputs: all images together use very few prototypes, or the output has almost no information about the image.
        Reported as "uniform" if the output is near uniform, else as "constant".
      features: their rank or spread is a small fraction of the best so far.
      knn: the k-NN accuracy is far below the best so far, including the first reading.

    Random weights give nearly the same output for every image, and similar features. Until `grace_steps`, a run from
    random weights is therefore only compared with its own best information; afterwards it is not judged as long as its
    information rises.

    Attributes:
      trained_start: whether the backbone starts from trained weights; features and k-NN are then judged from step 0.
      knn_images, chance: number of images for the k-NN accuracy, and the accuracy of guessing.
      patience: bad readings of outputs or features in a row that mean a collapse; each is one batch, and they vary.
      patience_evals: bad readings of k-NN in a row that mean a collapse.
      settle_steps: steps before few prototypes count as bad; a centre of momentum 0.9 forgets its start in 50 steps.
      grace_steps: steps in which random weights must learn something; raise it with a long warm-up.
      few_prototypes: fewer prototypes used by all images, exp(marginal_entropy), are bad; random heads use 5 or more.
      information_floor: nats below which information is bad after the grace steps; random ViTs had 0.01 to 0.06.
      information_share: share of the best information below which it is bad; healthy runs fell to 0.4 of it.
      information_alive: nats from which the best information counts.
      information_rise: multiple of the best information that counts as still rising.
      information_noise: nats; a smaller rise is rounding.
      uniform_share: share of log K above which the outputs' entropy makes a collapse of outputs "uniform".
      rank_share: share of (best rank - 1) below which the features' rank is bad.
      std_share: share of the features' best spread below which it is bad.
      std_floor: spread of features below which it is bad after the grace steps; a random ViT has 0.09.
      knn_share: share of the best k-NN accuracy above chance, below which the accuracy is bad.
      knn_sigmas: standard errors that the k-NN accuracy must also fall, to be bad.
      state: what is remembered, as JSON; restore it to continue as if never interrupted.
    """

    trained_start: bool = False
    knn_images: int = 100
    chance: float = 0.0
    patience: int = 5
    patience_evals: int = 2
    settle_steps: int = 50
    grace_steps: int = 1000
    few_prototypes: float = 2.5
    information_floor: float = 0.1
    information_share: float = 0.1
    information_alive: float = 1.0
    information_rise: float = 1.1
    information_noise: float = 1e-3
    uniform_share: float = 0.9
    rank_share: float = 0.1
    std_share: float = 0.2
    std_floor: float = 0.01
    knn_share: float = 0.5
    knn_sigmas: float = 3.0

    state: dict[str, dict[str, Any]] = dataclasses.field(default_factory=lambda: {"best": {}, "bad": {}})

    def judge(self, step: int, reading: Mapping[str, float]) -> str | None:
        """Judge the reading at a step, counted from the start of the run.

        Args:
          reading: any of the four `signals`, feature_rank, feature_std, knn_accuracy. Other names and values that are
            not finite are ignored.

        Returns:
          None, or a message that the run has collapsed: the kind, the figures, and what to try.
        """
        known = [name for name in (*SIGNALS, *REMEMBERED) if name in reading]
        seen = {name: float(reading[name]) for name in known if math.isfinite(reading[name])}
        found = []
        for kind, patience, text in self._verdicts(step, seen):
            self.state["bad"][kind] = self.state["bad"].get(kind, 0) + 1 if text else 0
            if self.state["bad"][kind] >= patience:
                found.append(text)
        for name in REMEMBERED:
            if name in seen:
                self.state["best"][name] = max(seen[name], self.state["best"].get(name, -math.inf))
        return f"step {step}: {' '.join(found)}" if found else None

    @property
    def healthy(self) -> bool:
        """Return whether no signal is bad at present, so that a checkpoint is worth keeping."""
        return not any(self.state["bad"].values())

    def _verdicts(self, step: int, seen: dict[str, float]) -> list[tuple[str, int, str | None]]:
        """Return (what was judged, its patience, what is wrong or None) for everything in a reading."""
        found = []
        if seen.keys() >= set(SIGNALS):
            found.append(("outputs", self.patience, self._outputs(step, seen)))
        if self.trained_start or step >= self.grace_steps:
            if "feature_rank" in seen or "feature_std" in seen:
                found.append(("features", self.patience, self._features(step, seen)))
            if "knn_accuracy" in seen:
                found.append(("knn", self.patience_evals, self._knn(seen["knn_accuracy"])))
        return found

    def _outputs(self, step: int, seen: dict[str, float]) -> str | None:
        now, best = seen["information"], self.state["best"].get("information", 0.0)
        limit = self.information_share * best if best >= self.information_alive else -math.inf
        rising = now > self.information_rise * max(best, self.information_noise)
        if step >= self.grace_steps and not rising:
            limit = max(limit, self.information_floor)
        used = math.exp(seen["marginal_entropy"])
        few = used < self.few_prototypes and step >= self.settle_steps
        if now >= limit and not few:
            return None
        entropy, most = seen["teacher_entropy"], seen["teacher_entropy"] + seen["kl_to_uniform"]
        kind = "uniform" if entropy > self.uniform_share * most else "constant"
        return (
            f"collapse ({kind}): {ANSWERS[kind]}. An output has {entropy:.3f} nats of entropy (at most {most:.3f}) and "
            f"{now:.4f} nats of information about the image (best so far {best:.4f}); in all, "
            f"{used:.1f} prototypes are in use. {FIXES[kind]}"
        )

    def _features(self, step: int, seen: dict[str, float]) -> str | None:
        best, wrong = self.state["best"], []
        rank, std = seen.get("feature_rank", math.inf), seen.get("feature_std", math.inf)
        if rank - 1 < self.rank_share * (best.get("feature_rank", 1.0) - 1):
            wrong.append(f"their rank is {rank:.1f} (best so far {best['feature_rank']:.1f})")
        if std < self.std_share * best.get("feature_std", 0.0):
            wrong.append(f"their spread is {std:.4f} of 1 (best so far {best['feature_std']:.4f})")
        elif std < self.std_floor and step >= self.grace_steps:
            wrong.append(f"their spread is {std:.4f} of 1, below that of random weights")
        if not wrong:
            return None
        return f"collapse (features): images have nearly the same features, {' and '.join(wrong)}. {FIXES['features']}"

    def _knn(self, accuracy: float) -> str | None:
        best = self.state["best"].get("knn_accuracy", accuracy)
        noise = self.knn_sigmas * 0.5 / math.sqrt(max(self.knn_images, 1))  # one hit deviates by 0.5 at most
        if accuracy >= min(self.chance + self.knn_share * (best - self.chance), best - noise):
            return None
        return f"collapse (knn): the k-NN accuracy is {accuracy:.4f} (best so far {best:.4f}). {FIXES['knn']}"


OF_RUN = ("trained_start", "knn_images", "chance", "state")
THRESHOLDS: dict[str, Any] = {
    field.name: field.default for field in dataclasses.fields(Health) if field.name not in OF_RUN
}
"""Settings that a config may change, with their defaults; the run itself sets the others."""
