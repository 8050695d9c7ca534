"""Progress of long work on standard error: a bar on a terminal, occasional lines in a log."""

import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TextIO

from tqdm import tqdm

DELAY = 1.0  # seconds before a bar is drawn; shorter work shows none
LOGGED = 20.0  # seconds between two lines if standard error is not a terminal


class Lines:
    """A stream for tqdm that writes each state of the bar as a separate line."""

    def __init__(self, stream: TextIO):
        self.stream = stream

    def write(self, text: str) -> None:
        """Write the text of tqdm, without the carriage returns that move a cursor."""
        if line := text.strip("\r\n "):
            self.stream.write(line + "\n")

    def flush(self) -> None:
        """Flush the stream."""
        self.stream.flush()


def bar(items: Iterable[Any] | None, what: str, *, total: int | None = None, unit: str = "image", **how: Any) -> tqdm:
    """Return a tqdm bar over `items`, or one to advance with `update`, on standard error.

    Args:
      what: text in front of the bar.
      total: number of items, if `items` has no length.
      how: further arguments of tqdm.
    """
    watched = sys.stderr.isatty()
    place = {"file": sys.stderr, "delay": DELAY, "dynamic_ncols": True}
    if not watched:
        place = {"file": Lines(sys.stderr), "delay": LOGGED, "mininterval": LOGGED, "maxinterval": LOGGED, "ncols": 80}
    return tqdm(items, desc=what, total=total, unit=unit, leave=False, **place, **how)


def stage_bar(total: int, initial: int, what: str, hidden: bool) -> tqdm:
    """Return a bar of a stage's steps, followed by the text set with `show`.

    Args:
      initial: steps taken in earlier sessions.
      hidden: draw nothing (on every process but the first).
    """
    watched = sys.stderr.isatty()
    gauge = "|{bar}|" if watched else ""
    drawn = f"{{desc}}: {{percentage:3.0f}}%{gauge} {{n_fmt}}/{{total_fmt}} steps [{{elapsed}}{{postfix}}]"
    how = {} if watched else {"file": Lines(sys.stderr), "delay": LOGGED, "mininterval": LOGGED, "maxinterval": LOGGED}
    return tqdm(
        total=total,
        initial=initial,
        desc=what,
        unit="step",
        bar_format=drawn,
        disable=hidden,
        dynamic_ncols=watched,
        leave=watched,
        **how,
    )


def show(drawn: tqdm, words: str) -> None:
    """Put a text after a bar: at once on a terminal, with the next line in a log."""
    drawn.set_postfix_str(words, refresh=sys.stderr.isatty())


def bytes_bar(total: int, what: str) -> tqdm:
    """Return a bar of `total` bytes, to advance with `update`."""
    return bar(None, what, total=total, unit="B", unit_scale=True, unit_divisor=1000)


def by_bytes(flat: Mapping[str, Any], what: str) -> Iterator[tuple[str, Any]]:
    """Iterate over a flat dict of arrays, or of leaves that are read on demand, with a bar of their bytes."""
    with bytes_bar(sum(leaf.nbytes for leaf in flat.values()), what) as watched:
        for path, leaf in flat.items():
            yield path, leaf
            watched.update(leaf.nbytes)
