"""3 x 3 convolutions with few multiplications: exact on whole numbers, rounding errors, and where they are used."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from jaxdino.models import winograd
from jaxdino.models.conv import conv
from jaxdino.models.xla_conv import xla_conv

IN, OUT = 36, 32


def whole(key: int, shape: tuple[int, ...]) -> jax.Array:
    return jax.random.randint(jax.random.key(key), shape, -3, 4).astype(jnp.float32)


@pytest.mark.parametrize("pixels", [winograd.PIXELS, 1])
@pytest.mark.parametrize("sides", [(8, 8), (7, 10), (9, 5)])
def test_values_and_gradients_are_exact_on_whole_numbers(monkeypatch, sides, pixels):
    monkeypatch.setattr(winograd, "PIXELS", pixels)
    x, kernel = whole(0, (4, *sides, IN)), whole(1, (3, 3, IN, OUT))
    assert winograd.pays(x, kernel, 1)
    y, pull = jax.vjp(conv, x, kernel)
    wanted, pull_wanted = jax.vjp(lambda x, kernel: xla_conv(x, kernel, 1), x, kernel)
    g = whole(2, y.shape)
    for ours, theirs in zip((y, *pull(g)), (wanted, *pull_wanted(g)), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_kernel_in_half_precision_is_rounded_no_further():
    x, kernel = whole(0, (4, 8, 8, IN)), jax.random.normal(jax.random.key(1), (3, 3, IN, OUT)).astype(jnp.bfloat16)
    y, pull = jax.vjp(conv, x, kernel)
    wanted, pull_wanted = jax.vjp(conv, x, kernel.astype(jnp.float32))
    (dx, dk), (dx_wanted, _) = pull(y), pull_wanted(y)
    assert dk.dtype == jnp.bfloat16
    np.testing.assert_array_equal(y, wanted)
    np.testing.assert_array_equal(dx, dx_wanted)


@pytest.mark.parametrize("channels", [64, 256])
def test_rounding_errors_are_those_of_torch(channels):
    rng = np.random.default_rng(channels)
    x = np.maximum(rng.standard_normal((4, 14, 14, channels), np.float32), 0)
    kernel = rng.standard_normal((3, 3, channels, channels), np.float32) / np.float32(3 * np.sqrt(channels))

    def torchs(dtype: torch.dtype) -> np.ndarray:
        given = (
            torch.from_numpy(x).to(dtype).permute(0, 3, 1, 2),
            torch.from_numpy(kernel).to(dtype).permute(3, 2, 0, 1),
        )
        return torch.nn.functional.conv2d(*given, padding=1).permute(0, 2, 3, 1).numpy()

    exact = torchs(torch.float64)
    ours, theirs = (np.sqrt(np.mean((found - exact) ** 2)) for found in (conv(x, kernel), torchs(torch.float32)))
    assert 0 < ours < 2 * theirs


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="other devices run XLA's convolution")
@pytest.mark.parametrize(
    ("shape", "n_out", "step", "dtype", "convolved"),
    [
        ((2, 8, 8, IN), OUT, 1, jnp.float32, False),
        ((1, 8, 8, IN), OUT, 1, jnp.float32, True),  # few pixels
        ((1, 8, 4096, IN), OUT, 1, jnp.float32, True),  # many pixels of one image
        ((2, 8, 8, 16), OUT, 1, jnp.float32, True),  # few channels
        ((2, 8, 8, IN), 4, 1, jnp.float32, True),
        ((2, 8, 8, IN), OUT, 2, jnp.float32, True),
        ((2, 8, 8, IN), OUT, 1, jnp.bfloat16, False),  # half precision has a form of its own
    ],
)
def test_where_it_is_used(shape, n_out, step, dtype, convolved):
    x, kernel = jnp.ones(shape, dtype), jnp.ones((3, 3, shape[-1], n_out), dtype)
    compiled = jax.jit(lambda x, kernel: conv(x, kernel, step)).lower(x, kernel).compile().as_text()
    assert (" convolution(" in compiled) == convolved


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="other devices run XLA's convolution")
def test_the_gradient_of_the_kernel_is_ours():
    x, kernel = jnp.ones((2, 8, 8, IN)), jnp.ones((3, 3, IN, OUT))
    slope = jax.jit(jax.grad(lambda kernel: jnp.square(conv(x, kernel)).sum()))
    assert " convolution(" not in slope.lower(kernel).compile().as_text()


def test_a_program_for_any_batch_size_has_the_convolution_of_xla():
    (batch,), kernel = jax.export.symbolic_shape("batch"), whole(1, (3, 3, IN, OUT))
    exported = jax.export.export(jax.jit(lambda x: conv(x, kernel)), platforms=["cpu"])(
        jax.ShapeDtypeStruct((batch, 8, 8, IN), jnp.float32)
    )
    x = whole(0, (3, 8, 8, IN))
    np.testing.assert_array_equal(exported.call(x), conv(x, kernel))
