"""Specification of a model's layers for training strategies."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Layer:
    """One entry of a model's ordered list of layers, used by strategies and layer-wise decay.

    Attributes:
      kind: "stem", "block", "norm" or "head"; "aside" for parameters that images alone do not use: no stage trains
        them, since without a gradient only weight decay would change them.
      prefixes: parameters whose path equals one of these, or begins with it and a dot, belong to the layer.
    """

    name: str
    kind: str
    prefixes: tuple[str, ...]

    def holds(self, path: str) -> bool:
        """Return whether the parameter at `path` belongs to this layer."""
        return any(path == prefix or path.startswith(prefix + ".") for prefix in self.prefixes)
