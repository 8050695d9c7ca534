"""What every objective's settings have: how a stage overrides them, and what the task reads of a config, as data.

Without JAX, since the command line reads it.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Self

from jaxdino.core import options

Values = Mapping[str, Any]
OTHERS = ("name", "method", "label_smoothing")
"""Fields of config.objective that are not settings of the loss of one task."""
HEAD = r"model\.(num_classes|drop_head|pool)"
"""Settings of a classification head of images."""


@dataclasses.dataclass(frozen=True)
class ObjectiveSettings:
    """Settings of an objective, in config.objective; each stage may override them. Without own fields: none.

    Attributes:
      reads: patterns of those settings of a config that not every task reads, and this one does.
      idle: (pattern of a field, whether a stage with these values of all fields reads it, the reason if not).
      of_run: fields that hold for the whole run: no stage may override them.
    """

    reads: ClassVar[tuple[str, ...]] = (HEAD,)
    idle: ClassVar[tuple[tuple[str, Callable[[Values], bool], str], ...]] = ()
    of_run: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def start(cls, objective: Mapping[str, Any]) -> Self:
        """Return the settings before those given in config.objective are applied."""
        return cls()

    def changed(self, given: Mapping[str, Any], where: str) -> Self:
        """Return the settings with `given` applied. Raises UserError for an unknown field or a wrong value."""
        return options.read(type(self), given, f"{where}: the objective", base=self)


def given_in(objective: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of the loss that config.objective sets."""
    return {name: value for name, value in objective.items() if name not in OTHERS and value is not None}
