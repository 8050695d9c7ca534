"""How commands are named, and how every one ends: one line for a user's error, for Ctrl-C and for a closed pipe."""

import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from jaxdino.core.errors import UserError

MISTAKE, INTERRUPTED, CLOSED_PIPE = 2, 130, 141
"""Exit statuses: an error of the user's; 128 + SIGINT; 128 + SIGPIPE, as of other commands before `| head`."""

COMMANDS = {
    "train": "jaxdino.main",
    "predict": "jaxdino.predict",
    "segment": "jaxdino.segment",
    "evaluate": "jaxdino.evaluate",
    "convert": "convert",
}
"""What follows `jaxdino` on the command line -> the module that `python -m` runs."""
HOME = re.compile(r"^((?:--?[\w.\[\]]+=)?)~(?=/|$)")
_typed: list[str] = []


def started_as(name: str) -> None:
    """Record that the user typed `jaxdino NAME`, so that usage lines and errors name that command."""
    _typed[:] = [name]


def program(name: str) -> str:
    """How the user starts a command: "jaxdino predict", or "python -m jaxdino.predict" if this one began so."""
    return f"jaxdino {name}" if _typed else f"python -m {COMMANDS[name]}"


def described(name: str, doc: str | None) -> str:
    """A module's docstring, with the command as the user types it."""
    return (doc or "").replace(f"python -m {COMMANDS[name]}", program(name))


def expanded(argv: Sequence[str] | None = None) -> list[str]:
    """The arguments, by default the command line's, with `~` as the home folder, in `--workdir=~/runs` too.

    The shell does the same where `~` begins a word, and leaves it where it follows `=`.
    """
    argv = sys.argv[1:] if argv is None else argv
    return [HOME.sub(lambda found: found[1] + os.path.expanduser("~"), one) for one in argv]


def finish(work: Callable[[], int | None]) -> int:
    """Run a command and return its exit status.

    `UserError` is printed as `error: ...`, status 2. Ctrl-C prints `interrupted`, status 130. A reader that closed the
    pipe (`... | head`) ends the command without a word, status 141.

    Args:
      work: does what the command is for; returns its status, or None for 0.
    """
    try:
        try:
            return work() or 0
        finally:  # a closed pipe shows here, not when the interpreter ends
            sys.stdout.flush()
    except UserError as err:
        print(f"error: {err}", file=sys.stderr)
        return MISTAKE
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        silence()
        return CLOSED_PIPE


def silence() -> None:
    """Send standard output, and what is still buffered of it, nowhere."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):  # a standard output without a file behind it, as in a notebook
        return


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold Ctrl-C back until the block ends. For a short block that must be done whole."""
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield
        return
    pressed: list[tuple] = []
    signal.signal(signal.SIGINT, lambda *how: pressed.append(how))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if pressed:
            before(*pressed[0])
