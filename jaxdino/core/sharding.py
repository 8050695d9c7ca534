"""Shard arrays over devices: a ("data", "fsdp") mesh and a list of (path pattern -> PartitionSpec).

Parameters, optimiser state and EMA are sharded by the same list: a leaf of any tree is named by the
last parameter path on its way from the root, so that `opt/.../mu/backbone.norm.scale` is sharded like
`backbone.norm.scale`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxdino.core.errors import UserError
from jaxdino.core.pattern import Pattern

AXES = ("data", "fsdp")
BATCH = P(AXES)
SMALL = 2048  # elements; below this an all-gather costs more than the memory it saves
Rules = Sequence[tuple[str, Sequence[str | None]]]


def make_mesh(data: int = -1, fsdp: int = 1, devices: Sequence[Any] | None = None) -> Mesh:
    """Build the device mesh; an axis of -1 gets the devices that the other leaves.

    Axes are `Auto`: the compiler chooses the sharding of values between inputs and outputs.

    Raises:
      UserError: if data x fsdp is not the number of devices.
    """
    devices = jax.devices() if devices is None else list(devices)
    sizes = {"data": int(data), "fsdp": int(fsdp)}
    count = len(devices)
    wrong = UserError(
        f"mesh.data={data} x mesh.fsdp={fsdp} does not fit {count} device{'s' if count > 1 else ''}: "
        f"give two factors of {count}, or -1 for the one that gets the remaining devices"
    )
    free = [axis for axis, size in sizes.items() if size == -1]
    fixed = int(np.prod([size for size in sizes.values() if size != -1]))
    if len(free) > 1 or fixed < 1 or count % fixed:
        raise wrong
    if free:
        sizes[free[0]] = count // fixed
    if sizes["data"] * sizes["fsdp"] != count:
        raise wrong
    shape = tuple(sizes[axis] for axis in AXES)
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)


def spec_for(path: str, shape: Sequence[int], mesh: Mesh, rules: Rules = ()) -> P:
    """Return the PartitionSpec of one array: that of the first rule that matches its path, or the default.

    The default shards matrices and convolution kernels over `fsdp` on their largest divisible axis and
    replicates small arrays.

    Raises:
      UserError: if a rule names an axis that the mesh does not have, or an axis does not divide the shape.
    """
    for pattern, axes in rules:
        if Pattern(pattern, "the mesh rule").matches(path):
            return _checked(path, shape, mesh, pattern, tuple(axes))
    size = mesh.shape["fsdp"]
    divisible = [axis for axis, length in enumerate(shape) if length % size == 0]
    if size == 1 or len(shape) < 2 or np.prod(shape) < SMALL or not divisible:
        return P()
    largest = max(divisible, key=lambda axis: shape[axis])
    return P(*("fsdp" if axis == largest else None for axis in range(len(shape))))


def _checked(path: str, shape: Sequence[int], mesh: Mesh, pattern: str, axes: tuple) -> P:
    if len(axes) > len(shape):
        raise UserError(f"mesh rule {pattern!r} gives {len(axes)} axes to {path} of shape {tuple(shape)}")
    for length, axis in zip(shape, axes, strict=False):
        if axis is not None and axis not in mesh.shape:
            raise UserError(f"mesh rule {pattern!r}: the mesh has no axis {axis!r}, only {', '.join(AXES)}")
        if axis is not None and length % mesh.shape[axis]:
            raise UserError(
                f"mesh rule {pattern!r}: {axis}={mesh.shape[axis]} does not divide {length} in {path} {tuple(shape)}"
            )
    return P(*axes)


def leaf_path(key_path: tuple) -> str:
    """Return the last string key on the way to a leaf: its parameter path in any tree."""
    named = [entry.key for entry in key_path if isinstance(getattr(entry, "key", None), str)]
    return named[-1] if named else ""


def shardings(tree: Any, mesh: Mesh, rules: Rules = ()) -> Any:
    """Return a tree of NamedSharding for any tree of arrays or shapes: parameters, optimiser state, EMA."""

    def one(key_path: tuple, leaf: Any) -> NamedSharding:
        spec = spec_for(leaf_path(key_path), leaf.shape, mesh, rules) if leaf.ndim else P()
        return NamedSharding(mesh, spec)

    return jax.tree_util.tree_map_with_path(one, tree)


def check_rules(rules: Rules, paths: Sequence[str]) -> None:
    """Raise UserError for a sharding rule that matches no parameter."""
    for pattern, _ in rules:
        compiled = Pattern(pattern, "the mesh rule")
        if not any(compiled.matches(path) for path in paths):
            raise UserError(f"the mesh rule {pattern!r} matches no parameter (paths look like {paths[0]!r})")


def replicated(mesh: Mesh) -> NamedSharding:
    """Return the sharding of arrays that every device holds in full."""
    return NamedSharding(mesh, P())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Return the sharding of a batch: its first axis over all devices."""
    return NamedSharding(mesh, BATCH)


def put(tree: Any, where: Any) -> Any:
    """Put host arrays on the mesh; every process holds each array in full.

    `where` is one sharding or a tree of them. Always copies: the result never aliases the input, so that
    donating it is safe.
    """
    where = jax.tree.map(lambda _: where, tree) if isinstance(where, jax.sharding.Sharding) else where

    def one(array: Any, sharding: NamedSharding) -> jax.Array:
        host = np.array(array)
        return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index].copy())

    return jax.tree.map(one, tree, where)


def put_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Join each process's part of a batch into global arrays sharded over all devices."""
    where = batch_sharding(mesh)
    return {name: jax.make_array_from_process_local_data(where, array) for name, array in batch.items()}


def gather(tree: Any) -> Any:
    """Gather global arrays to every host as NumPy arrays."""
    if jax.process_count() == 1:
        return jax.tree.map(np.asarray, jax.device_get(tree))
    from jax.experimental import multihost_utils

    return jax.tree.map(np.asarray, multihost_utils.process_allgather(tree, tiled=True))
