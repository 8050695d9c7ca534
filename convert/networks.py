"""Choose one of several networks in a checkpoint by the words in their prefixes.

The choice follows the authors' own evaluation: the teacher of DINO, iBOT, DINOv2 and DINOv3 (facebookresearch/dino
eval_linear.py, facebookresearch/dinov3 train/train.py); the online network, not the momentum one, of BYOL
(google-deepmind/deepmind-research byol/eval_experiment.py), MoCo (facebookresearch/moco main_lincls.py: encoder_q)
and MoCo v3 (facebookresearch/moco-v3 main_lincls.py, convert_to_deit.py: base_encoder); the target encoder of I-JEPA
(facebookresearch/ijepa); the averaged weights if a checkpoint has them.
"""

import re
from collections.abc import Iterable, Mapping

from convert.assumptions import assume
from jaxdino.core.errors import UserError

RANKS = (
    {"teacher"},
    {"ema", "averaged"},
    {"online", "q", "query", "base_encoder"},
    {"target"},  # if no network is called online
    set(),  # an uninformative name
    {"student", "momentum", "k", "key"},
    {"gram"},  # DINOv3's teacher of the Gram matrices, an earlier one
)
"""Words in a prefix, in order of preference."""
PLAIN, LEFT, LAST = 4, 5, 6
PROJECTING = {"encoder_q", "encoder_k"}
"""MoCo v1's networks; their last linear layer is a projection (facebookresearch/moco moco/builder.py)."""
TEACHER, STUDENT = {"teacher", "momentum", "k", "key", "target"}, {"student", "online", "q", "query", "base_encoder"}


def words(prefix: str) -> set[str]:
    """Split a prefix at dots and underscores: {"model", "teacher_backbone", "teacher", "backbone"}."""
    return {word for part in prefix.split(".") for word in (part, *re.split(r"[_-]", part)) if word}


def role(prefix: str) -> str | None:
    """Return the role of a network in self-distillation: "teacher", "student" or None."""
    own = words(prefix)
    if "gram" in own:
        return None
    for name, known in {"teacher": {"teacher"}, "student": STUDENT}.items():
        if own & known:
            return name
    return "teacher" if own & TEACHER else None


def rank(prefix: str, beside: Iterable[str] = ()) -> int:
    """Return the index in `RANKS` of the network with a prefix; `beside` are the other networks' prefixes."""
    own = words(prefix)
    if "gram" in own:
        return LAST
    found = min((n for n, known in enumerate(RANKS) if known & own), default=PLAIN)
    online = "target" in own and found == 3 and any("online" in words(other) for other in beside)
    return LEFT if online else found


class Undecided(UserError):
    """Several networks, and no name is preferred; `places` are their prefixes."""

    def __init__(self, text: str, places: tuple[str, ...] = ()):
        super().__init__(text)
        self.places = places


def choose(places: Mapping[str, tuple[int, ...]]) -> tuple[str, list[str]]:
    """Return (the chosen prefix, the other prefixes) of the networks in one file.

    Among networks of equal rank, one that contains the others is chosen. A teacher whose shape differs from the
    student's is a distillation teacher and comes last.

    Args:
      places: {prefix: shape of the network's first kernel}.

    Raises:
      UserError: if the names do not determine one network.
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
    """Return the assumption that this network is wanted; () if it is the only one."""
    others = ", ".join(repr(place.rstrip(".")) for place in left)
    name = f"under {prefix.rstrip('.')!r}" if prefix else "at the top of the file"
    return (assume(f"the network wanted is the one {name}", f"left: {others}", "prefix"),) if others else ()
