"""Parse the text of a flag as the value of a setting."""

import ast
from typing import Any

from absl import flags
from ml_collections.config_flags import tuple_parser

from jaxdino.core.errors import UserError
from jaxdino.core.json_file import LARGEST
from jaxdino.settings.tree import Setting

KINDS: dict[type, tuple[str, Any]] = {
    int: ("a whole number", flags.IntegerParser()),
    float: ("a number", flags.FloatParser()),
    bool: ("True or False", flags.BooleanParser()),
    str: ("a text", flags.ArgumentParser()),
}
"""The type of a setting -> its name in errors, and its parser."""


def read(setting: Setting, texts: list[str]) -> Any:
    """Parse the value of a setting from a flag; "None" leaves an optional setting open.

    Args:
      texts: the values of the flag, each time it was given; the last one counts, but a tuple takes all of them.

    Raises:
      UserError: if a value does not have the setting's type.
    """
    if texts[-1] == "None" and (setting.value is None or setting.path.startswith("stages[")):
        return None
    if setting.kind is tuple:
        return _tuple(setting, texts)
    if setting.kind not in KINDS:
        return _literal(texts[-1])
    what, parser = KINDS[setting.kind]
    try:
        value = parser.parse(texts[-1])
    except ValueError:
        raise _refused(setting, texts[-1], what) from None
    if setting.kind is int and abs(value) >= LARGEST:
        raise _refused(setting, texts[-1], f"{what} of at most 64 bits")
    return value


def _tuple(setting: Setting, texts: list[str]) -> tuple:
    numbers = bool(setting.value) and all(_number(one) for one in setting.value)
    example = setting.value if setting.value else (1, 2)
    what = f"several {'numbers' if numbers else 'values'} in brackets and quotes, as '{example}',"
    try:
        value = sum((tuple_parser.TupleParser().parse(text) for text in texts), ())
    except ValueError:
        raise _refused(setting, texts[-1], what) from None
    if numbers and not all(_number(one) for one in value):
        raise _refused(setting, texts[-1], what)
    return value


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _refused(setting: Setting, text: str, what: str) -> UserError:
    now = "" if setting.kind is tuple else f" (the config has {setting.value})"
    shown = text if len(text) <= 200 else f"{text[:200]}..."
    return UserError(f"--config.{setting.path}={shown}: {what} is wanted{now}")
