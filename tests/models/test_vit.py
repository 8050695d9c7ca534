"""The ViT's own switches: recomputation, precision, stochastic depth, masks, layers by number."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdino.core.errors import UserError
from jaxdino.core.params import bind
from jaxdino.models.published.vit import DINOV3
from jaxdino.models.rope import rope_periods
from jaxdino.models.spec import ModelSpec
from jaxdino.models.vit import ViTConfig

SPEC = ModelSpec("tiny", "dinov3", ViTConfig(patch_size=4, width=64, depth=2, num_heads=4, mlp_dim=96, **DINOV3))


@pytest.fixture(scope="module")
def flat():
    """Parameters as large as trained ones: every leaf moved away from its start."""
    rng = np.random.default_rng(0)
    entries = SPEC.skeleton(3).entries
    drawn = {path: rng.normal(0, 0.15, entry.shape).astype(np.float32) for path, entry in entries.items()}
    ones = {path: array + 1 for path, array in drawn.items() if path.endswith(("scale", "gamma"))}
    return drawn | ones | {"backbone.rope.periods": rope_periods(16, 100.0)}


@pytest.fixture(scope="module")
def images():
    return jax.random.normal(jax.random.key(1), (2, 16, 12, 3))


def run(flat, images, key=None, mask=None, **options):
    """The output of the model built with the options."""
    skeleton = SPEC.skeleton(3, **options)
    return jax.jit(lambda flat, images, key, mask: bind(skeleton, flat)(images, key=key, mask=mask))(
        flat, images, key, mask
    )


def loss_and_gradient(flat, images, **options):
    skeleton = SPEC.skeleton(3, **options)
    loss = lambda flat: jnp.sum(bind(skeleton, flat)(images, key=jax.random.key(2)).logits ** 2)  # noqa: E731
    return jax.jit(jax.value_and_grad(loss))(flat)


@pytest.mark.parametrize("remat", ["blocks", "dots"])
def test_remat_changes_nothing(flat, images, remat):
    plain = loss_and_gradient(flat, images, drop_path=0.4)
    again = loss_and_gradient(flat, images, drop_path=0.4, remat=remat)
    assert np.allclose(plain[0], again[0], rtol=1e-6)
    for path, gradient in plain[1].items():
        scale = np.abs(gradient).max() + 1e-6
        assert np.abs(gradient - again[1][path]).max() <= 1e-5 * scale, path


def test_bfloat16_is_close_to_float32(flat, images):
    exact, half = run(flat, images), run(flat, images, dtype=jnp.bfloat16)
    assert half.patches.dtype == jnp.bfloat16 and half.logits.dtype == jnp.float32
    for name in ("cls", "patches", "registers", "logits"):
        a, b = (np.asarray(getattr(out, name), np.float32) for out in (exact, half))
        assert np.abs(a - b).max() < 0.05 * np.abs(a).max(), name


def test_stochastic_depth_needs_a_key(flat, images):
    still = run(flat, images, drop_path=0.5)
    assert (still.cls == run(flat, images).cls).all()
    dropped = [run(flat, images, jax.random.key(seed), drop_path=0.5).cls for seed in (0, 0, 1)]
    assert (dropped[0] == dropped[1]).all()
    assert (dropped[0] != dropped[2]).any() and (dropped[0] != still.cls).any()


def test_masked_patches_are_not_seen(flat, images):
    mask = jnp.ones((2, 4, 3), bool).at[0, 0, 0].set(False)
    other = images + jax.random.normal(jax.random.key(5), images.shape).at[:, :4, :4].set(0)
    assert np.allclose(run(flat, images, mask=mask).cls, run(flat, other, mask=mask).cls, atol=1e-6)
    assert not np.allclose(run(flat, images, mask=mask).cls, run(flat, images).cls, atol=1e-3)


def test_shapes_of_the_output(flat, images):
    out = run(flat, images)
    assert out.cls.shape == out.pooled.shape == (2, 64)
    assert out.patches.shape == (2, 4, 3, 64) and out.registers.shape == (2, 4, 64) and out.logits.shape == (2, 3)


def test_layers_by_number_and_by_name(flat, images):
    skeleton = SPEC.skeleton(3)

    @jax.jit
    def three_ways(flat):
        backbone = bind(skeleton, flat).backbone
        return backbone.intermediate_layers(images), backbone.intermediate_layers(images, [0, 1]), backbone(images)

    last, by_index, whole = three_ways(flat)
    assert len(last) == 1 and len(by_index) == 2
    assert (last[0].cls == by_index[1].cls).all() and (last[0].cls == whole.cls).all()
    assert (by_index[0].cls != by_index[1].cls).any()
    for wrong in ([2], [-1], 3):
        with pytest.raises(UserError, match="blocks 0 to 1"):
            jax.eval_shape(lambda flat, n=wrong: bind(skeleton, flat).backbone.intermediate_layers(images, n), flat)


@pytest.mark.parametrize(
    "shape, words",
    [
        ((1, 15, 16, 3), "images of 15x16 do not fit patches of 4 pixels"),
        ((1, 16, 16, 4), "the images have 4 channels and the model takes 3"),
    ],
)
def test_images_that_do_not_fit_are_named(flat, shape, words):
    with pytest.raises(UserError, match=words):
        run(flat, jnp.zeros(shape))
