"""One pass of a compiled step over the batches of a split: the loop behind every validation and extraction."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxdino.core import sharding

Batches = Iterable[Mapping[str, np.ndarray]]
Arrays = Mapping[str, Any]


def outputs(
    step: Callable[[Arrays], Arrays], batches: Batches, names: Sequence[str], mesh: Mesh | None = None
) -> Iterator[dict[str, np.ndarray]]:
    """Yield the outputs of a step for each batch, on the host.

    While the host fetches the outputs of one batch, the device works on the next.

    Args:
      step: compiled, {name: array} -> {name: array}.
      batches: dicts of arrays; in a run of several processes, this one's part.
      names: the arrays that the step reads; a batch need not have all of them.
      mesh: shards each batch over its devices; every process then gets the outputs of all.
    """
    waiting = None
    for batch in batches:
        given = {name: batch[name] for name in names if name in batch}
        begun = step(given if mesh is None else sharding.put_batch(given, mesh))
        if waiting is not None:
            yield _fetched(waiting, mesh)
        waiting = begun
    if waiting is not None:
        yield _fetched(waiting, mesh)


def _fetched(arrays: Arrays, mesh: Mesh | None) -> dict[str, np.ndarray]:
    if mesh is not None:
        return dict(sharding.gather(dict(arrays)))
    return {name: np.asarray(value) for name, value in jax.device_get(dict(arrays)).items()}
