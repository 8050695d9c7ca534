"""Low-rank adapters: add scale A B to a frozen kernel W, on the linear layers that a `LoRA` names.

An adapter is an attribute `lora` of its `layers.Linear`, so its leaves have their own paths and all other paths stay
the same: `...attn.qkv.lora.a`, `.b`, or `...attn.qkv.lora.q.a` if only a part of a fused projection has one.

Sources: Hu et al. 2021, LoRA (arXiv:2106.09685); Kalajdzievski 2023, rsLoRA (arXiv:2312.03732); Liu et al. 2024, DoRA
(arXiv:2402.09353). A is initialised as in huggingface/peft.
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
"""Pattern of the paths of all adapter leaves, for the rules of a stage."""


class Factors(nnx.Module):
    """a (in, rank), uniform within 1 / sqrt(in); b (rank, out), zero; DoRA's magnitude (out,), initially |W|."""

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
    """Return the length of each column (in, out) -> (out,), float32, never zero."""
    return jnp.maximum(jnp.linalg.norm(kernel.astype(jnp.float32), axis=0), 1e-30)


@dataclasses.dataclass(frozen=True, eq=False)
class _Key:
    """A random key as a static part of a module, not an array: it is never split off, saved or differentiated."""

    key: jax.Array


class Adapter(nnx.Module):
    """Adapter of one kernel: `a` and `b` for the whole kernel, or `Factors` for some of its `PARTS`, by their names.

    The factors of the parts are computed as one pair of matmuls: their A are concatenated, and their B fill the
    columns of their parts, with zeros elsewhere. They share one dropout mask.
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
        """Return (columns of the kernel, their factors)."""
        if not self.parts:
            return [(slice(0, n_out), self)]
        return [(columns(part, n_out), getattr(self, part)) for part in self.parts]

    def __call__(self, x: jax.Array, kernel: jax.Array, bias: jax.Array | None) -> jax.Array:
        """Compute x (..., in) W' + bias in x's dtype; dropout applies to the input of A only."""
        if not self.spec.dora:
            return linear(x, kernel, bias) + self._low(x, kernel.shape[1])
        (y,) = self.change(x, kernel, [linear(x, kernel, None)])
        return y if bias is None else add_bias(y, bias)

    def change(self, x: jax.Array, kernel: jax.Array, parts: list[jax.Array]) -> list[jax.Array]:
        """Change x W (..., out), given in equal parts of its last axis, to x W'."""
        lows = jnp.split(self._low(x, kernel.shape[1]), len(parts), axis=-1)
        parts = [y + low for y, low in zip(parts, lows, strict=True)]
        if not self.spec.dora:
            return parts
        stretches = jnp.split(self._stretch(kernel), len(parts))
        return [y * over_last_axis(one.astype(y.dtype), y) for y, one in zip(parts, stretches, strict=True)]

    def _low(self, x: jax.Array, n_out: int) -> jax.Array:
        """Compute scale x A B (..., out)."""
        factors = self.factors(n_out)
        down = jnp.concatenate([f.a[...] for _, f in factors], axis=1)
        up = jnp.concatenate([_widened(f.b[...], where, n_out) for where, f in factors]) * self.spec.scale
        return linear(linear(self._dropped(x), down, None), up, None)

    def _dropped(self, x: jax.Array) -> jax.Array:
        if self.key is None or not self.spec.dropout:
            return x
        kept = 1 - self.spec.dropout
        return jnp.where(jax.random.bernoulli(self.key.key, kept, x.shape), x * (1 / kept), 0).astype(x.dtype)

    def _stretch(self, kernel: jax.Array) -> jax.Array:
        """Return DoRA's magnitude / |W + scale A B| per column, 1 without an adapter; no gradient through the norm."""
        stretch = jnp.ones(kernel.shape[1])
        for where, f in self.factors(kernel.shape[1]):
            lengths = jax.lax.stop_gradient(_lengths(self._sum(kernel[:, where], f)))
            stretch = stretch.at[where].set(f.magnitude[...].astype(jnp.float32) / lengths)
        return stretch

    def _sum(self, kernel: jax.Array, f: "Factors | Adapter") -> jax.Array:
        a, b = f.a[...].astype(jnp.float32), f.b[...].astype(jnp.float32)
        return kernel.astype(jnp.float32) + self.spec.scale * jnp.matmul(a, b, precision="highest")

    def merged(self, kernel: jax.Array) -> jax.Array:
        """Return the equivalent kernel, computed in float32, in `kernel`'s dtype."""
        kernel = jnp.asarray(kernel)
        whole = kernel
        for where, f in self.factors(kernel.shape[1]):
            part = self._sum(kernel[:, where], f)
            if self.spec.dora:
                part = part * over_last_axis(f.magnitude[...] / _lengths(part), part)
            whole = whole.at[:, where].set(part.astype(kernel.dtype))
        return whole


def _widened(b: jax.Array, where: slice, n_out: int) -> jax.Array:
    """Pad (r, part) to (r, out), zero outside `where`."""
    return jnp.pad(b, ((0, 0), (where.start, n_out - where.stop)))


def add(model: nnx.Module, cfg: Any, spec: LoRA, rngs: nnx.Rngs) -> nnx.Module:
    """Add an adapter to each linear layer that `spec` names, in place; the model's outputs do not change.

    Can be called again for other layers, with another rank. Raises UserError as `places` does, and if a layer
    already has an adapter.
    """
    layers: dict[str, Any] = dict(modules(model))
    chosen = places(model, cfg, spec)
    if taken := [path for path in chosen if layers[path].lora is not None]:
        raise UserError(f"{taken[0]} has a LoRA adapter already: merge that one first, or name other targets")
    for path, parts in chosen.items():
        layers[path].lora = Adapter(layers[path].kernel[...], spec, parts, rngs)
    return model


def adapt(skeleton: Skeleton, flat: Flat, cfg: Any, spec: LoRA, rngs: nnx.Rngs) -> tuple[Skeleton, Flat]:
    """Add adapters to a skeleton and a flat dict, as `add`; return both with the initial adapter leaves."""
    return split(add(bind(skeleton, flat), cfg, spec, rngs))


def adapted(skeleton: Skeleton, cfg: Any, spec: LoRA) -> Skeleton:
    """Add adapters to a skeleton only, without allocating an array."""
    return abstract(lambda: add(_zeros(skeleton), cfg, spec, SHAPES_ONLY))


def _zeros(skeleton: Skeleton) -> nnx.Module:
    return bind(skeleton, {path: jnp.zeros(entry.shape, entry.dtype) for path, entry in skeleton.entries.items()})


def leaves(paths: Iterable[str]) -> list[str]:
    """Return the paths that belong to adapters."""
    return [path for path in paths if re.fullmatch(LEAVES, path)]


def adapters(module: nnx.Module) -> Iterator[tuple[str, Adapter]]:
    """Iterate over the adapters, with the paths of their linear layers."""
    for path, part in modules(module):
        if isinstance(part, Linear) and part.lora is not None:
            yield path, part.lora


def set_dropout(module: nnx.Module, key: jax.Array | None) -> None:
    """Turn on adapter dropout, each adapter with its own key derived from `key`; None turns it off.

    Args:
      module: bound inside the jitted function; the key may be traced. Forward passes between two calls use the
        same dropout masks.
    """
    for number, (_, adapter) in enumerate(adapters(module)):
        adapter.key = None if key is None else _Key(jax.random.fold_in(key, number))


def merged(skeleton: Skeleton, flat: Flat, within: str = "") -> Flat:
    """Return the parameters of the equivalent model without adapters: W + scale A B, rescaled for DoRA.

    A kernel keeps its dtype; kernels and parts of fused kernels without an adapter keep their bits. Works under jit.

    Args:
      within: merge only adapters in the module at this path ("backbone.dino"); the others stay.
    """
    inside = f"{within}." if within else ""
    found = {f"{path}.kernel": a for path, a in adapters(bind(skeleton, flat)) if path.startswith(inside)}
    aside = {path for path in leaves(flat) if path.startswith(inside)}
    return {path: found[path].merged(a) if path in found else a for path, a in flat.items() if path not in aside}


def bare(skeleton: Skeleton) -> Skeleton:
    """Return the skeleton without adapters, which fits the result of `merged`."""

    def build() -> nnx.Module:
        model = _zeros(skeleton)
        for _, module in modules(model):
            if isinstance(module, Linear) and module.lora is not None:
                del module.lora
        return model

    return abstract(build)
