"""Regular expressions that come from files and settings: they end within a bounded time."""

from functools import lru_cache

import regex

from jaxdino.core.errors import UserError

LONGEST = 20_000  # characters of an expression
SECONDS = 2.0  # that one match may take; the longest parameter paths need microseconds


class Pattern:
    """A regular expression in the syntax of Python's `re`.

    Python's own matcher may take years for some expressions, such as "(a+)+b"; this one gives up.

    Args:
      text: the expression. what: what it is, for messages: "the LoRA target".

    Raises:
      UserError: if it is no regular expression, or too long.
    """

    def __init__(self, text: str, what: str = "the pattern"):
        if len(text) > LONGEST:
            raise UserError(f"{what} {text[:40]!r}... has {len(text)} characters; at most {LONGEST} are read")
        self.text, self.what = text, what
        try:
            self._compiled = _compile(text)
        except (regex.error, RecursionError, OverflowError, MemoryError) as err:
            raise UserError(f"{what} {text[:200]!r} is not a regular expression: {err}") from None

    def matches(self, name: str) -> bool:
        """Return whether it matches the whole of `name`. Raise UserError if this takes too long."""
        try:
            return self._compiled.fullmatch(name, timeout=SECONDS) is not None
        except TimeoutError:
            raise UserError(
                f"{self.what} {self.text[:200]!r} takes more than {SECONDS:g} s for {name!r}: write it "
                "without a repetition inside a repetition"
            ) from None


@lru_cache(maxsize=4096)
def _compile(text: str) -> regex.Pattern:
    return regex.compile(text)
