"""Symbolic links that lead out of a data folder."""

import os

from jaxdino.core.errors import UserError
from jaxdino.core.words import few
from jaxdino.data.identity import files_of
from jaxdino.data.record import Source
from jaxdino.data.roots import roots_of

SHOWN = 3


def check_links(source: Source, root: str) -> None:
    """Check that the files of all records lie below the root, wherever symbolic links lead.

    Args:
      root: a folder, a file in it, or several folders (see `roots`).

    Raises:
      UserError: with the first files that do not, and their targets.
    """
    roots = [os.path.dirname(one) or "." if os.path.isfile(one) else one for one in roots_of(root)]
    inside = tuple(os.path.join(os.path.realpath(root), "") for root in roots)
    files = dict.fromkeys(one for split in source.splits.values() for paths in files_of(split) for one in paths)
    targets = {one: os.path.realpath(one) for one in files}
    if out := [f"{one} is {target}" for one, target in targets.items() if not target.startswith(inside)]:
        raise UserError(
            f"data.follow_links=False, and {len(out)} files are outside of {few(roots, SHOWN)}: {few(out, SHOWN)}. "
            "--config.data.follow_links=True reads them"
        )
