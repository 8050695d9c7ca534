"""Read a config from the command line: check every name and value, and suggest the right spelling of a wrong one."""

import dataclasses
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from jaxdino.core.errors import UserError
from jaxdino.objectives.settings import OBJECTIVES
from jaxdino.settings.config_file import load
from jaxdino.settings.config_search import find
from jaxdino.settings.open_fields import open_fields
from jaxdino.settings.spelling import ELSEWHERE, advice
from jaxdino.settings.tree import Setting, parent_of, settings
from jaxdino.settings.values import read

FLAG = re.compile(r"--?(no)?config\.([^=]+)(?:=(.*))?", re.DOTALL)


@dataclasses.dataclass(frozen=True)
class Given:
    """A setting on the command line: its path, and its values in order."""

    path: str
    texts: list[str]


@dataclasses.dataclass(frozen=True)
class Command:
    """A config with the settings of the command line.

    Attributes:
      file: file of the config. model: the name after its colon, if there is one.
      installed: whether the file comes with the package, because the current folder has none.
      given: the settings on the command line, in order.
      make: makes the config as written in the file, for a model's name or for None.
    """

    file: Path
    model: str | None
    given: tuple[Given, ...]
    make: Callable[[str | None], ConfigDict]
    installed: bool = False

    @property
    def weights_name_it(self) -> bool:
        """Return whether the model has to be read from the weights on the command line."""
        return self.model is None and any(one.path == "model.weights" for one in self.given)

    def config(self, model: str | None = None, part: str = "") -> ConfigDict:
        """Return the locked config with the command line's settings, for a model's name (by default after the colon).

        Args:
          part: only apply the settings whose path begins with this; the others are not checked.

        Raises:
          UserError: for an unknown setting, or a value of another type.
        """
        config = self._made(model)
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
        """Return {path: setting in the file} of the settings whose value the command line changes."""
        before, after = settings(self._made(model)), settings(config)
        return {one.path: before[one.path] for one in self.given if after[one.path].value != before[one.path].value}

    def _made(self, model: str | None) -> ConfigDict:
        """Return the config of the file, with open fields for the settings of the objective on the command line."""
        config = self.make(model or self.model)
        chosen = next((one.texts[-1] for one in self.given if one.path == "objective.name"), None)
        if chosen in OBJECTIVES and chosen != config.objective.name:
            config.objective = open_fields(OBJECTIVES[chosen], config.objective.to_dict())
        return config


def command(config: str, args: Sequence[str]) -> Command:
    """Read a config's path and the settings on the command line.

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
    """Split arguments into (settings, each as "--config.NAME=VALUE" or "--config.NAME"; the others).

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
    """Return how to write an unknown flag as a setting, "--data.root" or "--lr"; None if no setting is similar."""
    path = re.sub(r"\.(\d+)(?=\.|$)", r"[\1]", name.replace("-", "_").removeprefix("config."))
    value = "" if text is None else f"={text}"
    if path in known:
        return f"settings begin with --config: --config.{path}{value}"
    last = ELSEWHERE.get(path.rpartition(".")[2], path.rpartition(".")[2])
    if last not in {one.name for one in known.values()}:
        return None
    return f"settings begin with --config; {advice(path, text, known).removeprefix('there is no such setting; ')}"
