"""The command line as a config: every name and value is checked, and a wrong one ends in the right spelling."""

import dataclasses
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from jaxdino.core.errors import UserError
from jaxdino.settings.config_file import load
from jaxdino.settings.config_search import find
from jaxdino.settings.spelling import ELSEWHERE, advice
from jaxdino.settings.tree import Setting, parent_of, settings
from jaxdino.settings.values import read

FLAG = re.compile(r"--?(no)?config\.([^=]+)(?:=(.*))?", re.DOTALL)


@dataclasses.dataclass(frozen=True)
class Given:
    """What the command line says of a setting: its path, and the values in order."""

    path: str
    texts: list[str]


@dataclasses.dataclass(frozen=True)
class Command:
    """A config as the command line gives it.

    Attributes:
      file: of the config. model: the name after its colon, if there is one.
      installed: whether the file is one that came with the package, for want of one in the current folder.
      given: the settings on the command line, in order.
      make: makes the config of a model's name, or of none, as the file has it.
    """

    file: Path
    model: str | None
    given: tuple[Given, ...]
    make: Callable[[str | None], ConfigDict]
    installed: bool = False

    @property
    def weights_name_it(self) -> bool:
        """Whether the model is yet to be read from weights that the command line names."""
        return self.model is None and any(one.path == "model.weights" for one in self.given)

    def config(self, model: str | None = None, part: str = "") -> ConfigDict:
        """The config with the command line's settings, locked, for a model's name: by default that after the colon.

        Args:
          part: of the settings alone, those whose path begins so; the others are not even checked.

        Raises:
          UserError: for a setting that is not there, or a value of another type.
        """
        config = self.make(model or self.model)
        known = settings(config)
        chosen = [one for one in self.given if one.path.startswith(part)]
        for one in chosen:
            if one.path not in known:
                text = one.texts[-1]
                raise UserError(f"--config.{one.path}={text}: {advice(one.path, text, known)}")
        for one in chosen:
            node, key = parent_of(config, one.path)
            node[key] = read(known[one.path], one.texts)
        return config.lock()

    def changed(self, config: ConfigDict, model: str | None = None) -> dict[str, Setting]:
        """{path: as the file has it} of the settings on the command line that differ from the file's."""
        before, after = settings(self.make(model or self.model)), settings(config)
        return {one.path: before[one.path] for one in self.given if after[one.path].value != before[one.path].value}


def command(config: str, args: Sequence[str]) -> Command:
    """Read a config's path and the settings of the command line.

    Args:
      config: "FILE" or "NAME" of a config, as `config_search.find` takes it; ":MODEL" may follow.
      args: "--config.NAME=VALUE", "--config.NAME" for True, "--noconfig.NAME" for False.
    """
    asked, _, model = config.partition(":")
    (file, installed), given = find(asked), {}
    for arg in args:
        found = FLAG.fullmatch(arg)
        if found is None:
            raise UserError(f"{arg} is not a setting: settings are given as --config.NAME=VALUE")
        negated, name, text = found.groups()
        text = text if text is not None else str(not negated)
        given.setdefault(name, []).append(text)
    made = load(file, model or None)
    return Command(file, model or None, tuple(Given(*one) for one in given.items()), made, installed)


def split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """(the arguments that are settings, each as "--config.NAME=VALUE" or "--config.NAME"; the others).

    A value may follow its setting after a space.
    """
    given, rest, args = [], [], list(argv)
    while args:
        arg = args.pop(0)
        if not FLAG.fullmatch(arg):
            rest.append(arg)
        elif "=" not in arg and args and re.match(r"[^-]|-[\d.]|$", args[0]):
            given.append(f"{arg}={args.pop(0)}")
        else:
            given.append(arg)
    return given, rest


def as_setting(name: str, text: Any, known: dict[str, Setting]) -> str | None:
    """How a flag that is not there would be a setting, "--data.root" or "--lr"; None if none is like it."""
    path = re.sub(r"\.(\d+)(?=\.|$)", r"[\1]", name.replace("-", "_").removeprefix("config."))
    value = "" if text is None else f"={text}"
    if path in known:
        return f"settings begin with --config: --config.{path}{value}"
    last = ELSEWHERE.get(path.rpartition(".")[2], path.rpartition(".")[2])
    if last not in {one.name for one in known.values()}:
        return None
    return f"settings begin with --config; {advice(path, text, known).removeprefix('there is no such setting; ')}"
