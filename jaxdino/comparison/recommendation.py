"""The recommended strategy and the reason: a decision tree on validation figures, costs and the size of the data.

1. Strategies over a given limit of time or memory are left out.
2. The best is the one with the highest mean of the validation metric; of errors, the lowest. Test figures do not count.
3. Those whose gap to it is within the noise are as good. If there are none, or the noise is not known, the best is
   recommended.
4. Among the equals: with fewer than `FEW` training images a class, the one that trains the fewest parameters, since it
   fits chance the least; otherwise the fastest. The best stays if that saves less than `WORTH` of its time.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from jaxdino.comparison.statistics import Gap, Strategy, gap
from jaxdino.core.metric_names import falls

FEW = 20
WORTH = 0.2


@dataclasses.dataclass(frozen=True)
class Limits:
    """Limits of a run: seconds, and memory in GiB; None for none."""

    seconds: float | None = None
    memory_gib: float | None = None


@dataclasses.dataclass(frozen=True)
class Recommendation:
    """The name of a strategy, or None if all are over the limits; the reasons; {strategy: its gap to the best}."""

    name: str | None
    reasons: Sequence[str]
    gaps: dict[str, Gap]


def recommend(
    strategies: Sequence[Strategy],
    metric: str,
    images_per_class: float,
    limits: Limits = Limits(),
    unit: str = "training images a class",
) -> Recommendation:
    """Choose a strategy.

    Args:
      strategies: those with a finished run at least. metric: without its split.
      images_per_class: median number of training images of a class, or of `unit`.
    """
    within, reasons = _within(strategies, limits)
    if not within:
        return Recommendation(None, [*reasons, "No strategy stays within the limits."], {})
    sign = -1 if falls(metric) else 1
    best = max(within, key=lambda one: sign * float(np.mean(list(one.values("val", metric).values()))))
    gaps = {one.name: gap(best, one, metric) for one in within}
    equals = [one for one in within if gaps[one.name].means_nothing]
    value = np.mean(list(best.values("val", metric).values()))
    reasons.append(f"{best.name} has the {'lowest' if sign < 0 else 'highest'} mean val/{metric}, {value:.4f}.")
    others = [one for one in (equals if len(equals) > 1 else within) if one is not best]
    far = [f"{one.name} ({gaps[one.name].value:.4f} worse, {gaps[one.name].error})" for one in others]
    if len(equals) == 1 and any(gaps[one.name].noise is None for one in others):
        reasons.append(
            f"The others: {', '.join(far)}. One seed does not say how far chance goes in {metric}, no share of "
            "images: whether the gaps mean anything is not known; more seeds tell."
        )
        return Recommendation(best.name, reasons, gaps)
    if len(equals) == 1:
        reasons += [f"All others are worse by more than the noise: {', '.join(far)}."] if far else []
        return Recommendation(best.name, reasons, gaps)
    chosen, why = _cheapest(best, equals, images_per_class, unit)
    return Recommendation(chosen.name, [*reasons, f"Not told apart from it: {', '.join(far)}.", why], gaps)


def _within(strategies: Sequence[Strategy], limits: Limits) -> tuple[list[Strategy], list[str]]:
    kept, reasons = [], []
    for one in strategies:
        seconds, memory = one.mean("seconds"), one.mean("memory_gib")
        if limits.seconds is not None and seconds is not None and seconds > limits.seconds:
            reasons.append(f"{one.name} is left out: {seconds:.0f} s, over the limit of {limits.seconds:.0f} s.")
        elif limits.memory_gib is not None and memory is not None and memory > limits.memory_gib:
            reasons.append(f"{one.name} is left out: {memory:.2f} GiB, over the limit of {limits.memory_gib:.2f} GiB.")
        else:
            kept.append(one)
    return kept, reasons


def _cheapest(best: Strategy, equals: Sequence[Strategy], images_per_class: float, unit: str) -> tuple[Strategy, str]:
    """Return the choice among equals, and why."""
    if images_per_class < FEW:
        chosen = min(equals, key=lambda one: one.mean("trainable_params") or 0)
        count = chosen.mean("trainable_params") or 0
        return chosen, (
            f"With {images_per_class:g} {unit}, fewer than {FEW}, the one of them that trains the "
            f"fewest parameters ({count:,.0f}) is taken: {chosen.name}."
        )
    fastest = min(equals, key=lambda one: one.mean("seconds") or 0)
    short, long = ((one.mean("seconds") or 0) for one in (fastest, best))
    if short > (1 - WORTH) * long:
        return best, f"None of them saves {WORTH:.0%} of its time ({long:.0f} s), so the best one is taken."
    return fastest, f"{fastest.name} is the fastest of them: {short:.0f} s a run, {best.name} {long:.0f} s."
