"""The image sizes of a stage, as data: a size for each epoch, sizes that batches draw, and aspect ratios of batches.

A size is (height, width) in pixels. `jaxdino.core.size_text` reads them from settings.
"""

import dataclasses
import itertools
import math
from collections.abc import Sequence

import numpy as np

Size = tuple[int, int]
Schedule = tuple[tuple[int, Size], ...]
"""((number of epochs before it, size), ...), ascending; the first number is 0."""


@dataclasses.dataclass(frozen=True)
class Sizes:
    """The image sizes of one stage.

    Attributes:
      schedule: the size of evaluation in each epoch, and of training batches without `scales`.
      scales: sizes of which each training batch draws one; () for none.
      ratios: width / height of the groups in which images are batched, ascending; () for none. A group's size has about
        the area of the size above.
      unit: the sides of a group's size are multiples of this.
    """

    schedule: Schedule
    scales: tuple[Size, ...] = ()
    ratios: tuple[float, ...] = ()
    unit: int = 1

    @classmethod
    def one(cls, size: Size) -> "Sizes":
        """Return the sizes of a stage with a single size."""
        return cls(((0, size),))

    @property
    def varied(self) -> bool:
        """Return whether training batches differ in size."""
        return len(self.schedule) > 1 or bool(self.scales or self.ratios)

    @property
    def final(self) -> Size:
        """The size of the last epochs."""
        return self.schedule[-1][1]

    def place(self, epoch: int) -> int:
        """Return the index of the entry of `schedule` for an epoch, counted from 0."""
        return sum(begin <= epoch for begin, _ in self.schedule) - 1

    def bases(self, place: int) -> tuple[Size, ...]:
        """Return the sizes that batches have under an entry of `schedule`, before they are fitted to a ratio."""
        return self.scales or (self.schedule[place][1],)

    def base(self, epoch: int, batch: int, seed: int) -> Size:
        """Return the size of a training batch before it is fitted to a ratio; a draw depends on seed and batch only."""
        found = self.bases(self.place(epoch))
        if len(found) == 1:
            return found[0]
        word = np.random.SeedSequence([seed, batch]).generate_state(1, np.uint64)[0]
        return found[int(word) % len(found)]

    def fit(self, base: Size, group: int | None) -> Size:
        """Return the size of a batch of a group of images; None: of images of all aspect ratios."""
        return base if group is None else fitted(base, self.ratios[group], self.unit)

    def fits(self, base: Size) -> tuple[Size, ...]:
        """Return the sizes of the batches of all groups, each once."""
        return tuple(dict.fromkeys(fitted(base, ratio, self.unit) for ratio in self.ratios)) or (base,)

    def all_bases(self) -> tuple[Size, ...]:
        """Return every size that batches have before they are fitted to a ratio, each once."""
        places = range(len(self.schedule))
        return tuple(dict.fromkeys(base for place in places for base in self.bases(place)))

    def trained(self) -> tuple[Size, ...]:
        """Return every size of a training batch, each once: the training step is compiled for each."""
        return tuple(dict.fromkeys(size for base in self.all_bases() for size in self.fits(base)))

    def timed(self) -> dict[Size, Size]:
        """Return {the largest size of the groups: size before it was fitted to them} of every such size."""
        return {max(self.fits(base), key=math.prod): base for base in self.all_bases()}

    @property
    def largest(self) -> Size:
        """The training size with the most pixels."""
        return max(self.trained(), key=math.prod)

    def pixels(self, place: int) -> float:
        """Return the mean number of pixels of a training image under an entry of `schedule`."""
        return sum(map(math.prod, self.bases(place))) / len(self.bases(place))

    def words(self) -> str:
        """Describe the sizes: "224 x 224, from epoch 51 on 512 x 512", epochs counted from 1."""
        first, *later = self.schedule
        text = ", ".join([words(first[1]), *(f"from epoch {begin + 1} on {words(size)}" for begin, size in later)])
        if self.scales:
            text = f"a size for each batch, of {', '.join(map(words, self.scales))}; evaluation at {text}"
        return f"{text}; batches by aspect ratio" if self.ratios else text


def words(size: Size) -> str:
    """Format a size for people: "192 x 256"."""
    return f"{size[0]} x {size[1]}"


def whole(side: float, unit: int) -> int:
    """Return the multiple of `unit` nearest to a side, at least one."""
    return max(1, round(side / unit)) * unit


def fitted(size: Size, ratio: float, unit: int) -> Size:
    """Return the size in whole units that is nearest to the area of `size` and to `ratio`, width / height."""
    area = math.prod(size)
    ideal = (math.sqrt(area / ratio), math.sqrt(area * ratio))
    tall, wide = ((max(1, math.floor(side / unit)) * unit, math.ceil(side / unit) * unit) for side in ideal)

    def miss(found: Size) -> float:
        far = abs(math.log(math.prod(found) / area)) + abs(math.log(found[1] / found[0] / ratio))
        return round(far, 9)  # the first of equal ones, whatever the rounding errors

    return min(itertools.product(tall, wide), key=miss)


def distinct(ratios: Sequence[float], bases: Sequence[Size], unit: int) -> tuple[float, ...]:
    """Return the ratios without doubles: of those that have the same sizes, the one nearest to their shape stays."""
    found: dict[tuple[Size, ...], list[float]] = {}
    for ratio in ratios:
        found.setdefault(tuple(fitted(base, ratio, unit) for base in bases), []).append(ratio)
    return tuple(
        min(alike, key=lambda ratio: abs(math.log(ratio * sizes[-1][0] / sizes[-1][1])))
        for sizes, alike in found.items()
    )
