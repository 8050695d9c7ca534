"""Faults of the disk that a run writes to: one line, and how to go on."""

import errno
import logging
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jaxdino.core.errors import UserError

FULL = ("ENOSPC", "EDQUOT")
FAULTS = (*FULL, "EFBIG", "EROFS", "EACCES", "EPERM", "EIO", "ENAMETOOLONG", "ESTALE", "ENOTDIR", "EISDIR", "ENOENT")
"""Names of the system's error numbers that mean a fault of the disk, if they occur in the run's folder."""
ANYWHERE = (*FULL, "EFBIG", "EROFS", "EIO", "ESTALE")
"""Those that libraries also report without the name of a file, as text."""
AFTER = ("Event loop is closed", "cannot schedule new futures after", "handle is closed")
"""What their threads say after such a fault."""


@contextmanager
def writable(folder: Path) -> Iterator[None]:
    """Raise a UserError in place of whatever a full, read-only or failing disk raises in the block.

    Checkpoints are complete or not there, so the run can be resumed afterwards. The threads of Orbax and TensorBoard
    meet the same fault, also while the interpreter ends: after a fault, their tracebacks about it stay unprinted.
    """
    loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]
    hooks = threading.excepthook, sys.unraisablehook

    def known(thrown: BaseException | None, text: str = "") -> bool:
        return bool(_fault(thrown, folder) or _worded(text)) or any(end in f"{thrown} {text}" for end in AFTER)

    def heard(record: logging.LogRecord) -> bool:
        return not known(record.exc_info[1] if record.exc_info else None, record.getMessage())

    threading.excepthook = lambda args: None if known(args.exc_value) else hooks[0](args)
    sys.unraisablehook = lambda args: None if known(args.exc_value) else hooks[1](args)
    for logger in loggers:
        logger.addFilter(heard)
    failed = False
    try:
        yield
    except Exception as err:
        if (fault := _fault(err, folder)) is None:
            raise
        failed = True
        what = "free some space" if fault in map(os.strerror, _numbers(FULL)) else "make it writable"
        raise UserError(
            f"{folder} cannot be written: {fault}. The run is stopped, and nothing that was saved is lost: {what}, and "
            f"give the same command again, --workdir={folder}; it resumes from the last complete checkpoint"
        ) from None
    finally:
        if not failed:
            threading.excepthook, sys.unraisablehook = hooks
            for logger in loggers:
                logger.removeFilter(heard)


def _numbers(names: tuple[str, ...]) -> set[int]:
    return {getattr(errno, name) for name in names if hasattr(errno, name)}


def _fault(err: BaseException | None, folder: Path) -> str | None:
    """Return the first fault of the disk among an exception and those that it came from, or None.

    Orbax and TensorStore raise their own types, with the system's words in the text.
    """
    chain: list[BaseException] = []
    while err is not None and err not in chain:
        chain.append(err)
        err = err.__cause__ or err.__context__
    for one in reversed(chain):
        if isinstance(one, UserError):
            continue
        if isinstance(one, OSError) and one.errno in _numbers(FAULTS if _inside(one, folder) else ANYWHERE):
            return os.strerror(one.errno)
        if isinstance(one, ValueError | RuntimeError) and (fault := _worded(str(one))):
            return fault
    return None


def _worded(text: str) -> str | None:
    """Return the fault of the disk that a library's message reports in the system's words, or None."""
    return next((words for words in map(os.strerror, sorted(_numbers(ANYWHERE))) if words in text), None)


def _inside(err: OSError, folder: Path) -> bool:
    names = [name for name in (err.filename, err.filename2) if isinstance(name, str | bytes)]
    root = os.path.abspath(folder)
    return any(os.path.abspath(os.fsdecode(name)).startswith(root) for name in names)
