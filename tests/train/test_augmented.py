"""The picture of augmentations shows what the network receives."""

import numpy as np
import pytest
import tiny
import tiny_distill
import tiny_segment
import tiny_semantic
from PIL import Image

from jaxdino.core.errors import UserError
from jaxdino.evals.augmentation_pictures import SIDE, Block, Tile, denormalised, draw_blocks
from jaxdino.train.augmented import IMAGES, blocks
from jaxdino.train.setup import prepare

DRAWN = True


def blocks_of(config):
    setup = prepare(config, lambda line: None)
    return blocks(setup.task, setup.parts), setup.task


def same(first, second):
    return np.abs(first - second).max() < 1e-5


def test_without_augmentation_the_versions_are_the_image():
    (block,), _ = blocks_of(tiny.config(1, 1, batch_size=64, data__augment="none"))
    assert block.title == "augment=none, 8 x 8 pixels (head, last)"
    assert len(block.rows) == IMAGES and all(len(row) == 7 for row in block.rows)
    assert all(same(row[0].image, tile.image) for row in block.rows for tile in row[1:])
    assert not same(block.rows[0][0].image, block.rows[1][0].image)


def test_versions_are_moved_by_the_stage_and_stages_have_their_own():
    """A flip is seen as a flip: geometry on the host; darker images: colours on the device."""
    changes = dict(data__augment="none,hflip=1.0", stages=tiny.stages(1, 1))
    config = tiny.config(1, batch_size=64, **changes)
    config.stages[1].augment = "none,solarize_prob=1.0,solarize_threshold=0.0"
    (flipped, inverted), _ = blocks_of(config)
    for row in flipped.rows:
        assert all(same(row[0].image[:, ::-1], tile.image) for tile in row[1:])
    for row in inverted.rows:
        assert all(same(1 - row[0].image, tile.image) for tile in row[1:])
    assert "(head)" in flipped.title and "(last)" in inverted.title


def test_captions_are_the_classes_also_when_mixed():
    (block,), task = blocks_of(tiny.config(1, batch_size=64, data__augment="none"))
    assert {tile.caption for row in block.rows for tile in row[1:]} <= set(task.source.class_names)
    (mixed,), _ = blocks_of(tiny.config(1, batch_size=64, data__augment="none,mixup=1.0"))
    captions = [tile.caption for row in mixed.rows for tile in row[1:]]
    assert sum("%" in caption and ", " in caption for caption in captions) > 12


def test_masks_are_those_of_the_versions():
    (block,), task = blocks_of(tiny_semantic.config(data__augment="none,hflip=1.0", data__batch_size=16))
    assert block.names == task.source.class_names and all(tile.mask.shape == (16, 16) for tile in block.rows[0][1:])
    for row in block.rows:
        assert len({tile.mask.tobytes() for tile in row[1:]}) == 1 and same(row[0].image[:, ::-1], row[1].image)
    (plain,), _ = blocks_of(tiny_semantic.config(data__augment="none", data__batch_size=16))
    for row, other in zip(block.rows, plain.rows, strict=True):
        assert np.array_equal(row[1].mask, other[1].mask[:, ::-1])


def test_the_views_of_self_distillation_are_all_shown():
    (block,), _ = blocks_of(tiny_distill.config(1))
    captions = ["", *["global, 16 pixels"] * 2, *["local, 8 pixels"] * 2]
    assert block.title == "data.views, 16 x 16 pixels (all)"
    assert all([tile.caption for tile in row] == captions for row in block.rows)
    assert [tile.image.shape for tile in block.rows[0][1:]] == [(16, 16, 3)] * 2 + [(8, 8, 3)] * 2


def test_prompts_are_shown_with_their_masks():
    (block, *_), task = blocks_of(tiny_segment.config(1))
    tiles = [tile for row in block.rows for tile in row[1:]]
    assert {tile.caption for tile in tiles} <= set(task.source.class_names)
    assert all(set(np.unique(tile.mask)) <= {0, 1, 255} for tile in tiles) and any(tile.mask.any() for tile in tiles)


def test_the_picture(tmp_path):
    """Rows of tiles: images at their place, masks over them, ignored pixels darker; a caption never reaches further."""
    red, mask = np.tile([1.0, 0.0, 0.0], (4, 4, 1)), np.array([[0, 0, 1, 1]] * 2 + [[255] * 4] * 2)
    tiles = [Tile(red), Tile(red, "a long caption " * 9, mask), Tile(np.full((4, 8, 1), 0.5))]
    draw_blocks([Block("title", ("plain", "masked"), [tiles], ("background", "one"))], tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as picture:
        levels = np.asarray(picture.convert("RGB")).astype(int)
    (rows, columns), step = np.nonzero((levels == (255, 0, 0)).all(axis=2)), SIDE + 8
    top, left = rows.min(), columns.min()
    assert (rows.max() + 1 - top, left) == (SIDE, 8)
    background, coloured, ignored = (levels[top + y, left + step + x] for y, x in ((9, 9), (9, 150), (150, 9)))
    assert background.tolist() == [255, 0, 0] and coloured[1] > 30 and ignored.tolist() == [89, 0, 0]
    assert abs(levels[top + 9, left + 2 * step + 9] - 128).max() <= 1  # a wide image is as wide as a tile
    assert (levels[top + SIDE :, left + 2 * step - 7 : left + 2 * step] == 255).all()
    with pytest.raises(UserError, match="cannot be written"):
        draw_blocks([Block("title", (), [tiles[:1]])], tmp_path / "no" / "a.png")


def test_denormalised_is_the_inverse_of_the_normalisation():
    from jaxdino.data.photometric import normalize

    levels, how = np.random.default_rng(0).integers(0, 256, (1, 5, 6, 3), np.uint8), ((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    assert same(denormalised(np.asarray(normalize(levels, *how))[0], *how), levels[0] / 255)
