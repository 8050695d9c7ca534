"""Positions against independent statements: torch's interpolate, and rotation by complex numbers."""

import math

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from jaxdino.models.positions import bicubic_matrix, resample_grid
from jaxdino.models.rope import rope_periods, rope_tables, rotate

SIZES = [(4, 4), (4, 7), (7, 4), (14, 5), (5, 14), (37, 16), (16, 37), (3, 1), (1, 3)]


def by_torch(n_in: int, n_out: int, **options) -> np.ndarray:
    """The matrix that `interpolate` applies along one axis, read off from unit vectors.

    The other axis has three pixels: with one, torch's antialiased kernel misreads the memory layout.
    """
    columns = torch.eye(n_in)[:, None, :, None].repeat(1, 2, 1, 3)
    out = torch.nn.functional.interpolate(columns, mode="bicubic", align_corners=False, **options)
    assert out.shape[2] == n_out
    return out[:, 0, :, 1].T.numpy()


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize(("n_in", "n_out"), SIZES)
def test_bicubic_for_a_size(n_in, n_out, antialias):
    ours = bicubic_matrix(n_in, n_out, n_in / n_out, antialias)
    assert np.abs(ours - by_torch(n_in, n_out, size=(n_out, 3), antialias=antialias)).max() < 2e-6
    assert np.abs(ours.sum(axis=1) - 1).max() < 1e-6


@pytest.mark.parametrize(("n_in", "n_out"), SIZES)
def test_bicubic_for_a_scale_factor(n_in, n_out):
    """DINO and DINOv2 make the factor from a size that is 0.1 too large, and torch then samples with it."""
    factor = (n_out + 0.1) / n_in
    ours = bicubic_matrix(n_in, n_out, 1 / factor, antialias=False)
    assert np.abs(ours - by_torch(n_in, n_out, scale_factor=(factor, 1.0))).max() < 3e-6


@pytest.mark.parametrize("antialias", [False, True])
def test_grid_in_two_dimensions(antialias):
    table = torch.randn(6, 6, 5, generator=torch.Generator().manual_seed(0))
    reference = torch.nn.functional.interpolate(
        table.permute(2, 0, 1)[None], size=(3, 9), mode="bicubic", antialias=antialias
    )[0].permute(1, 2, 0)
    ours = resample_grid(jnp.asarray(table.numpy()), (3, 9), offset=0.0, antialias=antialias)
    assert np.abs(ours - reference.numpy()).max() < 2e-6
    assert resample_grid(jnp.asarray(table.numpy()), (6, 6), offset=0.1, antialias=antialias).shape == (6, 6, 5)


def test_half_precision_tables_are_resampled_in_float32():
    table = jnp.ones((4, 4, 2), jnp.bfloat16) * 3
    assert resample_grid(table, (5, 6), offset=0.1, antialias=False).dtype == jnp.float32


def test_rope_is_a_rotation_by_the_patch_centre():
    """Entries i and i + d/2 are a complex number, turned by 2 pi (y or x) / period: first all y, then all x."""
    h, w, d = 3, 5, 16
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 3, 2 + h * w, d)).astype(np.float32)
    periods = rope_periods(d, 100.0)
    assert np.allclose(periods, [100.0 ** (4 * i / d) for i in range(d // 4)], rtol=1e-6)

    expected = x.astype(np.float64)
    for row in range(h):
        for column in range(w):
            y_at, x_at = (2 * row + 1) / h - 1, (2 * column + 1) / w - 1
            turns = np.concatenate([y_at / periods.astype(float), x_at / periods.astype(float)])
            token = 2 + row * w + column
            numbers = x[:, :, token, : d // 2] + 1j * x[:, :, token, d // 2 :]
            turned = numbers * np.exp(2j * math.pi * turns)
            expected[:, :, token] = np.concatenate([turned.real, turned.imag], axis=-1)

    ours = np.asarray(rotate(jnp.asarray(x), *rope_tables(h, w, jnp.asarray(periods), prefix=2)))
    assert np.abs(ours - expected).max() < 1e-5
    assert (ours[:, :, :2] == x[:, :, :2]).all()
