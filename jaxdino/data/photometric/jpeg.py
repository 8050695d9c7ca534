"""JPEG artefacts on the device: what a file of some quality keeps of an image, on planes (n, C, H, W) in 0..1.

Source: ITU-T T.81, annex A (the DCT) and annex K (the tables); libjpeg's choices in between, which Pillow uses: scaling
of the tables by the quality, colours at half the size (4:2:0), and their interpolation ("fancy upsampling").
"""

import jax
import jax.numpy as jnp
import numpy as np

from jaxdino.data.photometric.colours import RGB
from jaxdino.data.photometric.draws import integers, sometimes
from jaxdino.data.recipe import View

BLOCK = 8
LUMINANCE = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ],
    np.float32,
)
CHROMINANCE = np.full((BLOCK, BLOCK), 99, np.float32)
CHROMINANCE[:4, :4] = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]
TO_YCC = np.array([[0.299, 0.587, 0.114], [-0.168735892, -0.331264108, 0.5], [0.5, -0.418687589, -0.081312411]])
TO_RGB = np.array([[1, 0, 1.402], [1, -0.344136286, -0.714136286], [1, 1.772, 0]])
EXACT = jax.lax.Precision.HIGHEST


def _dct_matrix() -> np.ndarray:
    """Return the orthonormal DCT of 8 values, float32 (frequencies, places)."""
    frequency, place = np.mgrid[:BLOCK, :BLOCK]
    matrix = np.cos((2 * place + 1) * frequency * np.pi / (2 * BLOCK)) / 2
    matrix[0] /= np.sqrt(2)
    return matrix.astype(np.float32)


DCT = _dct_matrix()


def random_jpeg(keys: jax.Array, planes: jax.Array, view: View) -> jax.Array:
    """Give each image the artefacts of a JPEG of random quality, with the view's probability."""
    if not view.jpeg_prob:
        return planes
    quality = integers(keys, "jpeg_quality", *view.jpeg_quality)
    return sometimes(keys, "jpeg", view.jpeg_prob, jpeg(planes, quality), planes)


def jpeg(planes: jax.Array, quality: jax.Array) -> jax.Array:
    """Return the images as read back from JPEG files of `quality` (n,), 1 to 100.

    Images with other than three bands are treated as grey images, band by band.
    """
    levels = jnp.clip(jnp.round(planes * 255), 0, 255)
    if planes.shape[1] != RGB:
        return coded(levels, table(LUMINANCE, quality)) / 255
    luma, *chroma = (jnp.round(band) for band in _mixed(levels, TO_YCC, (0, 128, 128)))
    luma = coded(luma[:, None], table(LUMINANCE, quality))
    height, width = planes.shape[2:]
    halves = coded(halved(jnp.stack(chroma, axis=1)), table(CHROMINANCE, quality))
    full = doubled(halves)[:, :, :height, :width]
    found = _mixed(jnp.concatenate([luma, full - 128], axis=1), TO_RGB, (0, 0, 0))
    return jnp.clip(jnp.round(jnp.stack(found, axis=1)), 0, 255) / 255


def _mixed(planes: jax.Array, matrix: np.ndarray, offsets: tuple[int, int, int]) -> list[jax.Array]:
    """Return weighted sums of three planes, each (n, H, W)."""
    rows = zip(matrix.tolist(), offsets, strict=True)
    return [sum(weight * planes[:, i] for i, weight in enumerate(row) if weight) + offset for row, offset in rows]


def table(base: np.ndarray, quality: jax.Array) -> jax.Array:
    """Return the quantisation table of each quality (n,): float32 (n, 1, 1, 8, 1, 8)."""
    quality = quality.astype(jnp.int32).reshape(-1, 1, 1)
    scale = jnp.where(quality < 50, 5000 // jnp.maximum(quality, 1), 200 - 2 * quality)
    steps = jnp.clip((base.astype(np.int32)[None] * scale + 50) // 100, 1, 255).astype(jnp.float32)
    return steps.reshape(-1, 1, 1, BLOCK, 1, BLOCK)


def coded(levels: jax.Array, steps: jax.Array) -> jax.Array:
    """Quantise the DCT of each block of 8 x 8 levels in steps (see `table`), and return whole levels 0..255."""
    count, bands, height, width = levels.shape
    padded = jnp.pad(levels, ((0, 0), (0, 0), (0, -height % BLOCK), (0, -width % BLOCK)), mode="edge") - 128
    rows, columns = padded.shape[2] // BLOCK, padded.shape[3] // BLOCK
    blocks = padded.reshape(count, bands, rows, BLOCK, columns, BLOCK)
    found = jnp.einsum("ux,ncaxby,vy->ncaubv", DCT, blocks, DCT, precision=EXACT)
    size = jnp.round(BLOCK * jnp.abs(found))  # libjpeg's whole numbers; halves are rounded away from zero
    kept = jnp.sign(found) * jnp.floor((size + BLOCK // 2 * steps) / (BLOCK * steps)) * steps
    found = jnp.einsum("ux,ncaubv,vy->ncaxby", DCT, kept, DCT, precision=EXACT)
    whole = jnp.clip(jnp.round(found + 128), 0, 255)
    return whole.reshape(padded.shape)[:, :, :height, :width]


def halved(planes: jax.Array) -> jax.Array:
    """Average boxes of 2 x 2 levels; halves are rounded down and up in turn."""
    height, width = planes.shape[2:]
    planes = jnp.pad(planes, ((0, 0), (0, 0), (0, height % 2), (0, width % 2)), mode="edge")
    rows = planes[:, :, 0::2] + planes[:, :, 1::2]
    sums = rows[..., 0::2] + rows[..., 1::2]
    odd = jnp.arange(sums.shape[3]) % 2
    return jnp.floor((sums + 1 + odd.reshape(1, 1, 1, -1)) / 4)


def doubled(planes: jax.Array) -> jax.Array:
    """Interpolate to twice the size: 3 parts of the nearest level and 1 of the next, in each direction."""
    above, below = _neighbours(planes, 2)
    rows = jnp.stack([3 * planes + above, 3 * planes + below], axis=3)
    rows = rows.reshape(*planes.shape[:2], -1, planes.shape[3])
    left, right = _neighbours(rows, 3)
    columns = jnp.stack([3 * rows + left + 8, 3 * rows + right + 7], axis=4)
    return jnp.floor(columns.reshape(*rows.shape[:3], -1) / 16)


def _neighbours(planes: jax.Array, axis: int) -> tuple[jax.Array, jax.Array]:
    """Return the values before and after each one along an axis; at the edges, the values themselves."""
    last = planes.shape[axis] - 1
    first, final = (jax.lax.slice_in_dim(planes, i, i + 1, axis=axis) for i in (0, last))
    before = jnp.concatenate([first, jax.lax.slice_in_dim(planes, 0, last, axis=axis)], axis=axis)
    after = jnp.concatenate([jax.lax.slice_in_dim(planes, 1, last + 1, axis=axis), final], axis=axis)
    return before, after
