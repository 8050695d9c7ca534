"""Read image sizes and aspect ratios from settings, strictly, and write them as flags.

                      in a config                          by a flag
  one size            224 or (192, 256), height first      224 or 192x256
  a schedule          ((0, 224), (50, (384, 512)))         0:224,50:384x512
  several sizes       (160, 192, (192, 256))               160,192,192x256
  aspect ratios       (0.75, 1.0) or "3:4,1:1"             3:4,1:1
A config may hold the text of a flag too.
"""

import re
from collections.abc import Sequence
from typing import Any

from jaxdino.core.errors import UserError
from jaxdino.core.image_sizes import Schedule, Size

LARGEST_SIDE = 16_384  # pixels
COMMON = "common"
RATIOS = ("1:2", "9:16", "2:3", "3:4", "1:1", "4:3", "3:2", "16:9", "2:1")
"""What "common" stands for: the shapes of photos and screens, width to height."""
EXTREME = 10  # the largest ratio of two sides
SIZE = re.compile(r"(\d{1,9})(?:x(\d{1,9}))?")
ENTRY = re.compile(r"(\d{1,9}):(\S+)")
RATIO = re.compile(r"(\d{1,9}(?:\.\d+)?)(?::(\d{1,9}(?:\.\d+)?))?")


def read_schedule(value: Any, name: str) -> Schedule | None:
    """Return the size in each epoch; None for None.

    Args:
      name: name of the setting, at the start of errors.

    Raises:
      UserError: for another form, a side that is too small or large, or epochs that do not ascend from 0.
    """
    if value is None:
        return None
    entries = _entries(value)
    if entries is None:
        found: list[tuple[int, Size]] = [(0, _size(value, name, value, SINGLE))]
    else:
        found = [(_epoch(begin, name, value), _size(size, name, value, SINGLE)) for begin, size in entries]
    begins = [begin for begin, _ in found]
    if begins != sorted(set(begins)) or begins[0]:
        first = [(0, found[0][1]), *found[1:]] if 0 not in begins else found
        near = _text(tuple(sorted(dict(first).items())))
        raise UserError(
            f"{name}={_shown(value)}: the epochs of a schedule begin at 0 and ascend, each once, as in {near}"
        )
    return tuple(found)


def read_size(value: Any, name: str) -> Size:
    """Return one size: 224, "192x256" or (192, 256). Raises as `read_schedule`."""
    return _size(value, name, value, ALONE)


def read_scales(value: Any, name: str) -> tuple[Size, ...]:
    """Return the sizes that batches draw, each once, ascending in area; () for none. Raises as `read_schedule`."""
    items = _items(value)
    found = {_size(item, name, value, SEVERAL) for item in items}
    if len(found) == 1:
        raise UserError(f"{name}={_shown(value)}: give two or more sizes to draw from, such as 160,192,224")
    return tuple(sorted(found, key=lambda size: (size[0] * size[1], size)))


def read_ratios(value: Any, name: str) -> tuple[float, ...]:
    """Return width / height of each group of images, each once, ascending; () for None or (). Raises as above."""
    items = RATIOS if value == COMMON else _items(value)
    found = {_ratio(item, name, value) for item in items}
    if len(found) == 1:
        raise UserError(f"{name}={_shown(value)}: give two or more ratios, such as 3:4,1:1,4:3, or {COMMON}")
    return tuple(sorted(found))


def check_reached(schedule: Schedule | None, epochs: int, name: str, where: str) -> None:
    """Raise UserError if a size of a schedule comes after the last epoch of its stage.

    Args:
      epochs: the stage's limit in epochs. where: the stage, for the error.
    """
    late = [begin for begin, _ in schedule or () if begin >= epochs > 0]
    if schedule and late:
        kept = text(tuple(entry for entry in schedule if entry[0] < epochs))
        raise UserError(
            f"{where}: {name}={text(schedule)} changes after {late[0]} epochs, and the stage has {epochs}: "
            f"give it more than {late[-1]} epochs, or {name}={kept}"
        )


def text(schedule: Schedule) -> str:
    """Write a schedule as the text of a flag: "0:224,50:512", or "224" for one size."""
    return of_size(schedule[0][1]) if len(schedule) == 1 else _text(schedule)


def of_size(size: Size) -> str:
    """Write a size as the text of a flag: "224" or "192x256"."""
    return str(size[0]) if size[0] == size[1] else f"{size[0]}x{size[1]}"


ALONE = "a size is 224 or 192x256 (height x width)"
SINGLE = "a size is 224 or 192x256 (height x width), a schedule 0:224,50:512"
SEVERAL = "sizes are 160,192,224 or 160x192,192x256 (height x width)"


def _text(schedule: Schedule) -> str:
    return ",".join(f"{begin}:{of_size(size)}" for begin, size in schedule)


def _shown(value: Any) -> str:
    found = str(value).replace(" ", "")
    return found if len(found) <= 60 else f"{found[:57]}..."


def _entries(value: Any) -> list[tuple[Any, Any]] | None:
    """Return (epoch, size) of each entry of a schedule; None for one size."""
    if isinstance(value, str) and ":" in value:
        return [(found[1], found[2]) if (found := ENTRY.fullmatch(one)) else (one, one) for one in _split(value)]
    pairs = _is_list(value) and len(value) > 0 and all(_is_list(one) and len(one) == 2 for one in value)
    return [(one[0], one[1]) for one in value] if pairs else None


def _items(value: Any) -> Sequence[Any]:
    if isinstance(value, str):
        return _split(value)
    return () if value is None else value if _is_list(value) else (value,)


def _split(value: str) -> list[str]:
    return [one.strip() for one in value.split(",")]


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _whole(value: Any) -> int | None:
    """Return a whole number; None for anything else."""
    if isinstance(value, str):
        return int(value) if re.fullmatch(r"\d{1,9}", value) else None
    number = isinstance(value, int | float) and not isinstance(value, bool) and float(value).is_integer()
    return int(value) if number else None


def _epoch(value: Any, name: str, given: Any) -> int:
    found = _whole(value)
    if found is None or found < 0:
        raise UserError(f"{name}={_shown(given)}: {_shown(value)} does not begin with a number of epochs; {SINGLE}")
    return found


def _size(value: Any, name: str, given: Any, forms: str) -> Size:
    found = SIZE.fullmatch(value) if isinstance(value, str) else None
    sides = (found[1], found[2] or found[1]) if found else value if _is_list(value) else (value, value)
    pair = tuple(_whole(side) for side in sides)
    if len(pair) != 2 or None in pair:
        raise UserError(f"{name}={_shown(given)}: {_shown(value)} is not a size; {forms}")
    height, width = (int(side or 0) for side in pair)
    if not (1 <= height <= LARGEST_SIDE and 1 <= width <= LARGEST_SIDE):
        raise UserError(f"{name}={_shown(given)} must be in [1, {LARGEST_SIDE}] pixels a side")
    return height, width


def _ratio(value: Any, name: str, given: Any) -> float:
    found = RATIO.fullmatch(value) if isinstance(value, str) else None
    width, height = (float(found[1]), float(found[2] or 1)) if found else (value, 1.0)
    real = isinstance(width, int | float) and not isinstance(width, bool)
    ratio = float(width) / height if real and height else 0.0
    if not 1 / EXTREME <= ratio <= EXTREME:
        raise UserError(
            f"{name}={_shown(given)}: {_shown(value)} is not a ratio of width to height from 1:{EXTREME} to "
            f"{EXTREME}:1, such as 3:4 or 0.75"
        )
    return ratio
