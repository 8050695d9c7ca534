"""How every command ends: one line for what the user can mend, for Ctrl-C and for a closed pipe."""

import os
import sys
from collections.abc import Callable

from jaxdino.core.errors import UserError

MISTAKE, INTERRUPTED, CLOSED_PIPE = 2, 130, 141
"""Exit statuses: an error of the user's; 128 + SIGINT; 128 + SIGPIPE, as of other commands before `| head`."""


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
