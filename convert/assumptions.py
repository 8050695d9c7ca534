"""Assumptions: facts that the weights do not store, one line each, with the flag that overrides each."""

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from jaxdino.core.errors import UserError

MARK = "assumed: "
FLAGS = ("model", "layout", "prefix", "num_heads", "pos_grid", "pool", "head_blocks", "image_size", "head", "drop_head")
"""Facts that a user can state about weights: flags of `python -m convert`, keywords of `jaxdino.load`."""
KEYWORDS = {flag: flag for flag in FLAGS} | {"drop_head": "drop_head=True"}
ARGUMENTS = {flag: f"--{flag}" for flag in FLAGS}
IMPORT = {flag: f"python -m convert import --{flag}" for flag in FLAGS}
"""Spelling for a command that has no such flags and takes the folder that the import writes."""


def assume(what: str, why: str, flag: str = "", file: str = "") -> str:
    """Return a line like "6 attention heads (width 384 / 64); --num_heads overrules".

    Args:
      flag: one of `FLAGS`, or a flag and its value ("layout=timm").
      file: the file beside the weights that overrides the assumption, where no flag does.
    """
    return f"{what} ({why}); " + (f"--{flag} overrules" if flag else f"{file} beside the weights overrules")


def lines(assumed: Iterable[str]) -> list[str]:
    """Return the assumptions as notes to the user."""
    return [MARK + text for text in assumed]


def spelled(text: str, words: Mapping[str, str] = KEYWORDS) -> str:
    """Return `text` with its flags spelled as the caller spells them, for example `num_heads` for `--num_heads`."""
    flags = "|".join(sorted(words, key=len, reverse=True))
    return re.sub(rf"--({flags})\b", lambda found: words[found[1]], text)


@contextmanager
def spelling(words: Mapping[str, str] = KEYWORDS) -> Iterator[None]:
    """Rewrite the flags in a UserError as the caller spells them."""
    try:
        yield
    except UserError as err:
        if (text := spelled(str(err), words)) == str(err):
            raise
        raise type(err)(text) from err
