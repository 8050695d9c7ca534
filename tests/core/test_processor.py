"""Flags of XLA: chosen for processors that they suit, where jaxlib takes them and nobody has chosen."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from jaxdino.core import processor
from jaxdino.core.processor import WIDE, sums_on_all_cores, use_long_vectors


@pytest.fixture
def bare(monkeypatch):
    """A processor with long vectors, a jaxlib that was tried, and no flags."""
    monkeypatch.setenv("XLA_FLAGS", "")
    monkeypatch.setattr(processor, "instructions", lambda: b"flags : fpu avx512_bf16 clflush")
    monkeypatch.setattr("importlib.metadata.version", lambda name: "0.10.2")


def test_flags_of_the_user_are_kept(bare, monkeypatch):
    assert use_long_vectors() and os.environ["XLA_FLAGS"] == f"{WIDE}=512"
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=folder")
    assert use_long_vectors() and os.environ["XLA_FLAGS"] == f"--xla_dump_to=folder {WIDE}=512"


def test_it_leaves_what_it_does_not_know(bare, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", f"{WIDE}=128")
    assert not use_long_vectors() and os.environ["XLA_FLAGS"] == f"{WIDE}=128"
    monkeypatch.setenv("XLA_FLAGS", "")
    for version in ("0.9.1", "0.13.0", "1.0"):
        monkeypatch.setattr("importlib.metadata.version", lambda name, version=version: version)
        assert not use_long_vectors(), version
    monkeypatch.setattr("importlib.metadata.version", lambda name: "0.12.0.1")
    monkeypatch.setattr(processor, "instructions", lambda: b"flags : fpu avx512f")
    assert not use_long_vectors() and os.environ["XLA_FLAGS"] == ""


def test_jaxlib_reads_the_flag_after_jax_was_imported():
    """It takes this one, and ends a program whose flag it does not know."""
    code = "import os, sys, jax; os.environ['XLA_FLAGS'] = sys.argv[1]; print(jax.numpy.arange(3).sum())"
    env = os.environ | {"XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}
    for flag, ends in ((WIDE, False), ("--xla_no_such_flag", True)):
        run = subprocess.run([sys.executable, "-c", code, f"{flag}=512"], env=env, capture_output=True, text=True)
        assert (run.returncode != 0) == ends, run.stderr
        assert ends or run.stdout == "3\n"


def test_sums_of_products_are_compiled_for_all_cores():
    """A library takes them otherwise, on one core; if this jaxlib no longer does, the option can go."""

    def softmax(x, kernel):
        return jax.nn.softmax(jnp.matmul(x, kernel, precision="highest"), axis=1)

    def text(**how):
        return jax.jit(softmax, **how).lower(jnp.ones((128, 96)), jnp.ones((96, 640))).compile().as_text()

    assert "ynn_fusion" in text() and "ynn_fusion" not in text(compiler_options=sums_on_all_cores("cpu"))


def test_options_are_for_a_cpu_and_a_jaxlib_that_was_tried(bare, monkeypatch):
    assert sums_on_all_cores("cpu") and not sums_on_all_cores("gpu")
    monkeypatch.setattr("importlib.metadata.version", lambda name: "0.13.0")
    assert not sums_on_all_cores("cpu")
