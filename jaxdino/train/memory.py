"""Estimate the memory of a training step from the compiled program's own analysis."""

import dataclasses
import math
import re
from typing import Any

import jax

from jaxdino.core.errors import UserError
from jaxdino.core.host_memory import resident
from jaxdino.train.state import State

UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}
SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(k|M|G|Ki|Mi|Gi)?B?\s*")


@dataclasses.dataclass(frozen=True)
class StepMemory:
    """Bytes on each device while a stage trains.

    Attributes:
      weights: all leaves of the model. gradients: of the trained leaves. optimizer: the moments.
      copies: the best weights so far, averages, and what the task keeps (a teacher).
      batch: the images and labels of a step. activations: everything else that the step needs for a while.
      libraries: on a CPU, what is measured beside all this and the compiler does not count: scratch memory that the
        threads of XLA's libraries keep, and batches in flight.
    """

    weights: int
    gradients: int
    optimizer: int
    copies: int
    batch: int
    activations: int
    libraries: int = 0

    @property
    def held(self) -> int:
        """What stays in memory between steps, with the batch of the next one."""
        return self.weights + self.optimizer + self.copies + self.batch

    @property
    def total(self) -> int:
        """The largest sum at one time."""
        return sum(dataclasses.astuple(self))

    def with_libraries(self, grown: int | None) -> "StepMemory":
        """Return the memory with that of the libraries.

        Args:
          grown: bytes that steps took beside what is held, as measured; None if that is not known.
        """
        return self if grown is None else dataclasses.replace(self, libraries=max(0, self.held + grown - self.total))


def measure(compiled: Any, current: State, batch: Any) -> StepMemory | None:
    """Return the memory of a compiled training step; None if the backend does not analyse its programs.

    Gradients are counted among the program's temporary memory, as far as it holds that much.

    Args:
      compiled: the step, compiled for `current` and `batch`, arrays or their shapes with shardings.
    """
    try:
        found = compiled.memory_analysis()
    except NotImplementedError:
        return None
    if found is None:
        return None
    moving = current["moving"]
    held = {"weights": [moving["trainable"], moving["buffers"], current["frozen"]], "optimizer": moving["opt"]}
    parts = {name: on_device(tree) for name, tree in held.items()}
    named = ("trainable", "buffers", "opt")
    parts["copies"] = on_device([current["best"], {k: v for k, v in moving.items() if k not in named}])
    parts["batch"] = on_device(batch)
    more = found.temp_size_in_bytes + max(found.output_size_in_bytes - found.alias_size_in_bytes, 0)
    gradients = min(on_device(moving["trainable"]), more)
    return StepMemory(gradients=gradients, activations=more - gradients, **parts)


def in_use() -> dict[str, float]:
    """Return the memory of this process, in GiB, by what it is: {} where neither the device nor the system tells.

    "device_memory_gib": the peak of a device of this process since it began, the largest of them;
    "process_memory_gib": on a CPU, what the process holds now.
    """
    peaks = [(device.memory_stats() or {}).get("peak_bytes_in_use", 0) for device in jax.local_devices()]
    if peak := max(peaks):
        return {"device_memory_gib": round(peak / 2**30, 3)}
    found = resident()
    return {} if found is None else {"process_memory_gib": round(found / 2**30, 3)}


def on_device(tree: Any) -> int:
    """Return the bytes that arrays, or shapes with shardings, take on one device."""
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def parse_size(text: str, flag: str = "--memory") -> int:
    """Return the bytes of "16GiB", "80GB" or "24G". Raises UserError, which names the flag, for other text."""
    found = SIZE.fullmatch(text)
    if not found or not float(found[1]):
        raise UserError(f"{flag}={text}: give a size such as 16GiB or 80GB")
    return int(float(found[1]) * UNITS[found[2] or ""])


def size_words(count: float) -> str:
    """Format bytes: "3.2 GiB", "410 MiB"."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:,.0f} MiB"
