"""Settings of the data on the command line of programs without a config: --data.KEY=VALUE, --prompts.KEY=VALUE."""

import dataclasses
import re
from collections.abc import Collection, Mapping, Sequence

from ml_collections import ConfigDict

from jaxdino.core.errors import UserError
from jaxdino.core.rules import did_you_mean
from jaxdino.data.config import DataConfig
from jaxdino.data.prompts import PromptConfig
from jaxdino.settings import tree, values

SETTING = re.compile(r"--(data|prompts)\.([^=]+)(?:=(.*))?", re.DOTALL)
INSTEAD = {"data.root": "give --root DIR", "data.name": "give --name NAME"}
"""Settings that are flags of their own."""


def data_settings(
    args: Sequence[str],
    name: str,
    root: str,
    read: Collection[str],
    instead: Mapping[str, str] = INSTEAD,
) -> tuple[DataConfig, PromptConfig]:
    """Read the settings of the data from the arguments that are not flags of the program.

    Args:
      name, root: `data.name` and `data.root`.
      read: the settings that the program reads, such as "data.val_ratio".
      instead: {setting: what to give instead}.

    Raises:
      UserError: for another argument, an unknown setting or one that is not read, or a value of another type.
    """
    given: dict[str, list[str]] = {}
    for arg in args:
        found = SETTING.fullmatch(arg.replace("--config.", "--"))
        if found is None or found[3] is None:
            raise UserError(
                f"{arg} is not a flag of this command: settings of the data are given as --data.KEY=VALUE; --help "
                "lists the flags"
            )
        given.setdefault(f"{found[1]}.{found[2]}", []).append(found[3])
    config = ConfigDict({"data": dataclasses.asdict(DataConfig()), "prompts": dataclasses.asdict(PromptConfig())})
    known = tree.settings(config)
    for path, texts in given.items():
        if path not in known:
            raise UserError(f"--{path}={texts[-1]} is not a setting of the data; {did_you_mean(path, list(known))}")
        if path not in read:
            how = f"; {instead[path]}" if path in instead else f": leave it out. It reads: {', '.join(sorted(read))}"
            raise UserError(f"--{path}={texts[-1]} has no effect on this command{how}")
        node, key = tree.parent_of(config, path)
        node[key] = values.read(known[path], texts)
    data = {**config.data.to_dict(), "name": name, "root": root}
    return DataConfig.of(data), PromptConfig.of(config.prompts.to_dict())
