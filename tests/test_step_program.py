"""What one more block adds to the program of a training step, before the compiler sees it.

The counts do not depend on the machine. A conversion or a transposed copy of a large array takes time that FLOPs do not
show: on a CPU they were a fifth of a step in bfloat16.
"""

import collections
import dataclasses
import re

import jax
import jax.numpy as jnp
import pytest

from benchmarks.ours import stage_of, train_step
from jaxdino.core import sharding
from tests.test_flops import SPEC, batch

MOST = {
    jnp.float32: {"dot_general": 18, "transpose": 6, "convert": 14},
    jnp.bfloat16: {"dot_general": 18, "transpose": 11, "convert": 84},
}
"""Six products forward, twelve backward. In bfloat16, some conversions stand in branches for one kind of device."""


def operations(depth: int, dtype, **build) -> collections.Counter:
    """Count the operations of the whole step of a network of that many blocks."""
    spec = dataclasses.replace(SPEC, config=dataclasses.replace(SPEC.config, depth=depth))
    step, state = train_step(spec, stage_of("all"), sharding.make_mesh(devices=jax.devices()[:1]), dtype=dtype, **build)
    text = step.lower(state["moving"], state["frozen"], batch()).as_text()
    return collections.Counter(re.findall(r"\bstablehlo\.(\w+)", text))


def added(dtype, **build) -> collections.Counter:
    """Count the operations that a third block adds."""
    return operations(3, dtype, **build) - operations(2, dtype, **build)


@pytest.mark.parametrize("dtype", MOST, ids=lambda dtype: dtype.__name__)
def test_a_block_adds_few_conversions_and_transposes(dtype):
    found = added(dtype)
    assert found["dot_general"] == MOST[dtype]["dot_general"]
    assert {name: found[name] for name in MOST[dtype] if found[name] > MOST[dtype][name]} == {}


def test_the_counts_see_what_is_done_twice():
    assert added(jnp.float32, remat="blocks")["dot_general"] > MOST[jnp.float32]["dot_general"]
