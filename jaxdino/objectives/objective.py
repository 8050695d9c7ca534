"""The interface of an objective: what the training step calls."""

from typing import Any, Protocol

import jax

Arrays = dict[str, Any]


class Objective(Protocol):
    """A loss over one slice of a batch, with targets that are computed once for the whole batch."""

    @property
    def measures(self) -> tuple[str, ...]:
        """Names of the measures that `loss` returns beside the loss."""
        ...

    def targets(self, moving: Arrays, frozen: Arrays, parts: Arrays) -> tuple[Arrays, Arrays, Arrays]:
        """Compute what the loss is compared with, without gradient.

        Args:
          moving, frozen: the train state (see `jaxdino.train.state`).
          parts: the batch in slices, each array (slices, rows, ...).

        Returns:
          the slices with their targets, changed entries of `moving`, and signals to log.
        """
        ...

    def loss(self, model: Any, part: Arrays, key: jax.Array | None) -> tuple[jax.Array, Arrays]:
        """Return the weighted mean loss of a slice, and its measures.

        Args:
          model: the network, bound to its parameters.
          part: one slice, with its targets.
          key: for dropout and stochastic depth; None disables them.
        """
        ...
