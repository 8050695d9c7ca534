"""Prepare the process for computing on a CPU, before jax compiles its first program."""

import importlib.metadata
import os

from jaxdino.core.host_memory import keep_freed
from jaxdino.core.program_cache import instructions

WIDE = "--xla_cpu_prefer_vector_width"
TRIED = ((0, 10), (0, 12))
"""First and last version of jaxlib, major and minor, that is known to take `WIDE` and `FUSED`: XLA ends a program for
an unknown flag."""
FUSED = "xla_cpu_experimental_ynn_fusion_type"


def prepare() -> None:
    """Keep freed memory for the next step, and compute with long vectors; each where it pays and nothing was chosen."""
    keep_freed()
    use_long_vectors()


def use_long_vectors() -> bool:
    """Let XLA compute with vectors of 512 bits on processors that have AVX512-BF16. Return True if that was set.

    Its default of 256 bits suits older processors, which lower their clock for longer ones. Training steps take
    some hundredths less time (docs/performance.md). Changes nothing if `XLA_FLAGS` has the flag.
    """
    given = os.environ.get("XLA_FLAGS", "")
    if WIDE in given or not _tried() or b"avx512_bf16" not in instructions().split():
        return False
    os.environ["XLA_FLAGS"] = f"{given} {WIDE}=512".strip()
    return True


def sums_on_all_cores(backend: str) -> dict[str, str]:
    """Return compiler options for `jax.jit` of a product whose result is summed or compared, as a softmax does it.

    On a CPU, XLA gives such a product and the sums to a library, which takes one core for them. With these options
    it compiles the two by itself, for all cores. They pay where the product is small and its result wide; models are
    faster without.
    """
    return {FUSED: ""} if _tried() and backend == "cpu" else {}


def _tried() -> bool:
    """Return whether this version of jaxlib is known to take the flags."""
    version = tuple(map(int, importlib.metadata.version("jaxlib").split(".")[:2]))
    return TRIED[0] <= version <= TRIED[1]
