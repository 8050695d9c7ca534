"""Load a config file: a Python file with a function `get_config`; what is wrong in it is one line with its place."""

import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from ml_collections import ConfigDict

from jaxdino.core.errors import UserError
from jaxdino.settings.config_search import INSTALLED


def load(file: Path, model: str | None) -> Callable[[str | None], ConfigDict]:
    """The function that makes the config of a file, for a model's name or for none.

    Args:
      model: the name after the colon, which the file must then take.

    Raises:
      UserError: if the file is not Python, raises, or has no such function; the function raises it too.
    """
    spec = importlib.util.spec_from_file_location(f"config_{file.stem}", file)
    loader = spec and spec.loader
    if spec is None or loader is None:
        raise UserError(f"{file} is not a Python file: a config is one, with a function get_config")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses of the file look their annotations up
    _guarded(file, lambda: loader.exec_module(module))
    get_config = getattr(module, "get_config", None)
    if not callable(get_config):
        raise UserError(f"{file} has no function get_config(model=None) that returns a config: see docs/strategies.md")
    takes = inspect.signature(get_config).parameters
    if model is not None and not takes:
        raise UserError(f"{file}: its get_config takes no model: leave ':{model}' out, or write get_config(model=None)")

    def made(name: str | None) -> ConfigDict:
        config = _guarded(file, lambda: get_config(*([name] if name is not None and takes else [])))
        if not isinstance(config, ConfigDict):
            raise UserError(f"{file}: get_config returned {type(config).__name__}, not a ConfigDict")
        return config

    return made


@contextmanager
def _siblings(file: Path) -> Iterator[None]:
    """Let a config's `from configs import NAME` find the file beside it in a folder `configs`, else the installed one.

    What `import configs` finds elsewhere is another project's, or an installed copy of the files beside it.
    """
    folder = file.resolve().parent
    before = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "configs"}
    package = ModuleType("configs")
    package.__path__ = [str(folder), str(INSTALLED)] if folder.name == "configs" else [str(INSTALLED)]
    _replace(before, {"configs": package})
    try:
        yield
    finally:
        _replace([name for name in sys.modules if name.partition(".")[0] == "configs"], before)


def _replace(names: Iterable[str], modules: dict[str, ModuleType]) -> None:
    for name in names:
        del sys.modules[name]
    sys.modules.update(modules)


def _guarded(file: Path, call: Callable[[], Any]) -> Any:
    """What `call` returns; UserError with file and line of whatever it raises."""
    try:
        with _siblings(file):
            return call()
    except SyntaxError as err:
        raise UserError(f"{err.filename}, line {err.lineno}: {err.msg}") from err
    except Exception as err:
        frames = traceback.extract_tb(err.__traceback__)
        own = [frame for frame in frames if Path(frame.filename).resolve() == file.resolve()]
        frame = (own or frames)[-1]
        text = str(err) if isinstance(err, UserError) else " ".join(f"{type(err).__name__}: {err}".split())
        raise UserError(f"{frame.filename}, line {frame.lineno}: {text}") from err
