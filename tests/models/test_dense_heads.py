"""Decoders on blocks and on stages: shapes, what a trained one keeps, and what they refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxdino.core.errors import UserError
from jaxdino.core.params import bind, split
from jaxdino.models.convnext import ConvNeXtConfig
from jaxdino.models.heads import from_json, to_json
from jaxdino.models.heads.decoders import DPTHeadConfig, FPNHeadConfig, MLPHeadConfig
from jaxdino.models.heads.depth import DepthDPTHeadConfig, DepthLinearHeadConfig
from jaxdino.models.heads.detr import DETRHeadConfig
from jaxdino.models.heads.fcos import FCOSHeadConfig
from jaxdino.models.heads.maps import even, resized
from jaxdino.models.layers import linear
from jaxdino.models.output import Output
from jaxdino.models.spec import ModelSpec

WIDTH, GRID = 32, (3, 5)
BLOCKS = (0, 1, 3, 5)


def outputs(stages):
    """What a backbone gives: four blocks of one grid, or four stages, each half as fine as the one before."""
    rng = np.random.default_rng(0)

    def drawn(*shape):
        return jnp.asarray(rng.normal(0, 1, (2, *shape)), jnp.float32)

    none = jnp.zeros((2, 0, WIDTH))
    if not stages:
        return [Output(drawn(WIDTH), drawn(*GRID, WIDTH), none, drawn(WIDTH)) for _ in range(4)]
    maps = tuple(drawn(*(side * 2 ** (3 - n) for side in GRID), WIDTH // 2 ** (3 - n)) for n in range(4))
    return [Output(drawn(WIDTH), maps[-1], none, drawn(WIDTH), maps)]


@pytest.mark.parametrize(
    ("head", "shape"),
    [
        (MLPHeadConfig(3, BLOCKS, width=8), (2, 3, 5, 3)),
        (MLPHeadConfig(3, 1, "stages", width=8, dropout=0.5), (2, 24, 40, 3)),
        (FPNHeadConfig(3, width=8), (2, 12, 20, 3)),
        (FPNHeadConfig(3, 1, "stages", width=8), (2, 24, 40, 3)),
        (DPTHeadConfig(3, BLOCKS, width=8), (2, 32, 48, 3)),
        (DPTHeadConfig(3, 1, "stages", width=8, readout=False), (2, 48, 80, 3)),
        (DepthDPTHeadConfig(1, BLOCKS, width=8), (2, 64, 96)),
        (DepthLinearHeadConfig(1, 4, bins=7), (2, 12, 20)),
        (DepthLinearHeadConfig(1, 1, "stages", bins=7), (2, 24, 40)),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_shapes_and_gradients(head, shape):
    assert from_json(to_json(head)) == head
    module = head.build(WIDTH, nnx.Rngs(0))
    graph, state = nnx.split(module, nnx.Param, ...)[0], nnx.split(module, nnx.Param, ...)[1:]
    name = "depth" if head.of == "depth" else "logits"

    def total(params):
        found = nnx.merge(graph, params, *state[1:])(outputs(head.source == "stages"), jax.random.key(0))[name]
        return jnp.sum(jnp.square(found)), found

    (_, found), slopes = jax.jit(jax.value_and_grad(total, has_aux=True))(state[0])
    assert found.shape == shape and found.dtype == jnp.float32 and bool(jnp.isfinite(found).all())
    assert all(np.asarray(slope).any() for slope in jax.tree.leaves(slopes))
    if name == "depth":
        assert head.min_depth <= found.min() and found.max() <= head.max_depth


@pytest.mark.parametrize("config", [MLPHeadConfig(3, BLOCKS, width=8), MLPHeadConfig(3, 1, "stages", width=8)])
def test_maps_that_are_fused_before_they_are_resized(config):
    """With an adapter of the whole kernel they are joined first, as the module in the docs does."""
    head, outs = config.build(WIDTH, nnx.Rngs(0)), outputs(config.source == "stages")
    found = head(outs)["logits"]
    head.fuse.lora = linear
    np.testing.assert_allclose(found, head(outs)["logits"], rtol=1e-5, atol=1e-6)


def test_what_is_kept_of_a_trained_head():
    before = DepthDPTHeadConfig(1, BLOCKS, width=16, output="relu", max_depth=80.0)
    assert DepthDPTHeadConfig(1, BLOCKS).continued(before) == before
    assert MLPHeadConfig(3, BLOCKS).continued(MLPHeadConfig(3, BLOCKS, width=9)).width == 9


def test_refusals():
    assert even(12) == (2, 5, 8, 11) and even(24) == (5, 11, 17, 23) and even(4) == (0, 1, 2, 3)
    with pytest.raises(UserError, match="reads 4 blocks, and the network has 2"):
        even(2)
    with pytest.raises(UserError, match=r"blocks=\(0, 1\) of a decoder on blocks must be 4"):
        DPTHeadConfig(3, (0, 1))
    with pytest.raises(UserError, match="give the indices in order"):
        MLPHeadConfig(3, (3, 2, 1, 0))
    with pytest.raises(UserError, match=r"reads feature maps of 8, 16, 32, 64 channels; the network has 4, 8, 16, 32"):
        MLPHeadConfig(3, 1, "stages").build(64, nnx.Rngs(0))(outputs(stages=True))
    with pytest.raises(UserError, match="max_depth=0"):
        DepthLinearHeadConfig(1, max_depth=0.0)


def test_resizing_with_corners_is_torchs():
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).normal(0, 1, (1, 3, 5, 2)).astype(np.float32)
    for corners in (True, False):
        want = torch.nn.functional.interpolate(
            torch.tensor(x).permute(0, 3, 1, 2), size=(6, 10), mode="bilinear", align_corners=corners
        )
        np.testing.assert_allclose(resized(x, (6, 10), corners), want.permute(0, 2, 3, 1), atol=1e-6)


@pytest.mark.parametrize(
    "head", [FCOSHeadConfig(3, width=8, convs=1), DETRHeadConfig(3, queries=5, layers=1, width=8)], ids=lambda h: h.name
)
def test_detectors_on_a_convnext_train_all_of_it(head):
    spec = ModelSpec("convnext_custom", "convnext", ConvNeXtConfig((1, 1, 1, 1), (8, 16, 32, 64)))
    skeleton, flat = split(spec.build(head=head, rngs=nnx.Rngs(0)))
    images = jnp.asarray(np.random.default_rng(0).normal(size=(1, 64, 96, 3)), jnp.float32)

    @jax.jit
    def slopes(flat):
        return jax.grad(lambda one: sum(jnp.square(x).sum() for x in bind(skeleton, one)(images).predictions.values()))(
            flat
        )

    stages = {path: slope for path, slope in slopes(flat).items() if path.startswith("backbone.stages.")}
    assert len(stages) > 20 and all(np.asarray(slope).any() for slope in stages.values())
