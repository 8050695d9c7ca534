"""Mistakes, typical images, Grad-CAM, and label suspects, from known numbers."""

import csv
import io

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxdino.evaluation.errors.feature_map import MOST, drawn_rows, why_not
from jaxdino.evaluation.errors.mistakes import as_csv, wrong
from jaxdino.evaluation.errors.overlays import glowing, grad_cam, last_map
from jaxdino.evaluation.errors.typical import typical
from jaxdino.models.resnet import ResNetConfig
from jaxdino.models.vit import ViTConfig
from tests.evaluation.made_predictions import made


def test_mistakes_are_ordered_by_the_probability_of_the_wrong_class():
    found = made()
    listed = wrong(found, ())
    right = found.logits.argmax(axis=1) == found.labels
    assert sorted(listed.rows) == np.flatnonzero(~right).tolist() and len(listed) > 10
    assert (np.diff(listed.probabilities) <= 0).all()
    np.testing.assert_allclose(listed.probabilities, found.odds[listed.rows].max(axis=1))
    rows = list(csv.DictReader(io.StringIO(as_csv(found, listed))))
    assert rows[0]["image"] == found.split.record_name(listed.rows[0]) and len(rows) == len(listed)
    first = listed.rows[0]
    assert float(rows[0]["loss"]) == pytest.approx(-np.log(found.odds[first, found.labels[first]]), abs=1e-4)


def test_mistakes_of_several_labels_are_the_furthest_from_the_truth():
    found = made(several=True)
    listed = wrong(found, (0.5,) * 6)
    gaps = np.abs(found.odds - found.there)
    assert len(listed) == ((found.odds >= 0.5) != found.there).sum()
    assert gaps[listed.rows[0], listed.classes[0]] == gaps[(found.odds >= 0.5) != found.there].max()
    kept = listed.first_of_images(5)
    assert len(set(kept.rows.tolist())) == len(kept) == 5 and kept.rows[0] == listed.rows[0]


def test_typical_images_are_nearest_to_the_mean_of_their_class():
    found = made(absent=(2,))
    listed = typical(found, 2)
    assert 2 not in listed and len(listed) == 5
    for place, one in listed.items():
        own = np.flatnonzero(found.labels == place)
        far = {int(row): np.linalg.norm(found.features[row] - found.features[own].mean(axis=0)) for row in own}
        assert one.nearest[0][0] == min(far, key=far.__getitem__)
        assert one.farthest[0][0] == max(far, key=far.__getitem__)


def test_grad_cam_of_a_linear_head_on_a_pooled_map_is_known():
    cfg = ResNetConfig(bottleneck=False, depths=(1, 1), widths=(4, 8), reduction=1, stem=4)
    backbone = cfg.build(rngs=nnx.Rngs(0))
    rng = np.random.default_rng(0)
    features, rest = last_map(backbone, jnp.asarray(rng.normal(size=(3, 16, 16, 3)), jnp.float32))
    kernel = jnp.asarray(rng.normal(size=(features.shape[-1], 5)), jnp.float32)
    classes = np.array([4, 0, 2])

    def logit(x):
        return (rest(x).cls @ kernel)[np.arange(3), classes]

    found = np.asarray(grad_cam(logit, features))
    area = features.shape[1] * features.shape[2]
    known = np.einsum("bhwd,db->bhw", np.asarray(features), np.asarray(kernel)[:, classes]) / area
    assert area == 4 and found.max() > 0
    np.testing.assert_allclose(found, np.maximum(known, 0), atol=1e-5 * np.abs(known).max())


def test_the_map_of_a_vit_leads_to_its_output():
    backbone = ViTConfig(patch_size=4, width=16, depth=2, num_heads=2, mlp_dim=32, num_registers=2).build(
        rngs=nnx.Rngs(0)
    )
    pixels = jnp.asarray(np.random.default_rng(0).normal(size=(2, 8, 12, 3)), jnp.float32)
    features, rest = last_map(backbone, pixels)
    assert features.shape == (2, 2, 3, 16)
    np.testing.assert_allclose(rest(features).cls, backbone(pixels).cls, atol=1e-5)
    assert np.asarray(grad_cam(lambda x: rest(x).cls[:, 0] * 10, features)).shape == (2, 2, 3)


def test_a_glow_is_brightest_where_the_map_is_highest():
    heat = np.zeros((8, 8), np.float32)
    heat[2, 5] = 0.3
    drawn = glowing(np.full((8, 8, 1), 128, np.uint8), heat)
    assert drawn.dtype == np.uint8 and np.unravel_index(drawn.sum(axis=2).argmax(), (8, 8)) == (2, 5)
    assert (glowing(np.full((8, 8, 3), 128, np.uint8), np.zeros((8, 8), np.float32)) == 43).all()  # a third of 128


def test_the_map_is_of_a_bounded_number_of_images():
    rows = drawn_rows(5000, 1)
    assert len(rows) == MOST == len(set(rows.tolist())) and rows.max() > 4000
    assert drawn_rows(7, 1).tolist() == list(range(7))
    assert "10 images" in why_not(np.ones((4, 3))) and "the same" in why_not(np.ones((20, 3)))


def test_exchanged_labels_are_suspects():
    pytest.importorskip("cleanlab")
    import dataclasses

    from jaxdino.evaluation.errors.suspects import suspects, why_not

    labels = np.arange(120) % 3
    given = labels.copy()
    given[:2] = 1, 2
    logits = 6.0 * np.eye(4)[labels]  # the fourth class has no image
    base = made(n=120, classes=4)
    found = dataclasses.replace(base, logits=logits, labels=given)
    listed = suspects(found)
    assert {row for row, _, _ in listed} == {0, 1} and {best for _, _, best in listed} == {0, 1}
    assert why_not(found) == "" and "one class an image" in why_not(made(several=True))
