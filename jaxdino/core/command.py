"""The names of the commands, and how they end: one line for a user error, for Ctrl-C and for a closed pipe."""

import os
import re
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType

from jaxdino.core.errors import UserError
from jaxdino.core.words import printable

MISTAKE, INTERRUPTED, CLOSED_PIPE = 2, 130, 141
"""Exit statuses: a user error; 128 + SIGINT; 128 + SIGPIPE, as for other commands before `| head`."""

COMMANDS = {
    "train": "jaxdino.main",
    "predict": "jaxdino.predict",
    "segment": "jaxdino.segment",
    "detect": "jaxdino.detect",
    "depth": "jaxdino.depth",
    "evaluate": "jaxdino.evaluate",
    "compare": "jaxdino.compare",
    "extract": "jaxdino.extract",
    "probe": "jaxdino.probe",
    "embed": "jaxdino.embed",
    "search": "jaxdino.search",
    "match": "jaxdino.match",
    "anomaly": "jaxdino.anomaly",
    "check-data": "jaxdino.check_data",
    "prepare": "jaxdino.prepare",
    "serve": "jaxdino.serve",
    "replay": "jaxdino.replay",
    "export": "jaxdino.export",
    "convert": "convert",
}
"""{argument of `jaxdino` on the command line: module for `python -m`}."""
OF_DATA = {"--config.data.": "--data."}
"""{words of the errors of training: those of commands that read data without a config}."""
HOME = re.compile(r"^((?:--?[\w.\[\]]+=)?)~(?=/|$)")
_typed: list[str] = []


def started_as(name: str) -> None:
    """Record that the user typed `jaxdino NAME`, so that usage lines and errors name that command."""
    _typed[:] = [name]


def program(name: str) -> str:
    """Return how the user starts a command: "jaxdino predict", or "python -m jaxdino.predict" if this one began so."""
    return f"jaxdino {name}" if _typed else f"python -m {COMMANDS[name]}"


def described(name: str, doc: str | None) -> str:
    """Return a module's docstring, with the command as the user types it."""
    return (doc or "").replace(f"python -m {COMMANDS[name]}", program(name))


def expanded(argv: Sequence[str] | None = None) -> list[str]:
    """Return the arguments, by default the command line's, with `~` expanded, also in `--workdir=~/runs`.

    The shell does this for a `~` that begins a word, but not after `=`.
    """
    argv = sys.argv[1:] if argv is None else argv
    return [HOME.sub(lambda found: found[1] + os.path.expanduser("~"), one) for one in argv]


def finish(work: Callable[[], int | None], words: Mapping[str, str] = MappingProxyType({})) -> int:
    """Run a command and return its exit status. A UserWarning is printed as its words alone, without a place in code.

    `UserError` is printed as `error: ...`, status 2. Ctrl-C prints `interrupted`, status 130. A reader that closed the
    pipe (`... | head`) ends the command without a message, status 141.

    Args:
      work: the function of the command; returns its status, or None for 0.
      words: {words of an error, such as a flag of training: those of this command}; replaced in this order.
    """
    format_before, warnings.formatwarning = warnings.formatwarning, _in_words
    try:
        try:
            return work() or 0
        finally:  # a closed pipe is detected here, not when the interpreter ends
            sys.stdout.flush()
    except UserError as err:
        message = f"error: {err}"
        for theirs, own in words.items():
            message = message.replace(theirs, own)
        write_error(message)
        return MISTAKE
    except KeyboardInterrupt:
        write_error("interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        silence()
        return CLOSED_PIPE
    finally:
        warnings.formatwarning = format_before


def _in_words(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    if category is UserWarning:
        return f"{printable(str(message))}\n"
    return f"{filename}:{lineno}: {category.__name__}: {message}\n"


def write_error(line: str) -> None:
    """Write a line to standard error in one piece: processes that share it do not mix their lines.

    `print` writes the text and its end apart where Python does not buffer (`-u`, PYTHONUNBUFFERED).
    """
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def silence() -> None:
    """Discard standard output, including what is still buffered."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):  # a standard output without a file descriptor, as in a notebook
        return


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Delay Ctrl-C until the block ends. For a short block that must run completely."""
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
