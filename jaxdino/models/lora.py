"""Low-rank adapters: beside a frozen kernel W stands scale A B, on the linear layers that a `LoRA` names.

An adapter is an attribute `lora` of its `layers.Linear`, so its leaves have paths of their own and every other path
stays: `...attn.qkv.lora.a`, `.b`, or `...attn.qkv.lora.q.a` where only a part of a fused projection has one.

Sources: Hu et al. 2021, LoRA (arXiv:2106.09685); Kalajdzievski 2023, rsLoRA (arXiv:2312.03732); Liu et al. 2024, DoRA
(arXiv:2402.09353). The start of A is huggingface/peft's.
"""

import dataclasses
import math
import re
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxdino.core.errors import UserError
from jaxdino.core.params import Flat, Skeleton, abstract, bind, split
from jaxdino.models.initial import SHAPES_ONLY, uniform
from jaxdino.models.layers import Linear, add_bias, linear, over_last_axis
from jaxdino.models.lora_targets import PARTS, LoRA, columns, modules, places

__all__ = ["LEAVES", "PARTS", "Adapter", "LoRA", "adapt", "adapted", "adapters", "add", "bare", "leaves", "merged"]
__all__ += ["places", "set_dropout"]

LEAVES = r"(.*\.)?lora\..*"
"""The paths of all adapters' leaves, as a rule of a stage would have them."""


class Factors(nnx.Module):
    """a (in, rank) uniform within 1 / sqrt(in), b (rank, out) zero, and DoRA's magnitude (out,), |W|."""

    a: nnx.Param
    b: nnx.Param
    magnitude: nnx.Param

    def __init__(self, kernel: jax.Array, spec: LoRA, rngs: nnx.Rngs):
        _fill(self, kernel, spec, rngs)


def _fill(module: "Factors | Adapter", kernel: jax.Array, spec: LoRA, rngs: nnx.Rngs) -> None:
    n_in, n_out = kernel.shape
    module.a = nnx.Param(uniform(rngs, (n_in, spec.rank), 1 / math.sqrt(n_in)))
    module.b = nnx.Param(jnp.zeros((spec.rank, n_out)))
    if spec.dora:
        module.magnitude = nnx.Param(_lengths(kernel))


def _lengths(kernel: jax.Array) -> jax.Array:
    """The length of each column (in, out) -> (out,), float32, never zero."""
    return jnp.maximum(jnp.linalg.norm(kernel.astype(jnp.float32), axis=0), 1e-30)


@dataclasses.dataclass(frozen=True, eq=False)
class _Key:
    """A random key as part of what a module is, not one of its arrays: never split off, saved or differentiated."""

    key: jax.Array


class Adapter(nnx.Module):
    """What stands beside one kernel: `a` and `b` for the whole of it, or `Factors` named after some of its `PARTS`.

    The parts' factors work as one matmul pair: their A side by side, and their B in blocks of the columns they
    belong to, zero elsewhere. One dropout mask serves them all.
    """

    a: nnx.Param
    b: nnx.Param
    magnitude: nnx.Param
    key: _Key | None

    def __init__(self, kernel: jax.Array, spec: LoRA, parts: tuple[str, ...], rngs: nnx.Rngs):
        self.parts, self.spec = parts, spec
        if not parts:
            _fill(self, kernel, spec, rngs)
        for part in parts:
            setattr(self, part, Factors(kernel[:, columns(part, kernel.shape[1])], spec, rngs))
        self.key = None

    def factors(self, n_out: int) -> "list[tuple[slice, Factors | Adapter]]":
        """(columns of the kernel, what adapts them)."""
        if not self.parts:
            return [(slice(0, n_out), self)]
        return [(columns(part, n_out), getattr(self, part)) for part in self.parts]

    def __call__(self, x: jax.Array, kernel: jax.Array, bias: jax.Array | None) -> jax.Array:
        """x (..., in) W' + bias in x's dtype, where dropout, if any, is before A only."""
        n_out = kernel.shape[1]
        factors = self.factors(n_out)
        down = jnp.concatenate([f.a[...] for _, f in factors], axis=1)
        up = jnp.concatenate([_widened(f.b[...], where, n_out) for where, f in factors]) * self.spec.scale
        low = linear(linear(self._dropped(x), down, None), up, None)
        if not self.spec.dora:
            return linear(x, kernel, bias) + low
        y = linear(x, kernel, None) + low
        y = y * over_last_axis(self._stretch(kernel).astype(y.dtype), y)
        return y if bias is None else add_bias(y, bias)

    def _dropped(self, x: jax.Array) -> jax.Array:
        if self.key is None or not self.spec.dropout:
            return x
        kept = 1 - self.spec.dropout
        return jnp.where(jax.random.bernoulli(self.key.key, kept, x.shape), x * (1 / kept), 0).astype(x.dtype)

    def _stretch(self, kernel: jax.Array) -> jax.Array:
        """DoRA's magnitude / |W + scale A B| of each column, 1 where there is no adapter; no gradient through | |."""
        stretch = jnp.ones(kernel.shape[1])
        for where, f in self.factors(kernel.shape[1]):
            lengths = jax.lax.stop_gradient(_lengths(self._sum(kernel[:, where], f)))
            stretch = stretch.at[where].set(f.magnitude[...].astype(jnp.float32) / lengths)
        return stretch

    def _sum(self, kernel: jax.Array, f: "Factors | Adapter") -> jax.Array:
        a, b = f.a[...].astype(jnp.float32), f.b[...].astype(jnp.float32)
        return kernel.astype(jnp.float32) + self.spec.scale * jnp.matmul(a, b, precision="highest")

    def merged(self, kernel: jax.Array) -> jax.Array:
        """The one kernel that does the same, computed in float32, in `kernel`'s dtype."""
        kernel = jnp.asarray(kernel)
        whole = kernel
        for where, f in self.factors(kernel.shape[1]):
            part = self._sum(kernel[:, where], f)
            if self.spec.dora:
                part = part * over_last_axis(f.magnitude[...] / _lengths(part), part)
            whole = whole.at[:, where].set(part.astype(kernel.dtype))
        return whole


def _widened(b: jax.Array, where: slice, n_out: int) -> jax.Array:
    """(r, part) -> (r, out), zero outside `where`."""
    return jnp.pad(b, ((0, 0), (where.start, n_out - where.stop)))


def add(model: nnx.Module, cfg: Any, spec: LoRA, rngs: nnx.Rngs) -> nnx.Module:
    """Puts an adapter on every linear layer that `spec` names; the model, changed, computes what it did before.

    May be called again for other layers, with another rank. Raises UserError as `places` does, and for a layer that
    has an adapter already.
    """
    layers: dict[str, Any] = dict(modules(model))
    chosen = places(model, cfg, spec)
    if taken := [path for path in chosen if layers[path].lora is not None]:
        raise UserError(f"{taken[0]} has a LoRA adapter already: merge that one first, or name other targets")
    for path, parts in chosen.items():
        layers[path].lora = Adapter(layers[path].kernel[...], spec, parts, rngs)
    return model


def adapt(skeleton: Skeleton, flat: Flat, cfg: Any, spec: LoRA, rngs: nnx.Rngs) -> tuple[Skeleton, Flat]:
    """The same on a flat dict: the skeleton with adapters, and `flat` with their leaves at the start."""
    return split(add(bind(skeleton, flat), cfg, spec, rngs))


def adapted(skeleton: Skeleton, cfg: Any, spec: LoRA) -> Skeleton:
    """The skeleton with adapters alone, without allocating an array."""
    return abstract(lambda: add(_zeros(skeleton), cfg, spec, SHAPES_ONLY))


def _zeros(skeleton: Skeleton) -> nnx.Module:
    return bind(skeleton, {path: jnp.zeros(entry.shape, entry.dtype) for path, entry in skeleton.entries.items()})


def leaves(paths: Iterable[str]) -> list[str]:
    """Those of the paths that are an adapter's."""
    return [path for path in paths if re.fullmatch(LEAVES, path)]


def adapters(module: nnx.Module) -> Iterator[tuple[str, Adapter]]:
    """Every adapter with the path of its linear layer."""
    for path, part in modules(module):
        if isinstance(part, Linear) and part.lora is not None:
            yield path, part.lora


def set_dropout(module: nnx.Module, key: jax.Array | None) -> None:
    """Adapters drop inputs from now on, each with a key of its own made from `key`; with None they do not.

    Args:
      module: bound inside the function that is jitted; the key may be traced. Two forward passes between two calls
        draw alike.
    """
    for number, (_, adapter) in enumerate(adapters(module)):
        adapter.key = None if key is None else _Key(jax.random.fold_in(key, number))


def merged(skeleton: Skeleton, flat: Flat, within: str = "") -> Flat:
    """The parameters of the model without adapters that does the same: W + scale A B, DoRA's lengths included.

    A kernel keeps its dtype; what no adapter stands on, in a fused projection too, keeps its bits. Works under jit.

    Args:
      within: only those in the module at this path ("backbone.dino"); the others' leaves stay.
    """
    inside = f"{within}." if within else ""
    found = {f"{path}.kernel": a for path, a in adapters(bind(skeleton, flat)) if path.startswith(inside)}
    aside = {path for path in leaves(flat) if path.startswith(inside)}
    return {path: found[path].merged(a) if path in found else a for path, a in flat.items() if path not in aside}


def bare(skeleton: Skeleton) -> Skeleton:
    """The skeleton without adapters, which fits what `merged` gives."""

    def build() -> nnx.Module:
        model = _zeros(skeleton)
        for _, module in modules(model):
            if isinstance(module, Linear) and module.lora is not None:
                del module.lora
        return model

    return abstract(build)
