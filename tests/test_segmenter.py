"""The segmenter's Python face: what was trained is what is computed, at the image's own size; mistakes are named."""

import re
from pathlib import Path

import jax
import numpy as np
import pytest
import torch
from PIL import Image

import jaxdino
from jaxdino.api.segmenter import Segmenter
from jaxdino.core.errors import UserError
from jaxdino.core.params import bind
from jaxdino.models.lora import leaves
from jaxdino.objectives.segment import predict
from tests import tiny_segmenter
from tests.tiny_segmenter import PROMPTS

ROOT = Path(__file__).parents[1]
SOURCE = {"templates": ["a photo of a {}", "{}"], "num_points": 3}


def picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)


def resized(image: np.ndarray, height: int, width: int) -> np.ndarray:
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))


class Saved:
    """The model as it was saved, adapters beside their kernels, called by its parts."""

    def __init__(self, folder, **source):
        self.flat, self.folder = tiny_segmenter.save(folder, source=source), folder
        adapters = {"dino_lora": tiny_segmenter.DINO, "decoder_lora": tiny_segmenter.DECODER}
        self.spec = tiny_segmenter.spec(**adapters)
        self.skeleton = self.spec.skeleton()
        self.run = jax.jit(lambda flat, part, text: self._low(bind(self.skeleton, flat).backbone, part, text))
        self.predict = jax.jit(lambda flat, part, text: self._predict(bind(self.skeleton, flat).backbone, part, text))
        self.encode = jax.jit(lambda flat, ids: bind(self.skeleton, flat).backbone.encode_text(ids))

    def _low(self, net, part, text):
        return net.masks(net.tokens(part["image"]), text, part.get("points"), part.get("labels"))

    def _predict(self, net, part, text):
        return predict(net, net.tokens(part["image"]), text, part)

    def pixels(self, image: np.ndarray) -> np.ndarray:
        mean, std = (np.asarray(v, np.float32) for v in (self.spec.preprocess.mean, self.spec.preprocess.std))
        return ((image / np.float32(255) - mean) / std)[None]

    def masks(self, image, text, size, **spatial):
        """image (H, W, 3) in whole patches, text (P, T) -> logits (P, *size) by torch's interpolate, and IoU (P,)."""
        low, iou = self.run(self.flat, {"image": self.pixels(image)} | spatial, text[None])
        large = torch.nn.functional.interpolate(torch.from_numpy(np.array(low[0])), size, mode="bilinear")
        return large[:, 0].numpy(), np.asarray(iou[0, :, 0])


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return Saved(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def model(saved):
    return jaxdino.load(saved.folder)


@pytest.fixture(scope="module")
def trained_with_points(tmp_path_factory):
    return Saved(tmp_path_factory.mktemp("points"), **SOURCE)


def test_adapters_are_merged_and_nothing_changes(saved, model):
    assert isinstance(model, Segmenter) and model.class_names == PROMPTS
    assert leaves(saved.flat) and not leaves(model.flat)
    assert model.card.spec.skeleton().entries == model.skeleton.entries and model.card.spec.config.dino_lora is None
    image = picture(32, 32)
    found = model.segment(image, PROMPTS)
    logits, iou = saved.masks(image, model.encode_prompts(PROMPTS), (32, 32))
    np.testing.assert_allclose(found.logits, logits, atol=1e-5 * np.abs(logits).max())
    np.testing.assert_allclose(found.scores, iou, atol=1e-5)
    np.testing.assert_array_equal(found.masks, found.logits > 0)
    assert found.logits.dtype == np.float32 and 0 < found.masks.mean() < 1
    plain = dict(saved.flat)
    for path in leaves(plain):
        plain[path] = np.zeros_like(plain[path])
    without, _ = saved.run(plain, {"image": saved.pixels(image)}, model.encode_prompts(PROMPTS)[None])
    with_them, _ = saved.run(saved.flat, {"image": saved.pixels(image)}, model.encode_prompts(PROMPTS)[None])
    assert np.abs(without - with_them).max() > 1e-3 * np.abs(with_them).max()


def test_an_image_of_the_trained_size_gets_what_training_sees(saved, model):
    image = picture(32, 32)
    text = model.encode_prompts(PROMPTS)
    part = {"image": saved.pixels(image), "label": np.zeros((1, len(PROMPTS)), np.int32)}
    (logits,), (iou,) = saved.predict(saved.flat, part, text)
    found = model.segment(Image.fromarray(image), PROMPTS)
    np.testing.assert_allclose(found.logits, logits, atol=1e-5 * np.abs(logits).max())
    np.testing.assert_allclose(found.scores, iou, atol=1e-5)


def test_points_and_boxes_are_pixels_of_the_image(saved, model):
    image = picture(64, 90)  # seen as 32 x 44: whole patches
    points, box = [[10, 20], [80, 60]], [5, 8, 88, 40]
    found = model.segment(image, PROMPTS, points=points, point_labels=[1, 0], boxes=box)
    places = (np.array([*points, box[:2], box[2:]]) + 0.5) * [44 / 90, 0.5] - 0.5
    spatial = {
        "points": np.broadcast_to(places.astype(np.float32), (1, 2, 4, 2)),
        "labels": np.broadcast_to(np.array([1, 0, 2, 3], np.int32), (1, 2, 4)),
    }
    logits, iou = saved.masks(resized(image, 32, 44), model.encode_prompts(PROMPTS), (64, 90), **spatial)
    assert found.logits.shape == (2, 64, 90)
    np.testing.assert_allclose(found.logits, logits, atol=1e-5 * np.abs(logits).max())
    np.testing.assert_allclose(found.scores, iou, atol=1e-5)
    assert np.abs(found.logits - model.segment(image, PROMPTS).logits).max() > 1e-2
    each = model.segment(image, PROMPTS, points=[points, points], point_labels=[[1, 0]] * 2, boxes=[box, box])
    np.testing.assert_array_equal(each.logits, found.logits)


def test_templates_and_places_for_points_are_those_of_training(trained_with_points):
    saved, model = trained_with_points, jaxdino.load(trained_with_points.folder)
    ids = np.stack([model._ids(prompt) for prompt in PROMPTS])
    assert ids.shape == (2, 2, 77) and ids[0, 1, 1] == ids[0, 0, 5]  # "red" alone, and after "a photo of a"
    mean = np.mean([saved.encode(saved.flat, ids[:, t]) for t in range(2)], axis=0)
    text = mean / np.linalg.norm(mean, axis=-1, keepdims=True)
    np.testing.assert_allclose(model.encode_prompts(PROMPTS), text, atol=1e-6)
    image = picture(32, 32)
    nothing = {"points": np.zeros((1, 2, 3, 2), np.float32), "labels": np.full((1, 2, 3), -1, np.int32)}
    logits, _ = saved.masks(image, text, (32, 32), **nothing)
    np.testing.assert_allclose(model.segment(image, PROMPTS).logits, logits, atol=1e-5 * np.abs(logits).max())
    one = {"points": nothing["points"].copy(), "labels": nothing["labels"].copy()}
    one["points"][:, :, 0], one["labels"][:, :, 0] = (5, 6), 1
    logits, _ = saved.masks(image, text, (32, 32), **one)
    found = model.segment(image, PROMPTS, points=[[5, 6]], point_labels=[1])
    np.testing.assert_allclose(found.logits, logits, atol=1e-5 * np.abs(logits).max())


def test_prompts_do_not_see_each_other_and_are_encoded_once(model, monkeypatch):
    image = picture(32, 32)
    both = model.segment(image, PROMPTS)
    monkeypatch.setattr(model, "_text", None)  # all features are known by now
    for n, prompt in enumerate(PROMPTS):
        alone = model.segment(image, [prompt])
        np.testing.assert_allclose(alone.logits[0], both.logits[n], atol=1e-5 * np.abs(both.logits).max())
    assert np.abs(both.logits[0] - both.logits[1]).max() > 1e-3


def test_files_pictures_and_pixels_are_the_same(model, tmp_path):
    image = picture(40, 33)
    Image.fromarray(image).save(tmp_path / "a.png")
    wanted = model.segment(image, ["red circle"]).logits
    assert wanted.shape == (1, 40, 33)
    for given in (Image.fromarray(image), jax.numpy.asarray(image), tmp_path / "a.png", str(tmp_path / "a.png")):
        np.testing.assert_array_equal(model.segment(given, ["red circle"]).logits, wanted)
    grey = model.segment(image[..., 0], ["red circle"]).logits
    np.testing.assert_array_equal(grey, model.segment(np.stack([image[..., 0]] * 3, -1), ["red circle"]).logits)


def test_the_range_of_float_pixels_is_chosen_or_said(model):
    image = picture(32, 32)
    wanted = model.segment(image, ["red circle"]).logits
    found = model.segment(image / np.float32(255), ["red circle"], sixteen_bit="0,1").logits
    np.testing.assert_allclose(found, wanted, atol=1e-5 * np.abs(wanted).max())
    with pytest.warns(UserWarning, match="read as 0 to 1; sixteen_bit='0,1' says so"):
        model.segment(image / np.float32(255), ["red circle"])


def test_the_threshold_is_of_the_logits(model):
    image = picture(32, 32)
    level = float(np.median(model.segment(image, ["red circle"]).logits))
    found = model.segment(image, ["red circle"], threshold=level)
    np.testing.assert_array_equal(found.masks, found.logits > level)
    assert 0.4 < found.masks.mean() < 0.6


def test_half_precision_is_close(saved, model):
    half, image = jaxdino.load(saved.folder, dtype="bfloat16"), picture(32, 32)
    low, full = half.segment(image, PROMPTS).logits, model.segment(image, PROMPTS).logits
    assert low.dtype == np.float32 and 0 < np.abs(low - full).max() < 0.1 * np.abs(full).max()


def test_called_on_images_it_gives_tokens(model):
    out = model(picture(32, 40)[None])
    assert out.patches.shape == (1, 8, 10, 16) and out.pooled.shape == (1, 16)


IMAGE = picture(32, 48)
MISTAKES = {
    "a list with at least one text": lambda m: m.segment(IMAGE, "red circle"),
    "prompts are a list": lambda m: m.segment(IMAGE, []),
    "the prompt '  ' is not a text": lambda m: m.segment(IMAGE, ["red circle", "  "]),
    "the prompt 3 is not a text": lambda m: m.segment(IMAGE, [3]),
    "the prompt ['x'] is not a text": lambda m: m.segment(IMAGE, [["x"]]),
    "tokens long with its two marks; the text encoder takes 77": lambda m: m.segment(IMAGE, ["cat " * 76]),
    "points are given without labels": lambda m: m.segment(IMAGE, PROMPTS, points=[[1, 2]]),
    "labels are given without points": lambda m: m.segment(IMAGE, PROMPTS, point_labels=[1]),
    "x=49, y=2, outside image 0": lambda m: m.segment(IMAGE, PROMPTS, points=[[49, 2]], point_labels=[1]),
    "ends before it begins": lambda m: m.segment(IMAGE, PROMPTS, boxes=[9, 9, 3, 20]),
    "x2=3, y2=20, has no area": lambda m: m.segment(IMAGE, PROMPTS, boxes=[3, 9, 3, 20]),
    "lies outside the image": lambda m: m.segment(IMAGE, PROMPTS, boxes=[3, 9, 30, 33]),
    "boxes are for 3 prompts, and there are 2": lambda m: m.segment(IMAGE, PROMPTS, boxes=[[3, 9, 30, 30]] * 3),
    "the image is None": lambda m: m.segment(None, PROMPTS),
    "the image is a int": lambda m: m.segment(3, PROMPTS),
    "the image is a list": lambda m: m.segment(["a.png"], PROMPTS),
    "the image is an array of uint8 and shape (1, 32, 48, 3)": lambda m: m.segment(IMAGE[None], PROMPTS),
    "the image is an array of bool": lambda m: m.segment(IMAGE > 9, PROMPTS),
    "the image, ., is a folder": lambda m: m.segment(".", PROMPTS),
    "np.asarray(tensor.permute(1, 2, 0))": lambda m: m.segment(torch.zeros(3, 8, 8), PROMPTS),
    "points are not an array of numbers": lambda m: m.segment(IMAGE, PROMPTS, points="abc", point_labels=[1]),
    "boxes are not an array of numbers": lambda m: m.segment(IMAGE, PROMPTS, boxes=torch.ones(4, requires_grad=True)),
    "threshold='0.5'": lambda m: m.segment(IMAGE, PROMPTS, threshold="0.5"),
    "sixteen_bit is a int: give a text, such as 'full'": lambda m: m.segment(IMAGE, PROMPTS, sixteen_bit=7),
    "threshold=None": lambda m: m.segment(IMAGE, PROMPTS, threshold=None),
    "nowhere.png: there is no such file": lambda m: m.segment("nowhere.png", PROMPTS),
    "sixteen_bit": lambda m: m.segment(np.linspace(-3, 700, 64).reshape(8, 8), PROMPTS),
    "90 wide and 4 high, more than 8 times": lambda m: m.segment(picture(4, 90), PROMPTS),
    "threshold=nan": lambda m: m.segment(IMAGE, PROMPTS, threshold=float("nan")),
    "no intermediate layers": lambda m: m.intermediate_layers(IMAGE[None]),
    "it predicts masks": lambda m: m.predict([IMAGE]),
}


@pytest.mark.parametrize("words", MISTAKES)
def test_mistakes_are_named(model, words):
    with pytest.raises(UserError, match=re.escape(words)):
        MISTAKES[words](model)


def test_the_example_of_the_page_runs(saved, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "shapes").symlink_to(saved.folder)
    Image.fromarray(picture(64, 96)).save("a.png")
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "segmentation.md").read_text(), flags=re.DOTALL)
    names: dict = {}
    exec(compile(block, "docs/segmentation.md", "exec"), names)
    assert names["found"].masks.shape == (1, 64, 96)
