"""Gradients agree with PyTorch's, parameter by parameter, through the same tables as the weights."""

import copy

import numpy as np
import pytest
import torch

from convert.load import bound_table, inspect
from convert.readers import open_source
from tests.parity.cases import PATCH, SIZES, look
from tests.parity.drawing import channels_last, images
from tests.parity.ours import gradients, reference_objective

NAMES = [
    "hf dino",
    "hf vit head",
    "hf dinov2 head",
    "hf dinov2 reg swiglu",
    "hf dinov3",
    "timm vit",
    "timm dinov3 qkvb",
    "meta dinov3 swiglu",
]
TOLERANCE = 1e-4
VANISHING = 1e-5
"""Below this share of the largest gradient there is only rounding: the keys' bias, which softmax takes away."""


def with_gradients_for_weights(model: torch.nn.Module) -> torch.nn.Module:
    """A copy whose parameters hold the gradients, to be saved under the published names; unused ones hold zero."""
    twin = copy.deepcopy(model)
    for parameter, original in zip(twin.parameters(), model.parameters(), strict=True):
        gradient = original.grad
        parameter.data = torch.zeros_like(original) if gradient is None else gradient.clone()
        original.grad = parameter.grad = None
    return twin


@pytest.mark.parametrize("name", NAMES)
def test_same_gradients(loaded, name, tmp_path):
    it = loaded(name)
    pixels = images(*(PATCH * side for side in SIZES["wide"]))
    reference_objective(look(it.case, it.model, pixels)).backward()
    path = it.case.save(with_gradients_for_weights(it.model), tmp_path)

    card, _, found = inspect(path, **it.case.overrules)
    table = bound_table(card.spec, card.layout, card.num_classes > 0)
    ours = {tensor.key: tensor.make() for tensor in table.write(gradients(it.ours, channels_last(pixels)))}
    with open_source(path) as source:
        theirs = {key: source.read(full) for key, full in found.keys.items()}
    assert set(ours) == set(theirs)
    largest = max(np.abs(gradient).max() for gradient in theirs.values())
    for key, gradient in theirs.items():
        scale = np.abs(gradient).max()
        scale = scale if scale > VANISHING * largest else largest
        assert np.abs(ours[key] - gradient).max() <= TOLERANCE * scale, key
