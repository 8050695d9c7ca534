"""Automatic augmentation: RandAugment, TrivialAugment and AugMix, named in a view's field `auto`.

The operations of a record are drawn on the host, from its own random numbers. Those that move pixels (shear,
translation, rotation) become part of the one geometry of the view (`policy_geometry`), so that masks, boxes and points
move too. The others travel with the image as an array of (operation, magnitude), and are applied on the device
(`photometric.policy`), after all geometry. AugMix has no operation that moves pixels here, and is drawn on the device.

Source: operations and magnitudes of pytorch/vision torchvision/transforms/autoaugment.py; RandAugment
(arXiv:1909.13719), TrivialAugment (arXiv:2103.10158, the "wide" space), AugMix (arXiv:1912.02781).
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxdino.core.errors import UserError
from jaxdino.core.rules import did_you_mean

OPERATIONS = (
    *("Identity", "Brightness", "Color", "Contrast", "Sharpness"),
    *("Posterize", "Solarize", "AutoContrast", "Equalize"),
)
"""The operations on the device, by number."""


class Scale(NamedTuple):
    """Magnitudes of an operation: in equal steps from `first` to `last`.

    Attributes:
      signed: negative as often as positive. whole: rounded. of_side: a share of the image's side.
    """

    first: float = 0.0
    last: float = 0.0
    signed: bool = False
    whole: bool = False
    of_side: bool = False

    def at(self, step: int, steps: int) -> float:
        """Return the magnitude of a step 0 .. steps - 1."""
        found = self.first + (self.last - self.first) * step / (steps - 1)
        return float(round(found)) if self.whole else found


def _space(shear: float, shift: float, degrees: float, factor: float, bits: tuple[int, int]) -> dict[str, Scale]:
    """Return the operations of a policy; `shift` below 1 is a share of the side, otherwise pixels."""
    move, blend = Scale(0, shift, True, of_side=shift < 1), Scale(0, factor, True)
    return {
        "Identity": Scale(),
        **dict.fromkeys(("ShearX", "ShearY"), Scale(0, shear, True)),
        **dict.fromkeys(("TranslateX", "TranslateY"), move),
        "Rotate": Scale(0, degrees, True),
        **dict.fromkeys(("Brightness", "Color", "Contrast", "Sharpness"), blend),
        "Posterize": Scale(*bits, whole=True),
        "Solarize": Scale(255, 0),
        **dict.fromkeys(("AutoContrast", "Equalize"), Scale()),
    }


_RANDAUGMENT = _space(0.3, 150 / 331, 30, 0.9, (8, 4))
SPACES = {
    "randaugment": _RANDAUGMENT,
    "trivialaugment": _space(0.99, 32, 135, 0.99, (8, 2)),
    "augmix": {name: _RANDAUGMENT[name] for name in OPERATIONS[1:]} | {"Posterize": Scale(4, 0, whole=True)},
}
"""Policy -> its operations, each equally likely, and their magnitudes."""
STEPS = {"randaugment": 31, "trivialaugment": 31, "augmix": 10}
"""Policy -> number of magnitudes of an operation."""
NUMBERS = {
    "randaugment": (("operations", 2, 1, 10), ("magnitude", 9, 0, 30)),
    "trivialaugment": (),
    "augmix": (("severity", 3, 1, 10),),
}
"""Policy -> its settings: name, default, smallest and largest value."""


@dataclasses.dataclass(frozen=True)
class Policy:
    """A policy with its settings.

    Attributes:
      name: a key of `SPACES`.
      operations: how many are drawn for an image on the host.
      magnitude: of RandAugment, a step of 31; None: drawn for each operation.
      severity: of AugMix, the steps of 10 that its magnitudes are drawn from.
    """

    name: str
    operations: int = 1
    magnitude: int | None = None
    severity: int = 0

    @property
    def on_host(self) -> bool:
        """Whether the host draws the operations."""
        return self.name != "augmix"


@functools.lru_cache(maxsize=64)
def parsed(text: str) -> Policy | None:
    """Read "randaugment:2:9", "trivialaugment" or "augmix:3"; None for "". Raise UserError for anything else."""
    if not text:
        return None
    name, *given = (part.strip() for part in text.split(":"))
    if name not in SPACES:
        raise UserError(
            f"auto={text!r}: {name!r} is not an automatic augmentation; {did_you_mean(name, SPACES)}. "
            "Examples: auto=randaugment:2:9, auto=trivialaugment, auto=augmix:3"
        )
    known = NUMBERS[name]
    if len(given) > len(known):
        form = ":".join([name, *(number.upper() for number, *_ in known)])
        raise UserError(f"auto={text!r} has more numbers than {name} reads: write {form}, such as {_example(name)}")
    values = {}
    for index, (number, default, low, high) in enumerate(known):
        value = given[index] if index < len(given) else str(default)
        if not value.isascii() or not value.isdigit() or not low <= int(value) <= high:
            raise UserError(
                f"auto={text!r}: {number} must be a whole number from {low} to {high}, such as {_example(name)}"
            )
        values[number] = int(value)
    return Policy(name, **values)


def _example(name: str) -> str:
    return ":".join([name, *(str(default) for _, default, _, _ in NUMBERS[name])])


def most(autos: Sequence[str]) -> int:
    """Return the largest number of operations that the host draws for one of several views."""
    return max((policy.operations for auto in autos if (policy := parsed(auto)) and policy.on_host), default=0)


def draw(policy: Policy, rng: np.random.Generator) -> list[tuple[str, float]]:
    """Draw the (operation, magnitude) pairs of an image."""
    space, steps, found = SPACES[policy.name], STEPS[policy.name], []
    for _ in range(policy.operations):
        name = list(space)[int(rng.integers(len(space)))]
        step = int(rng.integers(steps)) if policy.magnitude is None else policy.magnitude
        magnitude = space[name].at(step, steps)
        found.append((name, -magnitude if space[name].signed and rng.random() < 0.5 else magnitude))
    return found
