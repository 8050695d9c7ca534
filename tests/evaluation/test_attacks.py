"""Attacks on a small network of random weights: they stay in their ball and raise the loss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdino.evaluation.attacks import ATTACKS, Attack, attacked, length

WEIGHTS = jax.random.normal(jax.random.key(0), (8 * 8 * 3, 5))
LABELS = jnp.arange(6) % 5
IMAGES = jax.random.uniform(jax.random.key(1), (6, 8, 8, 3))


def loss(images):
    scores = jax.nn.log_softmax(jnp.tanh(images - 0.5).reshape(len(images), -1) @ WEIGHTS)
    return -jnp.take_along_axis(scores, LABELS.reshape(-1, 1), axis=1)[:, 0]


@pytest.mark.parametrize("how", ATTACKS, ids=lambda how: how.name)
def test_attacks_raise_the_loss_inside_their_ball(how):
    found = jax.jit(lambda images: attacked(how, loss, jax.random.key(2), images))(IMAGES)
    change = np.asarray(found - IMAGES)
    size = np.abs(change).max(axis=(1, 2, 3)) if how.norm == "linf" else np.sqrt((change**2).sum(axis=(1, 2, 3)))
    assert (size <= how.radius + 1e-5).all() and (size > 0.5 * how.radius).all()
    assert found.min() >= 0 and found.max() <= 1
    assert (loss(found) > loss(IMAGES) + 1e-3).all()


def test_several_steps_are_at_least_as_strong_as_one():
    one, many = (
        attacked(how, loss, jax.random.key(2), IMAGES) for how in (Attack("linf", 0.05), Attack("linf", 0.05, 10, 0.25))
    )
    assert loss(many).mean() >= loss(one).mean() - 1e-3


def test_an_attack_that_can_only_lower_the_loss_leaves_the_image():
    def flat(images):
        return -jnp.square(images - IMAGES).sum(axis=(1, 2, 3))

    np.testing.assert_array_equal(attacked(Attack("l2", 0.5, 3, 0.25), flat, jax.random.key(0), IMAGES), IMAGES)
    assert length(IMAGES).shape == (6,)
