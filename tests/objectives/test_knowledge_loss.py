"""The losses of knowledge distillation against torch's."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from jaxdino.objectives.knowledge import Teacher, distance, on_grid, soft_loss

RNG = np.random.default_rng(0)


def drawn(*shape):
    return RNG.normal(0, 2, shape).astype(np.float32)


def test_the_soft_loss_is_hintons():
    student, teacher = drawn(6, 5), drawn(6, 5)
    s, t = (torch.from_numpy(one) / 3.0 for one in (student, teacher))
    theirs = F.kl_div(F.log_softmax(s, -1), F.log_softmax(t, -1), reduction="none", log_target=True).sum(-1) * 9
    np.testing.assert_allclose(soft_loss(jnp.asarray(student), jnp.asarray(teacher), 3.0), theirs, rtol=2e-5)


def test_distances_of_tokens():
    one, two = drawn(4, 3, 7), drawn(4, 3, 7)
    a, b = torch.from_numpy(one), torch.from_numpy(two)
    ours = [np.asarray(distance(jnp.asarray(one), jnp.asarray(two), kind)) for kind in ("cosine", "mse")]
    np.testing.assert_allclose(ours[0], 1 - F.cosine_similarity(a, b, dim=-1), atol=2e-6)
    np.testing.assert_allclose(ours[1], F.mse_loss(a, b, reduction="none").mean(-1), rtol=2e-5)


@pytest.mark.parametrize("grid", [(7, 5), (2, 3)])
def test_grids_are_resized_as_in_torch(grid):
    patches = drawn(2, 4, 4, 3)
    theirs = F.interpolate(torch.from_numpy(patches).permute(0, 3, 1, 2), grid, mode="bilinear", align_corners=False)
    np.testing.assert_allclose(on_grid(jnp.asarray(patches), grid), theirs.permute(0, 2, 3, 1), atol=2e-6)


def test_the_teacher_sees_its_own_normalisation():
    pixels = RNG.uniform(0, 1, (2, 4, 4, 3)).astype(np.float32)
    teacher = Teacher(None, (4, 4), (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), (0.1, 0.2, 0.3), (1.0, 0.5, 0.25))
    images = (pixels - np.array([0.1, 0.2, 0.3])) / np.array([1.0, 0.5, 0.25])
    expected = (pixels - np.array([0.5, 0.4, 0.3])) / np.array([0.2, 0.3, 0.4])
    np.testing.assert_allclose(teacher.images(jnp.asarray(images)), expected, atol=1e-5)
