"""The judgement of a run of self-distillation by its readings; needs no JAX.

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
    "constant": "the teacher gives every image nearly the same answer",
    "uniform": "the teacher gives every image all prototypes alike",
}
SIGNALS = ("teacher_entropy", "kl_to_uniform", "marginal_entropy", "information")
REMEMBERED = ("information", "feature_rank", "feature_std", "knn_accuracy")


@dataclasses.dataclass
class Health:
    """Whether a run has collapsed, judged from its readings; what a reading lacks is not judged by it.

    A collapse is called after some bad readings in a row, of one of these:
      outputs: all images together use hardly any prototype, or the answer tells (almost) nothing of the image. Called
        "uniform" where the answer is near uniform, "constant" elsewhere.
      features: their rank or their spread is a small part of the best so far.
      knn: the k-NN accuracy is far below the best so far, the first reading included.

    Random weights answer every image nearly alike, and their features are dull. Until `grace_steps` a run from them is
    therefore held only to what it has itself reached in information; afterwards it has time while information rises.

    Attributes:
      trained_start: the backbone starts from trained weights: features and k-NN are judged from the first step on.
      knn_images, chance: how many images the k-NN accuracy is measured on, and what guessing would reach.
      patience: bad readings of outputs or features in a row that call a collapse; each is one batch, and they swing.
      patience_evals: bad readings of k-NN in a row that call one.
      settle_steps: few prototypes call nothing before; a centre of momentum 0.9 has forgotten its start by 50 steps.
      grace_steps: steps that random weights get to learn something; raise it with a long warm-up.
      few_prototypes: fewer used by all images, exp(marginal_entropy), is bad; random heads use 5 and more.
      information_floor: nats below which information is bad after the grace; random ViTs had 0.01 to 0.06.
      information_share: share of the best information below which it is bad; healthy runs fell to 0.4 of it.
      information_alive: nats from which on the best information counts.
      information_rise: multiple of the best information that counts as still rising.
      information_noise: nats; what rises below is rounding.
      uniform_share: share of log K above which the answers' entropy makes a collapse of outputs "uniform".
      rank_share: share of (best rank - 1) below which the features' rank is bad.
      std_share: share of the features' best spread below which it is bad.
      std_floor: spread of features that is bad after the grace; a random ViT has 0.09.
      knn_share: share of what the best k-NN accuracy had above chance, below which it is bad.
      knn_sigmas: standard errors by which the k-NN accuracy falls besides, to be bad.
      state: what is remembered, JSON-able: put back, the judgement goes on as if never interrupted.
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
        """Takes in the reading at a step, counted from the start of the run.

        Args:
          reading: any of all four `signals`, feature_rank, feature_std, knn_accuracy. Other names are passed over, and
            so is what is not finite.

        Returns:
          None, or that the run has collapsed: the kind, the figures, and what to try.
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
        """Whether nothing at present speaks against the run: a checkpoint of now is one to go back to."""
        return not any(self.state["bad"].values())

    def _verdicts(self, step: int, seen: dict[str, float]) -> list[tuple[str, int, str | None]]:
        """(what was judged, its patience, what is wrong with it), for all that a reading can be judged by."""
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
            f"collapse ({kind}): {ANSWERS[kind]}. An answer's entropy is {entropy:.3f} of at most {most:.3f} nats, all "
            f"images together use {used:.1f} prototypes, and an answer tells {now:.4f} nats of the image (best so far "
            f"{best:.4f}). {FIXES[kind]}"
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
"""What a config may set, with its defaults; the rest the run itself says."""
