"""Turn Orbax's exceptions into one clear error."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jaxdino.core.errors import UserError


@contextmanager
def writable(folder: Path) -> Iterator[None]:
    """Raise a clear UserError when Orbax cannot write to the disk.

    The log lines of its threads are suppressed, also after a failure or Ctrl-C, because the threads run longer.
    """
    from absl import logging

    before = logging.get_verbosity()
    logging.set_verbosity(logging.FATAL)
    try:
        yield
    except UserError:
        raise
    except (ValueError, RuntimeError) as err:
        raise UserError(f"{folder.parent}: the parameters cannot be written: {str(err).splitlines()[0]}") from err
    logging.set_verbosity(before)


@contextmanager
def readable(folder: Path) -> Iterator[None]:
    """Raise a clear UserError when Orbax cannot read damaged files."""
    try:
        yield
    except (ValueError, OSError, KeyError, RecursionError) as err:  # Orbax reads JSON of its own, nested at any depth
        raise UserError(f"the parameters in {folder} cannot be read: {str(err).splitlines()[0]}") from err
