"""Facts that weights do not hold and that were assumed: one line each, with the flag that overrules it."""

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from jaxdino.core.errors import UserError

MARK = "assumed: "
FLAGS = ("model", "layout", "prefix", "num_heads", "pos_grid", "pool", "image_size", "head", "drop_head")
"""What a user says of weights: flags of `python -m convert`, keywords of `jaxdino.load`."""
KEYWORDS = {flag: flag for flag in FLAGS} | {"drop_head": "drop_head=True"}
ARGUMENTS = {flag: f"--{flag}" for flag in FLAGS}
IMPORT = {flag: f"python -m convert import --{flag}" for flag in FLAGS}
"""For a command without such flags, which takes the folder that the import writes."""


def assume(what: str, why: str, flag: str = "", file: str = "") -> str:
    """A line such as "6 attention heads (width 384 / 64); --num_heads overrules".

    Args:
      flag: one of `FLAGS`, or a flag and its value ("layout=timm").
      file: the one beside the weights that overrules, where no flag does.
    """
    return f"{what} ({why}); " + (f"--{flag} overrules" if flag else f"{file} beside the weights overrules")


def lines(assumed: Iterable[str]) -> list[str]:
    """The assumptions as notes to the user."""
    return [MARK + text for text in assumed]


def spelled(text: str, words: Mapping[str, str] = KEYWORDS) -> str:
    """`text` with its flags as the caller spells them, such as `num_heads` for `--num_heads`."""
    flags = "|".join(sorted(words, key=len, reverse=True))
    return re.sub(rf"--({flags})\b", lambda found: words[found[1]], text)


@contextmanager
def spelling(words: Mapping[str, str] = KEYWORDS) -> Iterator[None]:
    """Spells the flags in a UserError as the caller does."""
    try:
        yield
    except UserError as err:
        if (text := spelled(str(err), words)) == str(err):
            raise
        raise type(err)(text) from err
