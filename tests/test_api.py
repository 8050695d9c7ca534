"""The Python face: what notebooks call."""

import numpy as np
import pytest
from PIL import Image

import jaxdino
from convert.load import load_pretrained
from convert.store import save_model
from jaxdino.models.published.vit import DIGITS


@pytest.fixture(scope="module")
def model():
    return jaxdino.load("dinov3_digits")


@pytest.fixture
def picture():
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 40, 3), np.uint8))


def test_names_of_the_contract(model, picture):
    assert model.name == "dinov3_digits" and model.num_params == 677_664 and len(model.digest) == 64
    images = model.preprocess([picture, picture])
    assert images.shape == (2, 32, 32, 3) and images.dtype == np.uint8
    out = model(images)
    shapes = [out.cls.shape, out.patches.shape, out.registers.shape, out.pooled.shape]
    assert shapes == [(2, 96), (2, 8, 8, 96), (2, 4, 96), (2, 96)] and out.logits is None


def test_uint8_is_normalised_and_float_is_not(model, picture):
    images = model.preprocess([picture])
    mean, std = (np.asarray(v, np.float32) for v in (DIGITS.preprocess.mean, DIGITS.preprocess.std))
    by_hand = (images.astype(np.float32) / 255 - mean) / std
    np.testing.assert_allclose(model(images).cls, model(by_hand).cls, atol=1e-5)
    assert np.abs(model(images.astype(np.float32)).cls - model(images).cls).max() > 0.1


def test_intermediate_layers_end_in_the_output(model, picture):
    images = model.preprocess([picture])
    layers = model.intermediate_layers(images, n=4)
    assert len(layers) == 4
    np.testing.assert_allclose(layers[-1].patches, model(images).patches, atol=1e-6)
    np.testing.assert_array_equal(model.intermediate_layers(images, n=[2])[0].cls, layers[0].cls)


def test_preprocess_turns_pictures_upright(model, picture):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 270 degrees
    lying = picture.transpose(Image.Transpose.ROTATE_90)
    lying.info["exif"] = exif.tobytes()
    lying.getexif()[0x0112] = 6
    np.testing.assert_array_equal(model.preprocess([lying]), model.preprocess([picture]))


def test_half_precision_is_close(model, picture):
    images = model.preprocess([picture])
    half = jaxdino.load("dinov3_digits", dtype="bfloat16")
    full, low = np.asarray(model(images).cls), np.asarray(half(images).cls, np.float32)
    assert half.flat["backbone.norm.scale"].dtype == "bfloat16"
    assert 0 < np.abs(full - low).max() < 0.05 * np.abs(full).max()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda m, x: m(x[0]), "shape"),
        (lambda m, x: m(x[..., :2]), "images have 2 channels and the model takes 3"),
        (lambda m, x: m(x[:0]), "at least 1"),
        (lambda m, x: m(x.tolist()), "list"),
        (lambda m, x: m(x.astype(np.int32)), "int32"),
        (lambda m, x: m(x[:, :30]), "multiples of 4"),
        (lambda m, x: m.intermediate_layers(x, n=0), "blocks 0 to 5"),
        (lambda m, x: m.intermediate_layers(x, n=7), "blocks 0 to 5"),
        (lambda m, x: m.intermediate_layers(x, n=1.5), "n=1.5: give a number"),
        (lambda m, x: m.intermediate_layers(x, n="last"), "n='last': give a number"),
        (lambda m, x: m(x[:, :0]), "at least 1"),
        (lambda m, x: m.preprocess([]), "at least one"),
        (lambda m, x: m.preprocess(Image.fromarray(x[0])), "list of PIL images"),
        (
            lambda m, x: m.preprocess([Image.fromarray(-x[0, ..., 0].astype(np.float32))]),
            "float32 images hold values from",
        ),
        (lambda m, x: jaxdino.load("dinov3_digits", dtype="float8"), "nearest: float"),
        (lambda m, x: jaxdino.load("dinov3_digits", attention="flash"), "attention='flash'"),
        (lambda m, x: jaxdino.load("dinov3_digit"), "dinov3_digits"),
    ],
)
def test_bad_input_is_one_clear_error(model, picture, call, words):
    with pytest.raises(jaxdino.UserError, match=words):
        call(model, model.preprocess([picture]))


def test_weights_that_are_not_finite_are_warned_of_by_name(tmp_path):
    found = load_pretrained("dinov3_digits")
    flat = {path: array.copy() for path, array in found.flat.items()}
    flat["backbone.norm.bias"][3] = np.nan
    save_model(tmp_path / "ours", found.card, flat)
    with pytest.warns(UserWarning, match=r"NaN or infinity in backbone\.norm\.bias"):
        jaxdino.load(tmp_path / "ours")
