"""jaxdino: public vision backbones in JAX, with exact two-way PyTorch weights, and the ways to adapt them.

`model = jaxdino.load(SRC)`; `out = model(images)`; see `jaxdino.api.Model`.
"""

from typing import Any

__version__ = "0.1.0"
__all__ = ["load", "Model", "UserError", "AssumedWarning"]

_HOMES = {
    "load": "jaxdino.api",
    "Model": "jaxdino.api",
    "UserError": "jaxdino.core.errors",
    "AssumedWarning": "jaxdino.core.errors",
}


def __getattr__(name: str) -> Any:  # the names above import jax only when they are used
    if name not in _HOMES:
        raise AttributeError(f"module 'jaxdino' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
