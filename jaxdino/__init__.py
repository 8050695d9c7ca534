"""jaxdino: public vision backbones in JAX, with exact two-way conversion of PyTorch weights, and fine-tuning.

    import jaxdino

    model = jaxdino.load("runs/mine")               # a workdir, a PyTorch file, a Hugging Face folder or hub name
    model.predict(["a.jpg", "b.jpg"], topk=3)       # [[("cat", 0.91), ...], ...], of a model with a head
    out = model(model.preprocess(["a.jpg"]))        # out.cls, out.patches, out.pooled, out.logits

load      load a model; see `help(jaxdino.load)`
Model     a loaded model: `preprocess`, `predict`, `intermediate_layers`, and calling it
History   the metrics of a run: tables and plots, also of several runs
UserError raised for a mistake of the user; the message says how to fix it

Commands: `jaxdino` lists them. Each is also a module: python -m jaxdino.main (training), jaxdino.predict,
jaxdino.segment, jaxdino.evaluate, and python -m convert.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxdino.api import Model, load
    from jaxdino.api.history import History
    from jaxdino.core.errors import AssumedWarning, UserError

__version__ = "0.1.0"
__all__ = ["load", "Model", "History", "UserError", "AssumedWarning"]

_HOMES = {
    "load": "jaxdino.api",
    "Model": "jaxdino.api",
    "History": "jaxdino.api.history",
    "UserError": "jaxdino.core.errors",
    "AssumedWarning": "jaxdino.core.errors",
}


def __getattr__(name: str) -> Any:  # import the names above, and with them jax, only when they are used
    import importlib
    import importlib.util

    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    message = f"module 'jaxdino' has no attribute {name!r}"
    if not name.startswith("_"):
        from jaxdino.core.rules import did_you_mean

        module = importlib.util.find_spec(f"jaxdino.{name}") is not None
        message += f"; import jaxdino.{name} first" if module else f"; {did_you_mean(name, __all__)}"
    raise AttributeError(message)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
