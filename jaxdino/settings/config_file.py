"""Load a config file, a Python file with a function `get_config`; report an error in it as one line with its place."""

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
    """Load the function that makes the config of a file, for a model's name or for None.

    Args:
      model: the name after the colon; the function must then accept a model.

    Raises:
      UserError: if the file is not Python, raises, or has no `get_config`; the returned function also raises it.
    """
    spec = importlib.util.spec_from_file_location(f"config_{file.stem}", file)
    loader = spec and spec.loader
    if spec is None or loader is None:
        raise UserError(f"{file} is not a Python file: a config is a Python file with a function get_config")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses in the file resolve their annotations there
    _guarded(file, lambda: loader.exec_module(module))
    get_config = getattr(module, "get_config", None)
    if not callable(get_config):
        raise UserError(f"{file} has no function get_config(model=None) that returns a config: see docs/strategies.md")
    takes = inspect.signature(get_config).parameters
    if model is not None and not takes:
        raise UserError(f"{file}: its get_config takes no model: omit ':{model}', or write get_config(model=None)")

    def made(name: str | None) -> ConfigDict:
        config = _guarded(file, lambda: get_config(*([name] if name is not None and takes else [])))
        if not isinstance(config, ConfigDict):
            raise UserError(f"{file}: get_config returned {type(config).__name__}, not a ConfigDict")
        return config

    return made


@contextmanager
def _siblings(file: Path) -> Iterator[None]:
    """Let a config's `from configs import NAME` find the file next to it in a folder `configs`, else the installed one.

    Otherwise `import configs` may find another project's package, or an installed copy of these files.
    """
    folder = next((up for up in file.resolve().parents if up.name == "configs"), file.resolve().parent)
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
    """Return the result of `call`; convert any error to a UserError with file and line."""
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
