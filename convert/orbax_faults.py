"""What goes wrong in Orbax, as one clear error instead of its traces."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jaxdino.core.errors import UserError


@contextmanager
def writable(folder: Path) -> Iterator[None]:
    """What Orbax says of a disk that fails, as one clear error.

    Its threads' own log lines are held back, and stay so after a failure or Ctrl-C, which these threads outlive.
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
    """What Orbax says of damaged files, as one clear error."""
    try:
        yield
    except (ValueError, OSError, KeyError) as err:
        raise UserError(f"the parameters in {folder} cannot be read: {str(err).splitlines()[0]}") from err
