"""Preprocessing from the files beside the weights, held against transformers' processors and timm's transforms."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convert.preprocess import from_json, from_timm, to_json, to_timm, unlike
from convert.preprocess_fields import ENDINGS, TIMM, TRANSFORMERS
from convert.processor_files import processor, unread
from convert.store import Card
from convert.tables.clip.open_clip import settled
from jaxdino.core.errors import UserError
from jaxdino.data.crops import eval_crop
from jaxdino.models.registry import MODELS
from jaxdino.models.spec import Preprocess

PRETRAINED = dict(mean=[0.5] * 3, std=[0.25] * 3, input_size=[3, 160, 192], crop_pct=0.95, interpolation="bilinear")
SHAPES = [(200, 300), (301, 187), (224, 224), (97, 410)]
SQUARE = {"height": 64, "width": 64}
FILES = {  # name -> (transformers' class, its settings)
    "squash": ("ViTImageProcessor", dict(size=SQUARE)),
    "no normalisation": ("ViTImageProcessor", dict(size=SQUARE, do_normalize=False)),
    "other factor": ("ViTImageProcessor", dict(size=SQUARE, rescale_factor=1 / 127.5)),
    "no rescaling": (
        "ViTImageProcessor",
        dict(size=SQUARE, do_rescale=False, image_mean=[120] * 3, image_std=[60] * 3),
    ),
    "lanczos": ("ViTImageProcessor", dict(size=SQUARE, resample=1)),
    "wide squash": ("ViTImageProcessor", dict(size={"height": 48, "width": 96}, resample=3)),
    "squash and crop": ("DeiTImageProcessor", dict(size={"height": 73, "width": 73}, crop_size=64)),
    "crop": ("BitImageProcessor", dict(size={"shortest_edge": 73}, crop_size=SQUARE)),
    "crop, odd margin": ("BitImageProcessor", dict(size={"shortest_edge": 71}, crop_size=SQUARE)),
    "crop of all": ("CLIPImageProcessor", dict(size={"shortest_edge": 64}, crop_size=SQUARE)),
    "no resize": ("BitImageProcessor", dict(do_resize=False, crop_size=SQUARE)),
    "padded": ("BitImageProcessor", dict(do_resize=False, crop_size={"height": 230, "width": 230})),
    "ConvNext, small": ("ConvNextImageProcessor", dict(size={"shortest_edge": 64}, crop_pct=0.875)),
    "ConvNext, large": ("ConvNextImageProcessor", dict(size={"shortest_edge": 384})),
}


def picture(height: int, width: int) -> Image.Image:
    """A smooth gradient with sharp squares in it."""
    y, x = np.indices((height, width))
    squares = ((x + y) // 20 % 2) * 200
    return Image.fromarray(np.stack([x * 255 / width, y * 255 / height, squares], -1).astype(np.uint8))


def prepared(how: Preprocess, image: Image.Image) -> np.ndarray:
    """Our normalised pixels (C, H, W)."""
    pixels = np.asarray(eval_crop(image, how.size, how.resize), np.float32) / 255
    return ((pixels - np.array(how.mean, np.float32)) / np.array(how.std, np.float32)).transpose(2, 0, 1)


@pytest.mark.parametrize("backend", ["torchvision", "pil"])
@pytest.mark.parametrize("name", FILES)
def test_pixels_are_those_of_the_processor(name, backend):
    """torch's bicubic filter keeps what Pillow's clips between its two passes: a few levels at sharp edges."""
    if (name, backend) == ("padded", "pil"):
        pytest.skip("transformers' two processors put an odd padding on different sides; ours is the default one's")
    import transformers

    word, settings = FILES[name]
    theirs = getattr(transformers, word if backend == "torchvision" else word + "Pil")(**settings)
    written = json.loads(theirs.to_json_string()) | {"image_processor_type": word}
    how, notes = from_json(Preprocess(), written)
    assert not notes
    for shape in SHAPES:
        expected = np.asarray(theirs(images=picture(*shape), return_tensors="np")["pixel_values"][0])
        found = prepared(how, picture(*shape))
        level = 1 / (255 * min(how.std))
        wrong = np.abs(found - expected) / level
        assert found.shape == expected.shape
        assert wrong.max() < (1e-3 if backend == "pil" else 3.001) and wrong.mean() < 0.2, (shape, wrong.max())


@pytest.mark.parametrize("word", ["ViT", "Bit", "CLIP", "ConvNext", "DINOv3ViT", "DeiT"])
def test_defaults_are_those_of_the_class(word):
    """A file may hold nothing but the name of its class."""
    import transformers

    theirs = json.loads(getattr(transformers, f"{word}ImageProcessor")().to_json_string())
    short = {"image_processor_type": f"{word}ImageProcessorFast"}
    assert from_json(Preprocess(), short) == from_json(Preprocess(), theirs | short)


@pytest.mark.parametrize("mode", ["center", "squash", "border"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "nearest", "lanczos", "box", "hamming"])
@pytest.mark.parametrize(("size", "pct"), [((64, 64), 0.9), ((64, 64), 0.95), ((48, 96), 1.0), ((63, 63), 0.875)])
def test_pixels_are_those_of_timms_transform(mode, interpolation, size, pct):
    from timm.data import create_transform

    written = PRETRAINED | dict(input_size=[3, *size], crop_pct=pct, crop_mode=mode, interpolation=interpolation)
    how, notes = from_timm({"pretrained_cfg": written})
    assert not notes
    theirs = create_transform(
        input_size=tuple(written["input_size"]), **{k: v for k, v in written.items() if k != "input_size"}
    )
    for shape in SHAPES:
        found, expected = prepared(how, picture(*shape)), theirs(picture(*shape)).numpy()
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() < 1e-5, shape


def test_timms_config():
    assert from_timm({"pretrained_cfg": PRETRAINED}) == (
        Preprocess((0.5,) * 3, (0.25,) * 3, (160, 192), 0.95, "bilinear"),
        [],
    )
    random, notes = from_timm({"pretrained_cfg": PRETRAINED | {"interpolation": "random"}})
    assert random.interpolation == "bicubic" and "for training" in notes[0]
    assert from_timm({}) == (None, []) and from_timm({"pretrained_cfg": {"num_classes": 3}}) == (None, [])
    flat, notes = from_timm({"architecture": "resnet18", "num_classes": 3} | PRETRAINED)  # timm 0.8
    assert flat.size == (160, 192) and not notes
    with pytest.raises(UserError, match="crop_mode='squish'; nearest: squash"):
        from_timm({"pretrained_cfg": PRETRAINED | {"crop_mode": "squish"}})


@pytest.mark.parametrize(("side", "mode", "crop_pct"), [(224, "center", 0.875), (384, "squash", 1.0)])
def test_a_convnext_processor_crops_below_384_pixels(side, mode, crop_pct):
    """As microsoft/resnet-50 has it."""
    given = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": side, "crop_pct": 0.875, "resample": 3}
    how, _ = from_json(Preprocess(), given)
    assert (how.crop_pct, how.crop_mode, how.size) == (crop_pct, mode, (side, side))


@pytest.mark.parametrize(
    ("given", "mode"),
    [
        ({"feature_extractor_type": "ViTFeatureExtractor", "size": 96}, "squash"),
        ({"feature_extractor_type": "CLIPFeatureExtractor", "size": 96, "crop_size": 96}, "center"),
        ({"size": 96}, "squash"),
        ({"size": 96, "crop_size": 96}, "center"),
        ({"size": 96, "default_to_square": False}, "center"),
        ({"size": [96, 96]}, "squash"),
        (
            {"feature_extractor_type": "BeitFeatureExtractor", "size": 96, "crop_size": 96, "do_center_crop": False},
            "squash",
        ),
    ],
)
def test_a_number_is_both_sides_or_the_shorter(given, mode):
    how, _ = from_json(Preprocess(), given)
    assert (how.size, how.crop_mode) == ((96, 96), mode)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"do_sharpen": True}, "do_sharpen=True is not known"),
        ({"image_processor_type": "SegformerImageProcessor", "size": 96}, "SegformerImageProcessor, whose defaults"),
        ({"do_pad": True}, "do_pad=True: images are not padded"),
        ({"image_mean": [124, 116, 104], "image_std": [58, 57, 57]}, "brighter than white"),
        ({"size": {"shortest_edge": 800, "longest_edge": 1333}}, "longest_edge was not followed"),
        ({"size": {"shortest_edge": 64}}, "without a crop"),
        ({"size": SQUARE, "crop_size": SQUARE, "do_center_crop": False}, "crop_size was not followed"),
        ({"do_resize": False}, "do_resize=false, so images keep their size there"),
        ({"size": {"longest_edge": 1024}}, "the shorter side becomes 1024"),
        ({"size": {"shortest_edge": 64}, "crop_size": {"height": 48, "width": 64}}, "resized to cover the crop"),
    ],
)
def test_what_is_not_followed_is_named(given, says):
    assert any(says in note for note in from_json(Preprocess(), given)[1])


@pytest.mark.parametrize("name", [name for name, field in TIMM.items() if field.action == "named"])
def test_what_is_not_followed_of_timm_is_named(name):
    notes = from_timm({"pretrained_cfg": PRETRAINED | {name: 0.5}})[1]
    assert len(notes) == 1 and f"{name}=0.5" in notes[0]
    assert "'colour_jitter' is not known" in from_timm({"pretrained_cfg": PRETRAINED | {"colour_jitter": 1}})[1][
        0
    ].replace("field colour_jitter=1", "'colour_jitter'")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"do_flip_channel_order": True}, "blue, green, red"),
        ({"resample": 9}, r"resample=9; known: 0 \(nearest\)"),
        ({"rescale_factor": 0}, "must be above 0"),
        ({"size": {"max_height": 3}}, "are known"),
        ({"size": "224"}, "size='224': a whole number"),
        ({"size": 224.0}, "size=224.0: a whole number"),
        ({"size": {"height": 80, "width": 64}, "crop_size": SQUARE, "do_center_crop": True}, "the same proportions"),
    ],
)
def test_what_cannot_be_followed_is_refused(given, says):
    with pytest.raises(UserError, match=says):
        from_json(Preprocess(), given)


@pytest.mark.parametrize(
    "how",
    [
        Preprocess((0.1,) * 3, (0.2,) * 3, (96, 96), 0.75, "bilinear", crop_rounding="down"),
        Preprocess(size=(64, 96), crop_pct=1.0, interpolation="lanczos", crop_mode="squash", crop_rounding="down"),
        Preprocess(size=(64, 64), crop_pct=1.0, crop_mode="none", crop_rounding="down"),
        Preprocess(size=(224, 448), interpolation="bilinear", crop_rounding="down"),
    ],
    ids=lambda how: how.crop_mode,
)
def test_there_and_back(how):
    assert from_json(Preprocess(), to_json(how))[0] == how
    assert bool(unlike(how, ["preprocessor_config.json"])) == (how.size == (224, 448))
    if how.crop_mode != "none":
        card = Card(MODELS["resnet18"].__class__("x", "resnet", MODELS["resnet18"].config, how))
        back, _ = from_timm({"pretrained_cfg": to_timm(card, "conv1", "fc")})
        assert back == Preprocess(how.mean, how.std, how.size, how.crop_pct, how.interpolation, how.crop_mode)


@pytest.mark.parametrize("pct", [0.9, 0.95, 0.875, 0.965])
def test_the_exported_processor_resizes_as_ours_does(pct):
    """timm's models have such shares: 224 / 0.9 is 248.9, which everyone rounds down."""
    transformers = pytest.importorskip("transformers")
    how = Preprocess(crop_pct=pct, crop_rounding="down")
    theirs = transformers.BitImageProcessorPil(**to_json(how))
    expected = np.asarray(theirs(images=picture(300, 300), return_tensors="np")["pixel_values"][0])
    assert np.abs(prepared(how, picture(300, 300)) - expected).max() < 1e-5


def test_what_an_export_cannot_say_is_said():
    assert "sixteen_bit=0,4095" in unlike(Preprocess(sixteen_bit="0,4095"), ["model.pth"])[0]
    assert "no crop_mode 'border'" in unlike(Preprocess(crop_mode="border"), ["preprocessor_config.json"])[0]
    assert "differently from ours" in unlike(Preprocess(size=(64, 96)), ["preprocessor_config.json"])[0]
    assert "timm has no crop_mode 'none'" in unlike(Preprocess(crop_mode="none"), ["config.json"])[0]


def test_which_file_counts(tmp_path):
    one, other = {"size": 64, "resample": 3}, {"size": 96, "resample": 3}
    assert processor(one, None) == (one, [])
    assert processor(one, {"processor_class": "CLIPProcessor"}) == (one, [])
    assert processor(None, {"image_processor": other}) == (other, [])
    assert processor({"feature_extractor": other}, None) == (other, [])
    found, notes = processor(one, {"image_processor": other})
    assert found == other and "differ in size (96 and 64)" in notes[0]
    assert unread(tmp_path) == []
    (tmp_path / "config.json").write_text("{}")
    assert "config.json in" in unread(tmp_path)[0] and "give the folder" in unread(tmp_path)[0]


def test_every_field_is_in_the_docs():
    """docs/preprocessing.md lists each field and what is done with it, in the words of the code."""
    page = (Path(__file__).parents[2] / "docs" / "preprocessing.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| (.+?) \|$", page, re.MULTILINE)
    assert rows == [(name, *field) for fields in (TRANSFORMERS, TIMM) for name, field in fields.items()]


def test_the_processors_classes_end_as_we_know():
    import transformers

    assert all(hasattr(transformers, f"ViT{end}") for end in ENDINGS if end != "FeatureExtractor")


def test_open_clips_config():
    config = MODELS["clip_vitb16"].config
    model = {"embed_dim": 512, "vision_cfg": {}, "text_cfg": {}}

    def read(**given):
        return settled(config, {"model_cfg": model, "preprocess_cfg": {"mean": [0.5] * 3, **given}})[1]

    assert (read().crop_mode, read().interpolation, read().mean) == ("center", "bicubic", (0.5,) * 3)
    assert read(resize_mode="squash", size=[192, 224], interpolation="bilinear") == Preprocess(
        (0.5,) * 3, read().std, (192, 224), 1.0, "bilinear", "squash"
    )
    assert read(interpolation="random").interpolation == "bicubic"
    for given, says in (({"resize_mode": "longest"}, "supported: shortest, squash"), ({"sharpen": 1}, "not known")):
        with pytest.raises(UserError, match=says):
            read(**given)
