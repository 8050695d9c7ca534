"""Shard arrays over devices: a ("data", "fsdp", "tensor") mesh and a list of (path pattern -> PartitionSpec).

A batch is divided over `data` and `fsdp`, the parameters over `fsdp`, and the heads and hidden channels of
transformer blocks over `tensor` (see `TENSOR_RULES`).

Parameters, optimiser state and EMA are sharded by the same list: a leaf of any tree is named by the last parameter path
on its way from the root, so that `opt/.../mu/backbone.norm.scale` is sharded like `backbone.norm.scale`.
"""

import contextlib
import contextvars
import functools
import gc
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxdino.core.errors import UserError
from jaxdino.core.pattern import Pattern

AXES = ("data", "fsdp", "tensor")
BATCH_AXES = AXES[:2]
BATCH = P(BATCH_AXES)
SMALL = 2048  # elements; below this an all-gather costs more than the memory it saves
BLOCK = 1 << 21  # bytes of a large slice that are converted at a time
Rules = Sequence[tuple[str, Sequence[str | None]]]
TENSOR_RULES: Sequence[tuple[str, Sequence[Any]]] = (
    (r"(.*\.)?blocks\.\d+\.mlp\.(fc1|lin1)\.kernel", ("fsdp", "tensor")),
    (r"(.*\.)?blocks\.\d+\.mlp\.(fc1|lin1)\.bias", ("tensor",)),
    (r"(.*\.)?blocks\.\d+\.(attn\.proj|mlp\.fc2|mlp\.lin2|mlp\.w3)\.kernel", ("tensor", "fsdp")),
    (r"(.*\.)?blocks\.\d+\.(attn\.qkv|mlp\.w12)\.kernel", (("tensor", "fsdp"), None)),
)
"""How a mesh with a tensor axis shards transformer blocks: the first layer of a pair by columns, the second by rows,
so that one sum over `tensor` for each pair is all that activations need. Fused kernels (q, k, v; w1, w2) are stored
by rows, since a share of their columns would not hold whole heads; `Linear.parts` divides their columns when used.

Source: Shoeybi et al. 2019, Megatron-LM (arXiv:1909.08053), section 3.
"""


def make_mesh(data: int = -1, fsdp: int = 1, devices: Sequence[Any] | None = None, tensor: int = 1) -> Mesh:
    """Build the device mesh; an axis of -1 gets the devices that the others leave.

    Axes are `Auto`: the compiler chooses the sharding of values between inputs and outputs.

    Raises:
      UserError: if data x fsdp x tensor is not the number of devices, or `tensor` does not fit one process.
    """
    devices = jax.devices() if devices is None else list(devices)
    sizes = {"data": int(data), "fsdp": int(fsdp), "tensor": int(tensor)}
    count = len(devices)
    given = " x ".join(f"mesh.{axis}={size}" for axis, size in sizes.items())
    wrong = UserError(
        f"{given} does not fit {count} device{'s' if count > 1 else ''}: "
        f"give factors of {count}, or -1 for the one that gets the remaining devices"
    )
    free = [axis for axis, size in sizes.items() if size == -1]
    fixed = math.prod(size for size in sizes.values() if size != -1)
    if len(free) > 1 or fixed < 1 or count % fixed:
        raise wrong
    if free:
        sizes[free[0]] = count // fixed
    if math.prod(sizes.values()) != count:
        raise wrong
    shape = tuple(sizes[axis] for axis in AXES)
    mesh = jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)
    check_tensor(mesh.devices)
    return mesh


def check_tensor(devices: np.ndarray) -> None:
    """Raise UserError if devices that share images, along the last axis of a mesh, belong to several processes."""
    for group in devices.reshape(-1, devices.shape[-1]):
        if len(processes := {device.process_index for device in group}) > 1:
            raise UserError(
                f"mesh.tensor={len(group)} would divide heads over {len(processes)} processes, each of which reads "
                "other images: give a number that divides the devices of one process"
            )


def spec_for(path: str, shape: Sequence[int], mesh: Mesh, rules: Rules = ()) -> P:
    """Return the PartitionSpec of one array: that of the first rule that matches its path, or the default.

    The default is `TENSOR_RULES` on a mesh with a tensor axis; it shards all other matrices and convolution kernels
    over `fsdp` on their largest divisible axis, and replicates small arrays.

    Raises:
      UserError: if a rule names an axis that the mesh does not have, or an axis does not divide the shape.
    """
    for pattern, axes in rules:
        if Pattern(pattern, "the mesh rule").matches(path):
            return _checked(path, shape, mesh, pattern, tuple(axes))
    if mesh.shape["tensor"] > 1:
        for pattern, axes in TENSOR_RULES:
            if len(axes) == len(shape) and re.fullmatch(pattern, path):
                return _of_tensor(path, shape, mesh, axes)
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


def _of_tensor(path: str, shape: Sequence[int], mesh: Mesh, axes: Sequence[Any]) -> P:
    """Return the spec of a leaf of `TENSOR_RULES`, sharded over `fsdp` only where that divides its length."""
    found = []
    for length, names in zip(shape, axes, strict=True):
        names = (names,) if isinstance(names, str) else names or ()
        if "tensor" in names and length % mesh.shape["tensor"]:
            raise UserError(
                f"mesh.tensor={mesh.shape['tensor']} does not divide {length} in {path} {tuple(shape)}: give a number "
                "that divides the heads and the widths of the model"
            )
        fits = length % math.prod(mesh.shape[name] for name in names) == 0
        kept = tuple(name for name in names if name == "tensor" or (fits and mesh.shape[name] > 1))
        found.append(kept if len(kept) > 1 else next(iter(kept), None))
    return P(*found)


def leaf_path(key_path: tuple) -> str:
    """Return the last string key on the way to a leaf: its parameter path in any tree."""
    named = [entry.key for entry in key_path if isinstance(getattr(entry, "key", None), str)]
    return named[-1] if named else ""


def shardings(tree: Any, mesh: Mesh, rules: Rules = ()) -> Any:
    """Return a tree of NamedSharding for any tree of arrays or shapes: parameters, optimiser state, EMA."""

    def one(key_path: tuple, leaf: Any) -> NamedSharding:
        return place_of(leaf_path(key_path), leaf.shape, mesh, rules)

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


def batch_shards(mesh: Mesh) -> int:
    """Return the number of parts that a batch is divided into: the devices along `tensor` share one."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Return the sharding of a batch: its first axis over `data` and `fsdp`."""
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


def place_of(path: str, shape: Sequence[int], mesh: Mesh, rules: Rules = ()) -> NamedSharding:
    """Return the sharding of one parameter."""
    return NamedSharding(mesh, spec_for(path, shape, mesh, rules) if len(shape) else P())


def place(path: str, array: np.ndarray, mesh: Mesh, rules: Rules = (), dtype: Any = None) -> jax.Array:
    """Put one parameter on the mesh, each device its own slice, and wait: then the caller may free the array.

    The host holds at most 1.2 times the larger of the array and its conversion: slices are converted one at a time, in
    blocks where a slice is too large for that. The array must not be changed afterwards: on a CPU the result may use
    its memory.

    Args:
      dtype: to convert each slice to.
    """
    dtype = array.dtype if dtype is None else np.dtype(dtype)
    spare = 1.2 * max(array.nbytes, array.size * dtype.itemsize) - array.nbytes
    where, placed, slices = place_of(path, array.shape, mesh, rules), {}, {}
    for device, index in where.addressable_devices_indices_map(array.shape).items():
        slices.setdefault(str(index), (index, []))[1].append(device)
    for index, (first, *others) in slices.values():
        placed[first] = _converted(array[index], dtype, first, spare)
        placed |= {device: jax.device_put(placed[first], device) for device in others}
        jax.block_until_ready([placed[device] for device in (first, *others)])
        gc.collect(0)  # JAX lets go of arrays that it has copied at the next collection
    return jax.make_array_from_single_device_arrays(array.shape, where, list(placed.values()))


def _converted(array: np.ndarray, dtype: np.dtype, device: Any, spare: float) -> jax.Array:
    """Put an array on a device in a dtype; in blocks of its first axis if a converted copy is above `spare` bytes."""
    size = array.size * dtype.itemsize
    if array.dtype == dtype or size <= max(spare, BLOCK):
        return jax.device_put(np.asarray(array, dtype), device)
    rows, whole = max(1, len(array) * BLOCK // size), jnp.zeros(array.shape, dtype, device=device)
    for at in range(0, len(array), rows):
        whole = _written(whole, np.asarray(array[at : at + rows], dtype), at).block_until_ready()
    return whole


@functools.partial(jax.jit, donate_argnums=0)
def _written(whole: jax.Array, rows: jax.Array, at: int) -> jax.Array:
    return jax.lax.dynamic_update_slice_in_dim(whole, rows, at, axis=0)


def put_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Join each process's part of a batch into global arrays sharded over all devices."""
    where = batch_sharding(mesh)
    return {name: jax.make_array_from_process_local_data(where, array) for name, array in batch.items()}


def gather(tree: Any) -> Any:
    """Gather global arrays to every host as NumPy arrays, of which the global ones keep no copy."""
    if jax.process_count() == 1:
        return jax.tree.map(np.asarray, jax.device_get(jax.tree.map(_again, tree)))
    from jax.experimental import multihost_utils

    return jax.tree.map(np.asarray, multihost_utils.process_allgather(tree, tiled=True))


def _again(array: Any) -> Any:
    """Return the same array as a new object: JAX keeps what it has copied to the host as long as the object lives."""
    if not isinstance(array, jax.Array):
        return array
    shards = [shard.data for shard in array.addressable_shards]
    return jax.make_array_from_single_device_arrays(array.shape, array.sharding, shards)


_current: contextvars.ContextVar[Mesh | None] = contextvars.ContextVar("mesh", default=None)


@contextlib.contextmanager
def on(mesh: Mesh) -> Iterator[None]:
    """Let `constrain` and `tensor_shards` know the mesh, while a program for it is traced."""
    token = _current.set(mesh)
    try:
        yield
    finally:
        _current.reset(token)


def devices() -> int:
    """Return the number of devices of the mesh that a program is traced for; 1 without one."""
    mesh = _current.get()
    return 1 if mesh is None else mesh.size


def tensor_shards() -> int:
    """Return the size of the tensor axis of the mesh that a program is traced for; 1 without one."""
    mesh = _current.get()
    return 1 if mesh is None else mesh.shape["tensor"]


def constrain(x: jax.Array, *axes: str | tuple[str, ...] | None) -> jax.Array:
    """Have the compiler shard a value over these axes of the mesh; on one device, or outside `on`, do nothing."""
    mesh = _current.get()
    if mesh is None or mesh.size == 1:
        return x
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, P(*axes)))
