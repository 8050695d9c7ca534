"""Close pairs of hashes are those of a comparison of all with all; groups are the connected components."""

import numpy as np
import planted
import pytest
from PIL import Image

from jaxdino.inspect_data import groups, hashes
from jaxdino.inspect_data.hashes import close_pairs, perceptual_hash


def drawn(seed=0, count=1500):
    """Random hashes, each with another one at a distance of 1 to 16 bits."""
    rng = np.random.default_rng(seed)
    some = rng.integers(0, 2**64, count, dtype=np.uint64)
    flips = [sum(1 << int(bit) for bit in rng.choice(64, rng.integers(1, 17), replace=False)) for _ in some]
    return np.unique(np.concatenate([some, some ^ np.array(flips, np.uint64)]))


@pytest.mark.parametrize("distance", [0, 1, 3, 4, 6, 8, 11, 15])
def test_pairs_are_those_of_brute_force(distance, monkeypatch):
    monkeypatch.setattr(hashes, "BLOCK", 1000)
    some = drawn()
    one, two = np.nonzero(np.triu(np.bitwise_count(some[:, None] ^ some) <= distance, 1))
    wanted = set(zip(one.tolist(), two.tolist(), strict=True))
    found = {tuple(pair) for block in close_pairs(some, distance) for pair in block.tolist()}
    assert found == wanted and bool(wanted) == (distance > 0)


def test_no_hashes_and_one_hash():
    assert not [*close_pairs(np.zeros(0, np.uint64), 4), *close_pairs(np.zeros(1, np.uint64), 4)]


def test_groups_are_components_also_when_pairs_are_merged_on_the_way(monkeypatch):
    pairs = [np.array([[5, 6], [1, 2]]), np.array([[2, 9], [4, 4]]), np.array([[9, 0]])]
    wanted = [[0, 1, 2, 9], [5, 6]]
    assert groups.groups(10, iter(pairs)) == wanted
    monkeypatch.setattr(groups, "MOST", 1)
    assert groups.groups(10, iter(pairs)) == wanted
    assert groups.groups(10, iter([])) == []


def test_a_hash_barely_changes_with_size_and_brightness():
    image = planted.picture(0).convert("L")
    same = [image.resize((500, 300)), image.point(lambda v: v * 0.8), image.resize((64, 64), Image.Resampling.BOX)]
    near = [int(np.bitwise_count(perceptual_hash(image) ^ perceptual_hash(other))) for other in same]
    far = [int(np.bitwise_count(perceptual_hash(image) ^ perceptual_hash(planted.picture(i)))) for i in range(1, 9)]
    assert max(near) <= 4 and min(far) > 10
