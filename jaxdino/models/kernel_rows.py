"""The pixels under each row of a convolution's kernel, side by side: a convolution is a few products with them."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp


def rows_under(x_BxHxWxC: jax.Array, side: int, step: int) -> list[jax.Array]:
    """Return for each of `side` rows of a kernel the pixels (B, h, w, side * C) under it; zeros around the map."""
    reach, (high, wide) = side // 2, x_BxHxWxC.shape[1:3]
    padded = jnp.pad(x_BxHxWxC, ((0, 0), (reach, reach), (reach, reach), (0, 0)))
    columns = jnp.concatenate([padded[:, :, j : j + wide : step] for j in range(side)], axis=-1)
    return [columns[:, i : i + high : step] for i in range(side)]


def shifted(x_BxHxWxC: jax.Array, shifts: Sequence[tuple[int, int]]) -> list[jax.Array]:
    """Return one array (B, H, W, shifts * C): for each shift (y, x) the pixels so far below and to the right; or 0."""
    reach, (high, wide) = max(abs(one) for shift in shifts for one in shift), x_BxHxWxC.shape[1:3]
    padded = jnp.pad(x_BxHxWxC, ((0, 0), (reach, reach), (reach, reach), (0, 0)))
    near = [padded[:, reach + y : reach + y + high, reach + x : reach + x + wide] for y, x in shifts]
    return [jnp.concatenate(near, axis=-1)]
