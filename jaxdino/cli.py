"""The command `jaxdino`: one name for training, prediction, evaluation and conversion.

`jaxdino train` is `python -m jaxdino.main`, `jaxdino convert` is `python -m convert`, and so on; arguments and exit
statuses are the same. jax is imported only by what a command does.
"""

import importlib
import sys
from collections.abc import Sequence

from jaxdino import __version__
from jaxdino.core.command import COMMANDS, finish, started_as
from jaxdino.core.errors import UserError
from jaxdino.core.rules import did_you_mean

LINES = {
    "train": "train by a config: adapt a backbone, or learn one without labels",
    "predict": "classify images with a trained model",
    "segment": "write the masks of text prompts",
    "evaluate": "measure frozen features: k-NN, linear probe",
    "convert": "weights between PyTorch and jaxdino: import, export, inspect, verify, list",
    "configs": "list the configs that `jaxdino train --config=NAME` takes",
}
"""Command -> what it does."""
HOMES = {"main": "train", "fit": "train", "classify": "predict"} | {
    name: f"convert {name}" for name in ("import", "export", "inspect", "verify", "list")
}
"""What users type that is the name of no command -> the command that does it."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run `jaxdino NAME ARGUMENTS...`; return the exit status.

    Args:
      argv: what follows `jaxdino`; by default the command line's.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "-help", "--help", "help"):
        return finish(lambda: print(usage()))
    if argv[0] in ("-V", "-version", "--version", "version"):
        return finish(lambda: print(f"jaxdino {__version__}"))
    name, *rest = argv
    if name not in LINES:
        return finish(lambda: _refuse(name))
    started_as(name)
    if name == "configs":
        return finish(lambda: _configs(rest))
    if name == "train":
        from jaxdino.main import start

        return start(rest)
    module = COMMANDS[name]
    return importlib.import_module("convert.__main__" if module == "convert" else module).main(rest)


def usage() -> str:
    """The commands, a line each."""
    wide = max(map(len, LINES))
    return "\n".join(
        [
            "usage: jaxdino COMMAND ...",
            "",
            *(f"  {name:<{wide}}  {line}" for name, line in LINES.items()),
            "",
            "`jaxdino COMMAND --help` lists the arguments of a command; `jaxdino --version` prints the version.",
        ]
    )


def _configs(args: Sequence[str]) -> None:
    """Print the name of each config and what it does."""
    from jaxdino.settings.config_search import INSTALLED, lines

    if args:
        asked = args[0] in ("-h", "--help")
        if not asked:
            raise UserError(f"jaxdino configs takes no arguments, {args[0]!r} is one")
        print("usage: jaxdino configs\n\nList the installed configs and those in ./configs, a line each.")
        return
    print("\n".join([*lines(), "", f"installed in {INSTALLED}; one of the same name in ./configs comes first"]))


def _refuse(name: str) -> None:
    """Say which command was meant."""
    if name.startswith("-"):
        raise UserError(f"{name} comes after a command, as in jaxdino train {name}; jaxdino --help lists the commands")
    meant = f"use jaxdino {HOMES[name]}" if name in HOMES else did_you_mean(name, LINES)
    raise UserError(f"{name!r} is not a command; {meant}; jaxdino --help lists them all")


if __name__ == "__main__":
    sys.exit(main())
