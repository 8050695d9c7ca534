"""Masks that do not fit their images: unreadable, of another size, or empty."""

from functools import partial

from jaxdino.core.bars import bar
from jaxdino.data.bad_images import BadImage
from jaxdino.data.mask_reading import read_values
from jaxdino.inspect_data.images import Images
from jaxdino.inspect_data.pixels import CHUNK, Facts, in_order, worker_pool

Task = tuple[str, tuple[int, int]]
"""A mask file, and the (width, height) of its image; (0, 0) if that is not known."""


def bad_masks(images: Images, facts: Facts, max_pixels: int, threads: int, processes: int = 0) -> dict[int, str]:
    """Return {image: why its mask does not fit}. Decodes every mask; {} for images without masks.

    Args:
      threads, processes: as for `pixels.facts`.
    """
    masks = images.masks
    if masks is None:
        return {}
    sizes = zip(facts.rows["width"].tolist(), facts.rows["height"].tolist(), strict=True)
    known = [size if read else (0, 0) for size, read in zip(sizes, facts.read.tolist(), strict=True)]
    tasks = list(zip(masks, known, strict=True))
    parts = (tasks[start : start + CHUNK] for start in range(0, len(tasks), CHUNK))
    found: dict[int, str] = {}
    with worker_pool(threads, processes) as pool, bar(None, "reading masks", total=len(tasks), unit="mask") as watched:
        start = 0
        for part in in_order(pool, partial(_examine, max_pixels=max_pixels), parts, 4 * (processes or threads)):
            found |= {start + place: why for place, why in enumerate(part) if why}
            start += len(part)
            watched.update(len(part))
    return found


def _examine(tasks: list[Task], max_pixels: int) -> list[str]:
    return [_reason(file, size, max_pixels) for file, size in tasks]


def _reason(file: str, size: tuple[int, int], max_pixels: int) -> str:
    """Return why a mask does not fit; "" if it does."""
    try:
        above = read_values(file, max_pixels, indexed=False)
    except BadImage as err:
        return str(err)
    height, width = above.shape
    if all(size) and (width, height) != size:
        return f"its mask is {width} x {height}, the image {size[0]} x {size[1]}"
    return "" if above.any() else "its mask is empty: it has no value above 0"
