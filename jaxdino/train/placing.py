"""Where a run keeps its initial weights: each leaf is put there as soon as it is read or drawn."""

import dataclasses
from collections.abc import Callable, Collection, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from jaxdino.core import sharding
from jaxdino.core.bars import by_bytes
from jaxdino.core.params import Digest, split
from jaxdino.models import initial


class Place(Protocol):
    """Puts leaves where a run keeps them."""

    def put(self, path: str, leaf: Any) -> Any:
        """Return a leaf in float32; integer counters are unchanged."""
        ...

    def drawn(self, array: np.ndarray) -> jax.Array:
        """Put a random leaf that has no path yet."""
        ...


class OnHost:
    """Keep the leaves as numpy arrays."""

    def put(self, path: str, leaf: Any) -> np.ndarray:
        """See `Place`."""
        array = np.asarray(leaf)
        return array if np.issubdtype(array.dtype, np.integer) else np.asarray(array, np.float32)

    def drawn(self, array: np.ndarray) -> jax.Array:
        """See `Place`."""
        return jnp.asarray(array)


@dataclasses.dataclass(frozen=True)
class OnMesh:
    """Put each leaf on the mesh, every device its own slice.

    Attributes:
      named: path of a leaf -> its path in the model of the run.
    """

    mesh: Mesh
    rules: sharding.Rules = ()
    named: Callable[[str], str] = lambda path: path

    def put(self, path: str, leaf: Any) -> jax.Array:
        """See `Place`."""
        kept = leaf.dtype if np.issubdtype(leaf.dtype, np.integer) else np.dtype(np.float32)
        on_mesh = isinstance(leaf, jax.Array) and getattr(leaf.sharding, "mesh", None) == self.mesh
        if on_mesh and leaf.dtype == kept:  # drawn; others cannot be put on devices of several processes like this
            return jax.device_put(leaf, sharding.place_of(self.named(path), leaf.shape, self.mesh, self.rules))
        return sharding.place(self.named(path), np.asarray(leaf), self.mesh, self.rules, kept)

    def drawn(self, array: np.ndarray) -> jax.Array:
        """Divide a leaf as one that no rule names; `put` divides it again if a rule does."""
        return sharding.place("", array, self.mesh)


def on_mesh(config: Any, mesh: Mesh) -> OnMesh:
    """Return the mesh as a place, divided by the config's rules."""
    return OnMesh(mesh, tuple(config.mesh.get("rules", ())))


def read(leaves: Mapping[str, Any], place: Place, kept: Collection[str]) -> tuple[dict[str, Any], str]:
    """Read leaves with one of them on the host at a time; return those in `kept`, and the digest of all."""
    flat, digest = {}, Digest()
    for path, leaf in by_bytes(leaves, "loading"):
        array = np.asarray(leaf)
        digest.add(path, array)
        if path in kept:
            flat[path] = place.put(path, array)
        del array  # before the next one is read
    return {path: flat[path] for path in kept}, digest.value()


def drawn(build: Callable[[nnx.Rngs], nnx.Module], seed: int, place: Place) -> dict[str, Any]:
    """Return the random leaves of a model."""
    with initial.placed(place.drawn):
        _, flat = split(build(nnx.Rngs(seed)))
    return {path: place.put(path, flat.pop(path)) for path in list(flat)}
