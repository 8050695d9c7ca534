"""The settings of a config as a list, each with its path, type and value."""

import dataclasses
import re
from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict


@dataclasses.dataclass(frozen=True)
class Setting:
    """One setting.

    Attributes:
      path: path in the config, "stages[0].groups.head.lr"; its flag is --config.PATH.
      kind: type of its values; object if no type is declared.
    """

    path: str
    kind: type
    value: Any

    @property
    def name(self) -> str:
        """The last word of the path."""
        return self.path.rpartition(".")[2]

    @property
    def general(self) -> str:
        """The path without its numbers: "stages[].groups.head.lr"."""
        return re.sub(r"\[\d+\]", "[]", self.path)


def settings(config: ConfigDict) -> dict[str, Setting]:
    """Return {path: setting} of a config, in order; a stage's own settings come after those of the whole run."""
    found = {one.path: one for one in _walk(config, "")}
    of_stages = {path: one for path, one in found.items() if path.startswith("stages[")}
    return {path: one for path, one in found.items() if path not in of_stages} | of_stages


def _walk(node: ConfigDict, path: str) -> Iterator[Setting]:
    for key in node:
        place, value = f"{path}.{key}" if path else key, node[key]
        if isinstance(value, ConfigDict):
            yield from _walk(value, place)
        elif isinstance(value, tuple) and value and all(isinstance(one, ConfigDict) for one in value):
            for index, one in enumerate(value):
                yield from _walk(one, f"{place}[{index}]")
        else:
            kind = node.get_type(key)
            yield Setting(place, object if kind is type(None) else kind, value)


def parent_of(config: ConfigDict, path: str) -> tuple[ConfigDict, str]:
    """Return the part of a config that holds a setting, and the setting's key in it."""
    *parts, key = re.findall(r"[^.\[\]]+", path)
    node = config
    for part in parts:
        node = node[int(part)] if part.isdigit() else node[part]
    return node, key
