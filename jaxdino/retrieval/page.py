"""Groups of images as one HTML file with thumbnails: no scripts, and nothing from elsewhere."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from jaxdino.core.page import render, shown
from jaxdino.data.channels import Reading
from jaxdino.data.thumbnail import thumbnail

GROUPS, MEMBERS = 100, 12  # shown on a page, and of a group of duplicates or a cluster
THREADS = 8


class Picture(NamedTuple):
    """An image on the page: its file, its name, and lines below it."""

    file: str
    name: str
    about: str = ""
    why: str = ""


class Group(NamedTuple):
    """Images under a title; `more` others are counted."""

    title: str
    pictures: Sequence[Picture]
    more: int = 0


def page(title: str, lines: Sequence[str], groups: Sequence[Group], reading: Reading) -> str:
    """Return the page of the first `GROUPS` groups.

    Args:
      lines: said below the title. reading: how images are read, for the thumbnails.
    """
    first = groups[:GROUPS]
    files = list(dict.fromkeys(one.file for group in first for one in group.pictures))
    with ThreadPoolExecutor(THREADS) as pool:
        thumbs = dict(zip(files, pool.map(lambda file: thumbnail(file, reading), files), strict=True))
    sections = [
        {
            "what": shown(group.title),
            "groups": [{"images": [_image(one, thumbs[one.file]) for one in group.pictures], "more": group.more}],
        }
        for group in first
    ]
    left = len(groups) - len(first)
    return render(
        "search.html", title=shown(title), lines=[shown(line) for line in lines], sections=sections, more=left
    )


def _image(one: Picture, thumb: str) -> dict[str, str]:
    return {"name": shown(one.name), "about": shown(one.about), "why": shown(one.why), "picture": thumb}
