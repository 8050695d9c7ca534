"""ResNet: its sizes, its layers, the padding of its pool, stochastic depth, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from jaxdino.core.errors import UserError
from jaxdino.core.params import split
from jaxdino.models import batch_norm, resnet
from jaxdino.models.published.resnet import SPECS
from jaxdino.models.resnet import ResNetConfig
from jaxdino.models.spec import ModelSpec

TINY = ModelSpec("tiny", "resnet", ResNetConfig(True, (1, 2), (16, 24), 4, 8), pool="mean", last_layers=2)
IMAGES = jax.random.normal(jax.random.key(0), (2, 24, 17, 3))


def test_parameters_of_the_published_sizes():
    """Without a head, in millions; with 1000 classes torchvision's own counts."""
    assert [round(spec.skeleton().num_params / 1e6, 2) for spec in SPECS] == [11.18, 21.28, 23.51, 42.50, 58.14, 23.51]
    assert SPECS[2].skeleton(1000).num_params == 25_557_032


@pytest.mark.parametrize("spec", [TINY, SPECS[0]], ids=lambda spec: spec.name)
def test_every_leaf_lies_in_one_layer(spec):
    for path in spec.skeleton(3).entries:
        assert sum(layer.holds(path) for layer in spec.layers) == 1, path


def test_layers_are_stem_and_blocks():
    assert [layer.name for layer in TINY.layers] == ["stem", "layer1.0", "layer2.0", "layer2.1", "head"]
    assert all(layer.kind != "norm" for layer in TINY.layers)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("side, sides", [(3, (1, 1)), (3, (1, 3)), (3, (4, 4)), (3, (5, 7)), (7, (2, 2)), (7, (5, 7))])
def test_a_convolution_and_its_gradients_at_any_size(side, sides, stride):
    """Maps of a few pixels take a way of their own; torch says what a convolution is."""
    layer = resnet.Conv(5, 6, side, stride, nnx.Rngs(0))
    graph, state = nnx.split(layer)
    x, kernel = jax.random.normal(jax.random.key(1), (2, *sides, 5)), layer.kernel[...]
    y, pull = jax.vjp(lambda x, kernel: nnx.merge(graph, jax.tree.map(lambda _: kernel, state))(x), x, kernel)
    g = jax.random.normal(jax.random.key(2), y.shape)
    images = torch.tensor(np.asarray(x).transpose(0, 3, 1, 2), requires_grad=True)
    weight = torch.tensor(np.asarray(kernel).transpose(3, 2, 0, 1), requires_grad=True)
    expected = torch.nn.functional.conv2d(images, weight, stride=stride, padding=side // 2)
    expected.backward(torch.tensor(np.asarray(g).transpose(0, 3, 1, 2)))
    dx, dk = pull(g)
    layouts = ((y, expected, (0, 2, 3, 1)), (dx, images.grad, (0, 2, 3, 1)), (dk, weight.grad, (2, 3, 1, 0)))
    for got, wanted, order in layouts:
        np.testing.assert_allclose(got, wanted.detach().numpy().transpose(order), rtol=1e-5, atol=1e-5)


def test_output():
    model = TINY.build(3)
    out = model(IMAGES)
    assert [x.shape for x in out.stages] == [(2, 6, 5, 16), (2, 3, 3, 24)]
    np.testing.assert_array_equal(out.patches, out.stages[-1])
    np.testing.assert_allclose(out.pooled, out.patches.mean(axis=(1, 2)), rtol=1e-6)
    np.testing.assert_array_equal(out.cls, out.pooled)
    first, last = model.backbone.intermediate_layers(IMAGES, [0, 1])
    np.testing.assert_array_equal(first.patches, out.stages[0])
    np.testing.assert_array_equal(last.pooled, out.pooled)
    again = model.backbone.intermediate_layers(IMAGES, [1, 0])  # in the order asked for, as of every family
    np.testing.assert_array_equal(again[0].patches, last.patches)


def test_evaluation_moves_nothing_and_a_leaf_untrained_evaluates():
    model = TINY.build(3)
    before = split(model)[1]
    batch_norm.set_training(model, ["backbone.bn1.bias", "backbone.conv1.kernel"])  # no scale among them
    model(IMAGES)
    for path, value in split(model)[1].items():
        np.testing.assert_array_equal(value, before[path])


def test_stochastic_depth_needs_a_key():
    model = TINY.build(drop_path=0.5, rngs=nnx.Rngs(1))
    still = model(IMAGES).pooled
    np.testing.assert_array_equal(still, model(IMAGES).pooled)
    assert any(np.abs(model(IMAGES, key=jax.random.key(n)).pooled - still).max() > 0 for n in range(5))


def test_what_it_refuses():
    model = TINY.build()
    with pytest.raises(UserError, match="do not fit"):
        model(IMAGES[..., :1])
    with pytest.raises(UserError, match="mask"):
        model(IMAGES, mask=jnp.zeros((2, 3, 2), bool))
    with pytest.raises(UserError, match="stages 0 to 1"):
        model.backbone.intermediate_layers(IMAGES, n=3)
