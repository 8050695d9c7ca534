"""A large batch computed a few images at a time gives what the whole batch gives."""

import dataclasses

import jax
import numpy as np
import pytest

from jaxdino.core.params import bind, split
from jaxdino.models import convnext, few_images, registry
from jaxdino.models.convnext import ConvNeXtConfig
from tests.test_flops import SPEC

IMAGES = jax.random.normal(jax.random.key(0), (48, 64, 64, 3))


def compiled(spec, call):
    skeleton, flat = split(spec.build(5))
    run = jax.jit(lambda flat, images: call(bind(skeleton, flat), images)).lower(flat, IMAGES)
    return run.compile()(flat, IMAGES), run.as_text()


@pytest.mark.parametrize("registers", [0, 4])
def test_a_vision_transformer_is_computed_in_parts(registers):
    spec = dataclasses.replace(SPEC, config=dataclasses.replace(SPEC.config, depth=1, num_registers=registers))
    (ours, program), (whole, _) = (compiled(spec, call) for call in (few_images.forward, lambda net, x: net(x)))
    assert "stablehlo.while" in program
    assert ours.logits.shape == (48, 5) and jax.tree.structure(ours) == jax.tree.structure(whole)
    for mine, theirs in zip(jax.tree.leaves(ours), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-5)


def test_a_convnext_is_computed_in_parts_without_gradients(monkeypatch):
    monkeypatch.setattr(convnext, "PIXELS", 12 * 16 * 16)
    spec = registry.get("dinov3_convnext_tiny")
    spec = dataclasses.replace(spec, config=ConvNeXtConfig(depths=(1, 1), widths=(16, 24)))
    (ours, program), (whole, other) = (compiled(spec, call) for call in (few_images.forward, lambda net, x: net(x)))
    loops = [text.count("stablehlo.while") for text in (program, other)]  # depthwise convolutions have their own
    assert loops[0] == loops[1] + 1  # the first stage
    np.testing.assert_allclose(ours.logits, whole.logits, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(ours.stages[0], whole.stages[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("images", [1, 8, 13])
def test_small_batches_and_prime_numbers_stay_whole(images):
    assert few_images.images_each(images, 197) == images


def test_other_networks_stay_whole():
    assert few_images.vit_tokens(registry.get("resnet18").config, 224, 224) == 0
    assert few_images.images_each(64, 0) == 64
