"""What the projection head is to training; its parity is in tests/parity."""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxdino
from convert.store import Card, save_model
from jaxdino.core.errors import UserError
from jaxdino.core.params import bind, split
from jaxdino.models.batch_norm import set_training
from jaxdino.models.heads.projection import DINOHeadConfig
from jaxdino.models.registry import from_json, get
from jaxdino.models.spec import ModelSpec
from jaxdino.train.weights import start

TINY = DINOHeadConfig(in_dim=8, hidden_dim=12, bottleneck_dim=6, out_dim=10)


def build(**fields):
    return split(dataclasses.replace(TINY, **fields).build(rngs=nnx.Rngs(0)))


def test_published_size():
    """DINO's default head on a ViT-S, counted by hand from its constructor."""
    mlp = 384 * 2048 + 2048 + 2048 * 2048 + 2048 + 2048 * 256 + 256
    assert get("dino_head").skeleton().num_params == mlp + 256 * 65536 + 65536


def test_prototypes_of_kept_length_are_no_parameters():
    skeleton, flat = build(norm_last_layer=True)
    assert skeleton.entries["last_layer.g"].kind == "buffer" and (flat["last_layer.g"] == 1).all()
    assert build()[0].entries["last_layer.g"].kind == "param"
    scores = bind(skeleton, flat)(jax.random.normal(jax.random.key(0), (5, 8)))
    assert np.abs(scores).max() <= 1  # cosines


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_features_without_length_give_no_nan(dtype):
    skeleton, flat = split(TINY.build(rngs=nnx.Rngs(0), dtype=dtype))
    features = jnp.zeros((3, 8))
    scores = bind(skeleton, flat)(features)
    assert scores.dtype == dtype and (scores == 0).all()
    gradients = jax.grad(lambda flat: bind(skeleton, flat)(features).astype(jnp.float32).sum())(flat)
    assert all(np.isfinite(np.asarray(gradient, np.float32)).all() for gradient in gradients.values())


def test_the_bottleneck_has_length_one_however_short_it_was():
    skeleton, flat = build(mlp_bias=False, num_layers=1)
    short = bind(skeleton, flat).bottleneck(1e-6 * jax.random.normal(jax.random.key(0), (3, 8)))
    np.testing.assert_allclose(np.linalg.norm(short, axis=-1), 1, atol=1e-5)


def test_batch_norm_uses_the_batch_in_training():
    skeleton, flat = build(use_bn=True)
    features = 3 + jax.random.normal(jax.random.key(0), (16, 8))
    head = bind(skeleton, flat)
    set_training(head, skeleton.paths("param"))
    head(features)
    assert head.mlp[1].num_batches_tracked[...] == 1 and (head.mlp[1].mean[...] != 0).any()


def test_every_parameter_lies_in_one_layer_and_the_spec_survives_json():
    spec = ModelSpec("tiny", "dino_head", dataclasses.replace(TINY, use_bn=True, num_layers=2))
    for path in spec.skeleton().paths():
        assert len([layer for layer in spec.layers if layer.holds(path)]) == 1, path
    assert from_json(dataclasses.asdict(spec)) == spec


def test_refusals():
    with pytest.raises(UserError, match=r"takes features \(\.\.\., 8\), not \(2, 9\)"):
        bind(*build())(jnp.zeros((2, 9)))
    with pytest.raises(UserError, match="at least one layer"):
        build(num_layers=0)
    with pytest.raises(UserError, match="not 3 and 'linear'"):
        build(last_layer="linear")


def test_python_face(tmp_path):
    spec = ModelSpec("dino_head", "dino_head", TINY)
    save_model(tmp_path / "head", Card(spec), split(spec.build())[1])
    head = jaxdino.load(tmp_path / "head")
    assert head(np.ones((2, 3, 8), np.float32)).shape == (2, 3, 10)
    for wrong in (np.ones((2, 9), np.float32), np.ones((2, 8), np.uint8), [1.0]):
        with pytest.raises(UserError, match=r"array of floats \(\.\.\., 8\)"):
            head(wrong)
    for call in (head.preprocess, head.intermediate_layers, head.predict):
        with pytest.raises(UserError, match="load the backbone beside it"):
            call([])


def test_training_refuses_a_head():
    model = SimpleNamespace(name="dino_head", weights="random", shape=None, num_classes=None, in_channels=3)
    with pytest.raises(UserError, match="does not take images"):
        start(SimpleNamespace(model=model, seed=0), ("a", "b"), print)
