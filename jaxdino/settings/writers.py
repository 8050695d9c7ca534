"""The names of the writers of metrics, checked before any long work: unknown names, missing packages."""

import importlib.util
from collections.abc import Sequence
from typing import Any

from jaxdino.core.errors import UserError
from jaxdino.core.options import check_choice

PACKAGES = {"tensorboard": "tensorboardX", "wandb": "wandb", "mlflow": "mlflow"}
"""Name of a writer -> the package that it imports; an optional one is installed by the extra of the writer's name."""
NONE = "none"
MODES = ("offline", "online")


def chosen(given: str | Sequence[str] | None) -> tuple[str, ...]:
    """Return the names of the writers in config.writers: "tensorboard,wandb", or several texts; () for "none".

    Raises:
      UserError: for an unknown name, with the nearest ones.
    """
    listed = given.split(",") if isinstance(given, str) else list(given or ())
    names = list(dict.fromkeys(str(name).strip() for name in listed if str(name).strip()))
    for name in names:
        check_choice("writers", name, (*PACKAGES, NONE))
    if NONE in names and len(names) > 1:
        raise UserError(f"writers={','.join(names)}: {NONE!r} stands alone: leave it out, or give nothing else")
    return () if names == [NONE] else tuple(names)


def check(config: Any) -> None:
    """Raise UserError for an unknown writer, one whose package is not installed, or a mode that cannot be."""
    names, tracking = chosen(config.get("writers")), config.get("tracking") or {}
    for name in names:
        if importlib.util.find_spec(PACKAGES[name]) is None:
            raise UserError(
                f"writers={','.join(names)}: the writer {name!r} needs the package {PACKAGES[name]!r}, which is not "
                f"installed: pip install 'jaxdino[{name}]', or leave {name!r} out"
            )
    mode, uri = tracking.get("mode"), tracking.get("uri")
    if mode is not None:
        check_choice("tracking.mode", mode, MODES)
    if "mlflow" in names and mode == "offline" and is_remote(uri):
        raise UserError(
            f"tracking.mode=offline sends nothing, but tracking.uri={uri} is a server: leave one of them out"
        )


def is_remote(uri: str | None) -> bool:
    """Return whether an address of MLflow's is a server, not a folder or a file of this machine."""
    scheme, divided, _ = (uri or "").partition("://")
    return scheme in ("databricks", "databricks-uc", "uc") or (bool(divided) and scheme not in ("file", "sqlite"))
