"""What is taken as features: the parts of a map against torch, networks of each kind, refusals."""

import jax
import numpy as np
import pytest
import torch
from flax import nnx

from jaxdino.core.errors import UserError
from jaxdino.evals import pools
from jaxdino.models.registry import get
from jaxdino.models.resnet import ResNetConfig
from jaxdino.models.spec import ModelSpec

TINY = ModelSpec("tiny", "resnet", ResNetConfig(False, (1, 2), (16, 24), 1, 8), pool="mean")


@pytest.mark.parametrize("sides", [(4, 8), (7, 5), (2, 1)])
def test_parts_of_a_map_are_torchs(sides):
    patches = np.random.default_rng(0).normal(size=(2, *sides, 3)).astype(np.float32)
    expected = torch.nn.AdaptiveAvgPool2d(4)(torch.tensor(patches).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    np.testing.assert_allclose(pools.grid(patches), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", pools.FEATURES)
def test_features_have_the_width_that_they_say(name):
    images = jax.random.normal(jax.random.key(0), (2, 32, 32, 3))
    for spec in (get("dinov3_digits"), TINY):
        if pools.FEATURES[name].blocks > 1 and spec is TINY:
            continue
        found = pools.look(spec.build(rngs=nnx.Rngs(0)).backbone, images, name)
        assert found.shape == (2, pools.FEATURES[name].widths * spec.config.width)


def test_a_grid_tells_where_things_are():
    """An image and its mirror image have the same mean of patches, mirrored, and other grids."""
    patches = np.zeros((1, 8, 8, 1), np.float32)
    patches[:, :, :2] = 1
    ours, mirrored = (pools.grid(x)[0, :, :, 0] for x in (patches, patches[:, :, ::-1]))
    np.testing.assert_array_equal(ours, np.tile([1, 0, 0, 0], (4, 1)))
    np.testing.assert_array_equal(mirrored, ours[:, ::-1])


@pytest.mark.parametrize(("name", "spec", "words"), [("gird", TINY, "grid"), ("cls4_mean", TINY, "tiny does not")])
def test_refusals(name, spec, words):
    with pytest.raises(UserError, match=words):
        pools.check(name, spec)
