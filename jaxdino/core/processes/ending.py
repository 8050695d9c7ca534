"""How a process of several ends: with all others, or with an error that the others are told."""

import os
import re
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn

from jaxdino.core import processes
from jaxdino.core.command import INTERRUPTED, MISTAKE, write_error
from jaxdino.core.errors import UserError

COLLECTIVE = re.compile(r"gloo|nccl|unavailable|deadline|coordination|connection (closed|reset)|socket", re.IGNORECASE)
"""What is in the message of a collective operation that failed because another process was lost."""


def together(work: Callable[[], None]) -> None:
    """Run the work of this process; of several, end with the others.

    An error of this process is printed and told to the others, which end too. A collective operation that failed
    because another process was lost is not an error of this one: the watch names the lost process.
    """
    try:
        work()
        processes.finish()
    except BaseException as err:
        if processes.count() == 1:
            raise
        _leave(err)


def _leave(err: BaseException) -> NoReturn:
    """Print the error, unless process 0 prints the same; end at once, since threads of JAX may wait for the others."""
    if isinstance(err, Exception) and not isinstance(err, UserError) and COLLECTIVE.search(str(err)):
        processes.settle()
    status = MISTAKE if isinstance(err, UserError) else INTERRUPTED if isinstance(err, KeyboardInterrupt) else 1
    known = isinstance(err, UserError | KeyboardInterrupt)
    reason = str(err) or "interrupted" if known else f"{type(err).__name__}: {err}"
    if not processes.fail(reason, status):
        if known:
            write_error(f"error: {reason}" if isinstance(err, UserError) else reason)
        else:
            traceback.print_exception(err)
    sys.stdout.flush()
    sys.stderr.flush()
    processes.linger()
    os._exit(status)
