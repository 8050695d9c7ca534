"""Random parameters: the numbers of jax.random, and few programs for them."""

import math

import jax
import numpy as np
import pytest
from flax import nnx

from jaxdino.models import initial, registry

initializers = nnx.initializers
SHAPES = [(), (3,), (7, 5), (2**14,), (3, 3, 61, 67)]
DRAWS = {
    "normal": (initial.normal, 0.3, initializers.normal(0.3)),
    "truncated_normal": (initial.truncated_normal, 0.02, initializers.truncated_normal(0.02)),
    "uniform": (initial.uniform, 0.7, lambda key, shape: jax.random.uniform(key, shape, minval=-0.7, maxval=0.7)),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", DRAWS)
def test_the_numbers_are_those_of_jax_random_bit_for_bit(name, shape):
    ours, size, theirs = DRAWS[name]
    drawn = ours(nnx.Rngs(3), shape, size)
    assert drawn.dtype == "float32" and drawn.shape == shape
    assert np.array_equal(drawn, theirs(nnx.Rngs(3).params(), shape))
    traced = jax.eval_shape(lambda: ours(nnx.Rngs(3), shape, size))
    assert (traced.shape, traced.dtype) == (shape, "float32")


def test_shapes_of_about_one_size_share_a_program(caplog):
    def build(width: int) -> list[str]:
        caplog.clear()
        with jax.log_compiles():
            initial.truncated_normal(nnx.Rngs(0), (width, 3 * width))
        return [line for line in caplog.messages if "truncated_normal" in line and line.startswith("Compiling")]

    jax.clear_caches()
    assert build(37) and not build(41)
    assert build(200)  # longer than the shortest draw


def test_a_network_starts_with_the_spread_of_its_publication():
    """ViT: 0.02, cut off at two of it; ResNet: He et al.'s fan-out (torchvision/models/resnet.py)."""
    vit = registry.get("dinov3_vits16").config.build(rngs=nnx.Rngs(0), drop_path=0.0)
    kernel = np.asarray(vit.blocks[0].mlp.fc1.kernel[...])
    assert np.abs(kernel).max() <= 0.04 and kernel.std() == pytest.approx(0.88 * 0.02, rel=0.01)
    resnet = registry.get("resnet18").config.build(rngs=nnx.Rngs(0), drop_path=0.0)
    kernel = np.asarray(resnet.layer4[1].conv2.kernel[...])
    assert kernel.std() == pytest.approx(math.sqrt(2 / (9 * 512)), rel=0.01)
