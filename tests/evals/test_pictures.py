"""Pictures: the class token's rows on the grid, principal components as colours, files that can be looked at."""

import jax
import numpy as np
import pytest
from flax import nnx
from PIL import Image

import jaxdino
from jaxdino.core.errors import UserError
from jaxdino.core.params import bind
from jaxdino.evals import pictures
from jaxdino.models import registry

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (3, 16, 24, 3), np.uint8)


def test_look_takes_the_patches_of_the_rows():
    model = jaxdino.load("dinov3_digits")
    pixels = RNG.normal(size=(2, 16, 24, 3)).astype(np.float32)
    see = jax.jit(lambda flat, x: pictures.look(bind(model.skeleton, flat).backbone, x))
    seen = see(model.flat, pixels)
    rows, grid = jax.jit(lambda flat, x: bind(model.skeleton, flat).backbone.cls_attention(x))(model.flat, pixels)
    assert tuple(map(int, grid)) == (4, 6) and seen.attention.shape == (2, 3, 4, 6)
    np.testing.assert_array_equal(seen.attention[1, 2, 3, 5], rows[1, 2, -1])
    np.testing.assert_array_equal(seen.attention[0, 1, 0, 1], rows[0, 1, 1 + 4 + 1])  # behind class token and registers
    np.testing.assert_allclose(seen.patches, model(pixels).patches, atol=1e-5)


def test_colours_are_principal_components_over_all_images():
    directions = np.linalg.qr(RNG.normal(size=(8, 3)))[0].T
    amounts = RNG.uniform(-1, 1, (2, 5, 6, 3)) * [9, 5, 2]
    colours = pictures.patch_colours(amounts @ directions + 3)
    assert colours.shape == (2, 5, 6, 3) and colours.min() == 0 and colours.max() == 1
    for part in range(3):
        alike = np.corrcoef(colours[..., part].ravel(), amounts[..., part].ravel())[0, 1]
        assert abs(alike) > 0.9


@pytest.mark.parametrize("patches", [np.ones((1, 2, 2, 5)), np.arange(8.0).reshape(1, 2, 2, 2), np.zeros((1, 1, 1, 4))])
def test_few_components_leave_the_other_colours_black(patches):
    colours = pictures.patch_colours(patches)
    assert colours.shape == (*patches.shape[:3], 3) and np.isfinite(colours).all() and (colours[..., 2] == 0).all()


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_files_are_written(tmp_path, channels):
    attention = RNG.dirichlet(np.ones(24), (3, 14)).reshape(3, 14, 4, 6)
    seen = pictures.Seen(RNG.normal(size=(3, 4, 6, 8)), attention)
    files = pictures.draw(
        lambda images: seen, np.concatenate([IMAGES, IMAGES], axis=-1)[..., :channels], tmp_path / "new" / "folder"
    )
    assert [file.name for file in files] == ["patches.png", "attention.png"]
    for file in files:
        with Image.open(file) as image:
            assert min(image.size) > 300 and len(np.unique(np.asarray(image))) > 50


def test_a_network_without_class_token_has_patches_alone(tmp_path):
    resnet = registry.get("resnet18").build(rngs=nnx.Rngs(0)).backbone
    seen = pictures.look(resnet, np.zeros((3, 64, 96, 3), np.float32))
    assert seen.attention is None
    assert [file.name for file in pictures.draw(lambda _: seen, IMAGES, tmp_path)] == ["patches.png"]


def test_bad_input_is_one_clear_error(tmp_path):
    with pytest.raises(UserError, match="no image to draw"):
        pictures.draw(lambda images: None, IMAGES[:0], tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be made"):
        pictures.draw(lambda images: None, IMAGES, tmp_path / "file" / "folder")
