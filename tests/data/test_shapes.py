from collections import Counter

import numpy as np
import pytest

from jaxdino.data.sources import shapes
from tests.data.pair_folders import load_pairs, pairs

HUE = {"red": (1, 0, 0), "green": (0, 1, 0), "blue": (0, 0, 1), "yellow": (1, 1, 0), "purple": (1, 0, 1)}


@pytest.fixture(scope="module")
def source():
    return load_pairs({"name": "shapes"})


def test_every_prompt_is_in_every_split_about_as_often(source):
    assert len(source.class_names) == 15 and source.ignored == {}
    for name, split in source.splits.items():
        counts = Counter(pair.prompt.label for pair in pairs(split))
        assert set(counts) == set(range(15))
        assert max(counts.values()) - min(counts.values()) <= 0.1 * counts.total() / 15 + 4
        assert len({image.tobytes() for image in split.records}) == {"train": 400, "val": 80, "test": 80}[name]


def test_scenes_follow_the_seed_and_splits_share_none(source):
    again = shapes.scenes.__wrapped__(0)
    first = {name: [scene.image.tobytes() for scene in scenes] for name, scenes in again.items()}
    for name, split in source.splits.items():
        assert [image.tobytes() for image in split.records] == first[name]
    assert len({image for images in first.values() for image in images}) == 560
    other = load_pairs({"name": "shapes", "split_seed": 1}).split("val").records
    assert not {image.tobytes() for image in other} & set(first["val"])


def test_masks_cover_what_they_say_and_do_not_overlap(source):
    split = source.split("val")
    taken: dict[int, np.ndarray] = {}
    for pair in pairs(split):
        whole, label = pair.prompt.mask, pair.prompt.label
        colour = source.class_names[label].split()[0]
        assert pair.image.dtype == whole.dtype == np.uint8 and whole.shape == (64, 64)
        mask = whole == 1
        assert 60 < mask.sum() < 700 and set(np.unique(whole)) == {0, 1}
        inside = pair.image[mask].mean(axis=0)
        assert ((inside > (inside.min() + inside.max()) / 2) == np.array(HUE[colour], bool)).all(), colour
        seen = taken.setdefault(id(pair.image), np.zeros((64, 64), bool))
        assert not (seen & mask).any()
        seen |= mask
        assert label in pair.prompt.present and 2 <= len(pair.prompt.present) <= 4


def test_kinds_have_their_shapes(source):
    """The share of its bounding circle that a whole shape fills tells its kind: all of it, 2 / pi, 1.3 / pi."""
    shares: dict[str, list[float]] = {kind: [] for kind in shapes.KINDS}
    for pair in pairs(source.split("train")):
        rows, columns = np.nonzero(pair.prompt.mask)
        centre = rows.mean(), columns.mean()
        radius = np.hypot(rows - centre[0], columns - centre[1]).max() + 0.5
        shares[source.class_names[pair.prompt.label].split()[1]].append(len(rows) / (np.pi * radius**2))
    means = {kind: float(np.median(found)) for kind, found in shares.items()}
    assert means["circle"] > 0.85 and 0.55 < means["square"] < 0.72 and 0.36 < means["triangle"] < 0.5
