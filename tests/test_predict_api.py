"""`model.predict` and what `preprocess` takes."""

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import jaxdino
from convert.store import Card, save_model
from jaxdino.core.params import split
from jaxdino.models.registry import get

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The embedded backbone with a head of three classes."""
    folder = tmp_path_factory.mktemp("model") / "ours"
    spec = get("dinov3_digits")
    _, flat = split(spec.build(3))
    flat = {path: np.asarray(leaf) for path, leaf in flat.items()}
    flat["head.kernel"] = RNG.normal(0, 1, flat["head.kernel"].shape).astype(np.float32)
    save_model(folder, Card(spec, spec.linear(3), class_names=("cat", "dog", "emu")), flat)
    return jaxdino.load(folder)


@pytest.fixture(scope="module")
def arrays():
    """Of different sizes and colours."""
    colours = RNG.integers(0, 206, (5, 3), np.uint8)
    return [colour + RNG.integers(0, 50, (40 + n, 50, 3), np.uint8) for n, colour in enumerate(colours)]


@pytest.fixture(scope="module")
def files(arrays, tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    for n, array in enumerate(arrays):
        Image.fromarray(array).save(folder / f"{n}.png")
    return sorted(folder.iterdir())


def test_pictures_paths_and_arrays_are_the_same_images(model, arrays, files):
    expected = model.preprocess([Image.fromarray(array) for array in arrays])
    forms = [arrays, files, [str(file) for file in files], iter(files), [files[0], arrays[1], *map(str, files[2:])]]
    for form in forms:
        np.testing.assert_array_equal(model.preprocess(form), expected)
    same = np.stack([array[:40] for array in arrays])
    np.testing.assert_array_equal(model.preprocess(same), model.preprocess(list(same)))


def test_probabilities_are_those_of_the_logits_in_any_batch(model, arrays, files):
    logits = np.asarray(model(model.preprocess(arrays)).logits, np.float64)
    odds = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert len({tuple(row) for row in np.argsort(-odds)}) > 1
    for batch_size in (2, 5, 32):
        found = model.predict(files, topk=2, batch_size=batch_size)
        for row, classes in zip(odds, found, strict=True):
            best = np.argsort(-row)[:2]
            assert [name for name, _ in classes] == [model.class_names[i] for i in best]
            np.testing.assert_allclose([share for _, share in classes], row[best], atol=1e-5)
    assert [len(classes) for classes in model.predict(files[:2])] == [3, 3]


def test_a_tensor_is_refused_with_the_line_that_helps(model):
    torch = pytest.importorskip("torch")
    tensor = torch.rand(2, 3, 32, 32)
    with pytest.raises(jaxdino.UserError, match=r"np\.asarray\(tensor\.permute\(0, 2, 3, 1\)\)"):
        model(tensor)
    assert model(np.asarray(tensor.permute(0, 2, 3, 1))).logits.shape == (2, 3)
    with pytest.raises(jaxdino.UserError, match=r"np\.asarray\(tensor\.detach\(\)\)"):
        model(torch.rand(2, 32, 32, 3, requires_grad=True))
    for call in (model.preprocess, model.predict):
        for images in (tensor, [tensor[0]]):
            with pytest.raises(jaxdino.UserError, match="torch tensor"):
                call(images)


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (None, "not None"),
        (7, "not a int"),
        (True, "not a bool"),
        (b"abc", "not a bytes"),
        ({"a.png": 1}, "not a dict"),
        ({"a.png"}, "not a set"),
        ("a.png", r"\(\[image\]\)"),
        (Path("a.png"), r"\(\[image\]\)"),
        (np.zeros((4, 4, 3), np.uint8), r"\(\[image\]\)"),
        (np.zeros((2, 2, 4, 4, 3), np.uint8), "uint8 and shape"),
        (np.full((2, 4, 4, 3), -1.5, np.float32), "float32 images hold values from -1.5"),
        (np.array([None, None]), "image 0 is None"),
        (np.array(3), "int64"),
        ([], "there is none"),
        (iter(()), "there is none"),
        (np.zeros((0, 4, 4, 3), np.uint8), "there is none"),
        ([None], "image 0 is None"),
        ([[1, 2]], "image 0 is a list"),
        ([np.zeros((4,), np.uint8)], r"\(4,\)"),
        ([np.zeros((4, 4, 5), np.uint8)], "image 0: the image has 5 channels and the model takes 3"),
        ([np.zeros((0, 4, 3), np.uint8)], r"\(0, 4, 3\)"),
        ([np.zeros((4, 4, 3), bool)], "bool"),
        (["nowhere.png"], "nowhere.png: there is no such file"),
        (["."], "image 0, ., is a folder"),
        ([""], "image 0, "),
        (["a\0b.png"], "null byte"),
    ],
)
@pytest.mark.parametrize("call", ["preprocess", "predict"])
def test_what_is_no_list_of_images_is_one_clear_error(model, call, images, words):
    with pytest.raises(jaxdino.UserError, match=words):
        getattr(model, call)(images)


@pytest.mark.parametrize("given", [{"topk": 0}, {"topk": True}, {"topk": 1.5}, {"batch_size": None}])
def test_numbers_are_checked(model, files, given):
    with pytest.raises(jaxdino.UserError, match=next(iter(given))):
        model.predict(files, **given)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (np.array([0, 4095]), "sixteen_bit is a ndarray: give a text"),
        (np.array(0.0), "sixteen_bit is a ndarray"),
        ((0, 4095), "sixteen_bit is a tuple"),
        (float("nan"), "sixteen_bit is a float"),
        (False, "sixteen_bit is a bool"),
        ("", "^sixteen_bit= is not known"),
        ("12", "^sixteen_bit=12 is not known"),
        ("9,3", "^sixteen_bit=9,3: give the value of black first"),
    ],
)
@pytest.mark.parametrize("call", ["preprocess", "predict"])
def test_what_is_no_range_is_one_clear_error(model, arrays, call, given, words):
    with pytest.raises(jaxdino.UserError, match=words):
        getattr(model, call)(arrays, sixteen_bit=given)


def test_a_tensor_is_no_range(model, arrays):
    tensor = pytest.importorskip("torch").tensor([0.0, 4095.0])
    with pytest.raises(jaxdino.UserError, match="sixteen_bit is a Tensor"):
        model.preprocess(arrays, sixteen_bit=tensor)


def test_a_model_without_a_head_says_so(files):
    with pytest.raises(jaxdino.UserError, match="no classification head"):
        jaxdino.load("dinov3_digits").predict(files)


def test_the_package_shows_its_names():
    assert set(jaxdino.__all__) == {"load", "Model", "History", "UserError", "AssumedWarning"} <= set(dir(jaxdino))
    names = {}
    exec("from jaxdino import *", names)
    assert names["load"] is jaxdino.load
    with pytest.raises(AttributeError, match="nearest: load"):
        jaxdino.laod  # noqa: B018
    module = sys.modules.pop("jaxdino.evaluate", None), jaxdino.__dict__.pop("evaluate", None)
    with pytest.raises(AttributeError, match=r"import jaxdino\.evaluate first"):
        jaxdino.evaluate  # noqa: B018
    if module[0]:
        sys.modules["jaxdino.evaluate"] = jaxdino.evaluate = module[0]


def test_images_that_are_not_read_as_they_are_warn_once(model):
    missing, drawn = np.full((32, 32), 0.5, np.float32), Image.new("RGBA", (32, 32))
    missing[0] = np.nan
    drawn.putalpha(Image.linear_gradient("L").resize((32, 32)))
    for call in (model.preprocess, model.predict):
        with pytest.warns(UserWarning) as caught:
            call([missing, drawn], sixteen_bit="0,1")
        lines = [str(each.message) for each in caught]
        assert len(lines) == 1 and lines[0].startswith("2 image(s) are not read as they are: image 0 (3.1% NaN")
        assert "image 1 (the picture is in its alpha channel" in lines[0]
