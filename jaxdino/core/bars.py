"""Progress of long work on standard error: a bar on a terminal, a line now and then in a log."""

import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TextIO

from tqdm import tqdm

DELAY = 1.0  # seconds before a bar is drawn: what is done sooner shows none
LOGGED = 20.0  # seconds between two lines where standard error is no terminal


class Lines:
    """A stream for tqdm that writes each state of the bar as a line of its own."""

    def __init__(self, stream: TextIO):
        self.stream = stream

    def write(self, text: str) -> None:
        """Writes what tqdm draws, without the returns that move a cursor."""
        if line := text.strip("\r\n "):
            self.stream.write(line + "\n")

    def flush(self) -> None:
        """Flushes the stream."""
        self.stream.flush()


def bar(items: Iterable[Any] | None, what: str, *, total: int | None = None, unit: str = "image", **how: Any) -> tqdm:
    """A tqdm bar over `items`, or one to be moved on with `update`, on standard error.

    Args:
      what: stands before the bar.
      total: where `items` has no length.
      how: further arguments of tqdm.
    """
    watched = sys.stderr.isatty()
    place = {"file": sys.stderr, "delay": DELAY, "dynamic_ncols": True}
    if not watched:
        place = {"file": Lines(sys.stderr), "delay": LOGGED, "mininterval": LOGGED, "maxinterval": LOGGED, "ncols": 80}
    return tqdm(items, desc=what, total=total, unit=unit, leave=False, **place, **how)


def stage_bar(total: int, initial: int, what: str, hidden: bool) -> tqdm:
    """A bar of a stage's steps, with what `shown` says behind it.

    Args:
      initial: steps that an earlier session took.
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
    """Put words behind a bar: at once on a terminal, with the next line in a log."""
    drawn.set_postfix_str(words, refresh=sys.stderr.isatty())


def bytes_bar(total: int, what: str) -> tqdm:
    """A bar of so many bytes, to be moved on with `update`."""
    return bar(None, what, total=total, unit="B", unit_scale=True, unit_divisor=1000)


def by_bytes(flat: Mapping[str, Any], what: str) -> Iterator[tuple[str, Any]]:
    """The items of a flat dict of arrays, or of leaves that are read when asked for, with a bar of their bytes."""
    with bytes_bar(sum(leaf.nbytes for leaf in flat.values()), what) as watched:
        for path, leaf in flat.items():
            yield path, leaf
            watched.update(leaf.nbytes)
