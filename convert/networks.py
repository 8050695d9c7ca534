"""Which of several networks in a checkpoint is taken, by the words that stand before its keys.

What the authors' own evaluation takes: the teacher of DINO, iBOT, DINOv2 and DINOv3 (facebookresearch/dino
eval_linear.py, facebookresearch/dinov3 train/train.py); the online network, not the momentum one, of BYOL
(google-deepmind/deepmind-research byol/eval_experiment.py), MoCo (facebookresearch/moco main_lincls.py: encoder_q)
and MoCo v3 (facebookresearch/moco-v3 main_lincls.py, convert_to_deit.py: base_encoder); the target encoder of I-JEPA
(facebookresearch/ijepa); the average of the weights wherever one is kept.
"""

import re
from collections.abc import Iterable, Mapping

from convert.assumptions import assume
from jaxdino.core.errors import UserError

RANKS = (
    {"teacher"},
    {"ema", "averaged"},
    {"online", "q", "query", "base_encoder"},
    {"target"},  # where nothing is called online
    set(),  # a name that says nothing
    {"student", "momentum", "k", "key"},
    {"gram"},  # DINOv3's teacher of the Gram matrices, an earlier one
)
"""Words in a prefix, those of the preferred network first."""
PLAIN, LEFT, LAST = 4, 5, 6
PROJECTING = {"encoder_q", "encoder_k"}
"""MoCo v1's networks, whose last linear layer projects and is no classifier (facebookresearch/moco moco/builder.py)."""
TEACHER, STUDENT = {"teacher", "momentum", "k", "key", "target"}, {"student", "online", "q", "query", "base_encoder"}


def words(prefix: str) -> set[str]:
    """Every dotted part of a prefix, and its own parts: {"model", "teacher_backbone", "teacher", "backbone"}."""
    return {word for part in prefix.split(".") for word in (part, *re.split(r"[_-]", part)) if word}


def role(prefix: str) -> str | None:
    """ "teacher" or "student": what a network is in a run of self-distillation; None for neither."""
    own = words(prefix)
    if "gram" in own:
        return None
    for name, known in {"teacher": {"teacher"}, "student": STUDENT}.items():
        if own & known:
            return name
    return "teacher" if own & TEACHER else None


def rank(prefix: str, beside: Iterable[str] = ()) -> int:
    """The place in `RANKS` of the network under a prefix; `beside` are the prefixes of the others."""
    own = words(prefix)
    if "gram" in own:
        return LAST
    found = min((n for n, known in enumerate(RANKS) if known & own), default=PLAIN)
    online = "target" in own and found == 3 and any("online" in words(other) for other in beside)
    return LEFT if online else found


class Undecided(UserError):
    """Several networks of which no name prefers one; `places` are their prefixes."""

    def __init__(self, text: str, places: tuple[str, ...] = ()):
        super().__init__(text)
        self.places = places


def choose(places: Mapping[str, tuple[int, ...]]) -> tuple[str, list[str]]:
    """(the prefix to take, those that are left) of networks in one file.

    Of networks whose names say as much, one that holds the others is taken. A teacher of another shape than the
    student is one that was distilled from, and comes last.

    Args:
      places: {prefix: shape of the network's first kernel}.

    Raises:
      UserError: if no name decides.
    """
    ranks = {place: rank(place, places) for place in places}
    students = {shape for place, shape in places.items() if role(place) == "student"}
    if len(students) == 1:
        ranks |= {p: LAST for p, n in ranks.items() if n == 0 and places[p] not in students}
    best = [place for place in sorted(places) if ranks[place] == min(ranks.values())]
    outer = [place for place in best if not any(place.startswith(other) for other in best if other != place)]
    if len(outer) > 1:
        raise Undecided(
            f"the file holds {len(outer)} networks, and no name says which is wanted: give one of "
            f"{', '.join(repr(place.rstrip('.')) for place in outer)} with --prefix",
            tuple(outer),
        )
    return outer[0], [place for place in sorted(places) if place != outer[0]]


def taken(prefix: str, left: Iterable[str]) -> tuple[str, ...]:
    """The assumption that a network is the one wanted; none where it is alone."""
    others = ", ".join(repr(place.rstrip(".")) for place in left)
    name = f"under {prefix.rstrip('.')!r}" if prefix else "at the top of the file"
    return (assume(f"the network wanted is the one {name}", f"left: {others}", "prefix"),) if others else ()
