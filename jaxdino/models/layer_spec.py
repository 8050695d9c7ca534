"""The unit in which strategies see a model."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Layer:
    """One entry of a model's ordered list of layers: strategies and layer-wise decay are written against it.

    Attributes:
      kind: "stem", "block", "norm" or "head"; "aside" for what images alone never reach: no stage trains it, since
        without a gradient weight decay alone would move it.
      prefixes: the parameters whose path is or starts (at a dot) with one of these belong to the layer.
    """

    name: str
    kind: str
    prefixes: tuple[str, ...]

    def holds(self, path: str) -> bool:
        """Whether the parameter at `path` belongs to this layer."""
        return any(path == prefix or path.startswith(prefix + ".") for prefix in self.prefixes)
