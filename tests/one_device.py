"""Runs on one device of several: a program for four takes a quarter longer to compile."""

import functools
from collections.abc import Callable

import jax

from jaxdino.core import sharding


def make_mesh() -> Callable:
    """Return `jaxdino.core.sharding.make_mesh` with the first device as its default."""
    on_all = sharding.make_mesh

    @functools.wraps(on_all)
    def on_one(data=-1, fsdp=1, devices=None, tensor=1):
        return on_all(data, fsdp, jax.devices()[:1] if devices is None else devices, tensor)

    return on_one


def use() -> None:
    """Replace it for the rest of this process."""
    sharding.make_mesh = make_mesh()
