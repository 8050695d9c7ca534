"""The parser of a command's flags: a mistake is one line, which names the nearest flags."""

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

from jaxdino.core.errors import UserError
from jaxdino.core.rules import did_you_mean


class Parser(argparse.ArgumentParser):
    """argparse's parser without the usage in front of its errors."""

    _given: Sequence[str] = ()

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse as argparse does. Raise UserError for a flag that there is not, before anything else is missed."""
        self._refuse_unknown(args or ())
        return super().parse_args(args, namespace)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse as argparse does; what it does not know is left to the caller."""
        self._given = list(args or ())
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Exit with status 2 and one line. A flag that there is not is often why a required one is missing."""
        if "are required" in message:
            self._refuse_unknown(self._given)
        self.exit(2, f"{self.prog}: error: {message} ({self.prog} --help)\n")

    def _refuse_unknown(self, given: Sequence[str]) -> None:
        """Raise UserError for the first flag that is neither known, nor the beginning of a known one, nor a setting."""
        known = self._flags(given)
        for one in given:
            name = one.split("=")[0]
            if one == "--":
                return
            if one.startswith("--") and "." not in name and not any(flag.startswith(name) for flag in known):
                raise UserError(f"{name} is not a flag; {did_you_mean(name, sorted(known))}")

    def _flags(self, given: Sequence[str]) -> set[str]:
        """Return all long flags, with those of the command that is given."""
        found = {name for name in self._option_string_actions if name.startswith("--")}
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                commands = (action.choices[one] for one in given if one in action.choices)
                found |= {flag for command in commands for flag in command._flags(given)}
        return found
