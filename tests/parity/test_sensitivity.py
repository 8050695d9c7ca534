"""The parity tests can fail: a small change of any one parameter shows in what they compare."""

import numpy as np
import pytest

from tests.parity.all_cases import CASES
from tests.parity.cases import GRID, PATCH
from tests.parity.drawing import channels_last, images
from tests.parity.ours import TOLERANCE, look

NAMES = [name for name in CASES if name.startswith(("hf", "timm vit", "meta dinov3"))]
UNUSED = ("backbone.mask_token", "backbone.local_cls_norm.scale", "backbone.local_cls_norm.bias")
"""The mask token stands in for masked patches only, and the second norm for local crops in pre-training."""
CHANGE = 1e-2


def parts(path: str, array: np.ndarray) -> dict[str, slice]:
    """Slices of the last axis to change one by one: q, k and v apart, gate and value apart."""
    names = {"qkv": "qkv", "w12": ("gate", "value")}.get(path.split(".")[-2], ("",))
    size = array.shape[-1] // len(names)
    return {name: slice(n * size, (n + 1) * size) for n, name in enumerate(names)}


def changed(array: np.ndarray, part: slice) -> np.ndarray:
    """A copy with one element in the middle of the part moved by 1 % of the array's scale."""
    copy = array.copy()
    rows = copy.reshape(-1, copy.shape[-1])
    rows[len(rows) // 2, (part.start + part.stop) // 2] += CHANGE * np.abs(array).max()
    return copy


def is_silent(path: str, part: str) -> bool:
    """Whether the forward pass cannot see it.

    A bias of the keys adds the same to all the scores of a query, which softmax takes away again; DINOv3, whose
    rotation would make it visible, multiplies it by zero.
    """
    return path in UNUSED or (path.endswith("qkv.bias") and part == "k")


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_shows(loaded, name):
    it = loaded(name)
    pixels = channels_last(images(PATCH * GRID, PATCH * GRID))
    before = look(it.ours, pixels)
    silent = []
    for path, array in it.ours.flat.items():
        for part, where in parts(path, array).items():
            after = look(it.ours, pixels, it.ours.flat | {path: changed(array, where)})
            shares = [np.abs(after[k] - before[k]).max() / np.abs(before[k]).max() for k in before]
            if max(shares) <= TOLERANCE:
                silent.append((path, part))
    expected = [(p, part) for p, array in it.ours.flat.items() for part in parts(p, array) if is_silent(p, part)]
    assert silent == expected
