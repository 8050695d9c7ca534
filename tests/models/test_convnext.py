"""ConvNeXt: its layers cover it, depthwise gradients by either way, stochastic depth, remat, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxdino.core.errors import UserError
from jaxdino.core.params import bind, split
from jaxdino.models import depthwise
from jaxdino.models.convnext import ConvNeXtConfig
from jaxdino.models.published.convnext import SPECS
from jaxdino.models.spec import ModelSpec

TINY = ModelSpec("tiny", "convnext", ConvNeXtConfig((1, 2), (8, 12)), last_layers=2)
IMAGES = jax.random.normal(jax.random.key(0), (2, 24, 16, 3))


def test_parameters_of_the_published_sizes():
    """Without a head, in millions."""
    counts = [round(spec.skeleton().num_params / 1e6, 1) for spec in SPECS]
    assert counts == [27.8, 49.5, 87.6, 196.2]


@pytest.mark.parametrize("spec", [TINY, SPECS[0]], ids=lambda spec: spec.name)
def test_every_parameter_lies_in_one_layer(spec):
    for path in spec.skeleton(3).entries:
        assert sum(layer.holds(path) for layer in spec.layers) == 1, path


def test_a_stages_first_block_takes_its_downsampling_with_it():
    names = [layer.name for layer in TINY.layers]
    assert names == ["stem", "stages.0.0", "stages.1.0", "stages.1.1", "norm", "head"]
    assert TINY.layers[2].holds("backbone.downsample_layers.1.1.kernel")


@pytest.mark.parametrize("channels", [depthwise.CHANNELS, 3])
@pytest.mark.parametrize(("dtype", "devices"), [(jnp.float32, 1), (jnp.float32, 2), (jnp.bfloat16, 1)])
def test_shifted_products_are_the_grouped_convolution(monkeypatch, dtype, devices, channels):
    """With all six channels at once, and with three at a time."""
    monkeypatch.setattr(depthwise.sharding, "devices", lambda: devices)
    if channels < 6:
        monkeypatch.setattr(depthwise, "WEIGHTS", 0)
        monkeypatch.setattr(depthwise, "CHANNELS", channels)
    x = jax.random.normal(jax.random.key(1), (2, 9, 5, 6), dtype)
    kernel = jax.random.normal(jax.random.key(2), (7, 7, 1, 6))
    g = jax.random.normal(jax.random.key(3), x.shape, dtype)
    bias = jax.random.normal(jax.random.key(4), (6,))
    values, back = jax.vjp(depthwise.depthwise_conv, x, kernel, bias)
    expected, expected_back = jax.vjp(depthwise._grouped, x, kernel, bias)
    tolerance = dict(rtol=1e-5, atol=1e-5) if dtype == jnp.float32 else dict(rtol=0.05, atol=0.5)
    for ours, theirs in zip((values, *back(g)), (expected, *expected_back(g)), strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_allclose(ours.astype(jnp.float32), theirs.astype(jnp.float32), **tolerance)
    grouped = depthwise._grouped_kernel_gradient(x, kernel, g).astype(jnp.float32)
    np.testing.assert_allclose(back(g)[1], grouped, **tolerance)


def test_remat_changes_nothing():
    _, flat = split(TINY.build(3))

    def gradient(remat):
        skeleton = TINY.skeleton(3, remat=remat, drop_path=0.5)
        loss = lambda flat: bind(skeleton, flat)(IMAGES, key=jax.random.key(5)).logits.sum()  # noqa: E731
        return jax.jit(jax.grad(loss))(flat)

    again = gradient(True)
    for path, value in gradient(False).items():
        np.testing.assert_allclose(again[path], value, rtol=1e-5, atol=1e-6, err_msg=path)


def test_stochastic_depth_needs_a_key_and_rises():
    model = TINY.build(drop_path=0.3, rngs=nnx.Rngs(1))
    assert [block.drop_rate for stage in model.backbone.stages for block in stage] == pytest.approx([0, 0.15, 0.3])
    still = model(IMAGES).cls
    np.testing.assert_array_equal(still, model(IMAGES).cls)
    assert any(np.abs(model(IMAGES, key=jax.random.key(n)).cls - still).max() > 0 for n in range(5))


def test_half_precision_stays_near():
    _, flat = split(TINY.build(3))
    wanted = bind(TINY.skeleton(3), flat)(IMAGES)
    found = bind(TINY.skeleton(3, dtype=jnp.bfloat16), flat)(IMAGES)
    assert found.patches.dtype == jnp.bfloat16 and found.logits.dtype == jnp.float32
    np.testing.assert_allclose(found.cls.astype(jnp.float32), wanted.cls, atol=0.1)


def test_what_it_refuses():
    model = TINY.build()
    for images in (IMAGES[:, :7], IMAGES[..., :1]):
        with pytest.raises(UserError, match="at least 8 pixels"):
            model(images)
    with pytest.raises(UserError, match="mask"):
        model(IMAGES, mask=jnp.zeros((2, 3, 2), bool))
    with pytest.raises(UserError, match="stages 0 to 1"):
        model.backbone.intermediate_layers(IMAGES, n=3)
