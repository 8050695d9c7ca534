import dataclasses
import json

import ml_collections
import numpy as np
import pytest
from PIL import Image

from jaxdino.core.errors import UserError
from jaxdino.data.bad_images import BadImage
from jaxdino.data.checks import open_rgb
from jaxdino.data.mask_reading import FileMask
from jaxdino.data.prompts import PromptConfig
from tests.data.pair_folders import MAX, listed, load, load_pairs, masks_folder, pairs, photo, save, with_ones


def test_one_prompt_for_all_masks_of_any_depth(tmp_path):
    deep = {"a": with_ones(300, 65535, dtype=np.uint16), "deep/b": with_ones(1), "c": with_ones(255)}
    masks_folder(tmp_path, deep)
    photo(tmp_path / "images" / "bare.png")
    photo(tmp_path / "images" / "none.png")
    save(tmp_path / "masks" / "none.png", with_ones())
    save(tmp_path / "masks" / "other.png", with_ones(1))
    source = load(tmp_path, {"prompt": "nucleus"})
    assert source.class_names == ("nucleus",)
    assert listed(source.split("train")) == [
        ("images/a.png", "nucleus", (10, 0)),
        ("images/c.png", "nucleus", (5, 0)),
        ("images/deep/b.png", "nucleus", (5, 0)),
    ]
    assert source.ignored == {"image without mask": 1, "mask without image": 1, "empty mask": 1}
    kept = load(tmp_path, {"prompt": "nucleus", "empty": "keep"}).split("train")
    assert listed(kept)[-1] == ("images/none.png", "nucleus", (0, 0)) and pairs(kept)[-1].prompt.present == ()


def test_whatever_shows_one_thing_may_be_of_any_kind(tmp_path):
    colours = np.zeros((8, 10, 3), np.uint8)
    colours[2, 2:7] = (0, 90, 0)
    kinds = {
        "1.png": with_ones(1).astype(bool),
        "2.gif": with_ones(255),
        "3.png": colours,
        "4.png": np.concatenate([colours, np.full((8, 10, 1), 255, np.uint8)], -1),
        "5.tif": with_ones(7, dtype=np.int32),
    }
    for name, mask in kinds.items():
        photo(tmp_path / "images" / f"{name[0]}.jpg")
        save(tmp_path / "masks" / name, mask)
    blocks = np.kron(with_ones(255), np.ones((12, 12), np.uint8))  # edges within JPEG's blocks
    photo(tmp_path / "images" / "6.jpg", blocks.shape)
    save(tmp_path / "masks" / "6.jpg", blocks, quality=60)
    found = [counts for _, _, counts in listed(load(tmp_path, {"prompt": "x"}).split("train"))]
    assert found == [(5, 0)] * 5 + [(720, 0)]


@pytest.mark.parametrize("file", ["classes.json", "classes.txt"])
@pytest.mark.parametrize("palette", [False, True])
def test_values_stand_for_prompts(tmp_path, file, palette):
    masks = {"a": with_ones(1, 2, 255), "b": with_ones(2, 7), "c": with_ones(7), "d": with_ones(3, 1)}
    masks_folder(tmp_path, masks, palette=palette)
    text = "cat\ndog\ncat\n" if file.endswith("txt") else json.dumps({"2": "dog", "1": "cat", "3": "cat"})
    (tmp_path / file).write_text(text)
    source = load(tmp_path)
    assert source.class_names == ("cat", "dog")
    assert listed(source.split("train")) == [
        ("images/a.png", "cat", (5, 5)),
        ("images/a.png", "dog", (5, 5)),
        ("images/b.png", "dog", (5, 0)),
        ("images/d.png", "cat", (10, 0)),
    ]
    assert [pair.prompt.present for pair in pairs(source.split("train"))] == [(0, 1), (0, 1), (1,), (0,)]
    assert source.ignored == {"mask without a named value": 1}


def test_sixteen_bit_values_and_a_named_255(tmp_path):
    masks_folder(tmp_path, {"a": with_ones(1000, 255, dtype=np.uint16)})
    (tmp_path / "classes.json").write_text(json.dumps({"0": "ground", "255": "sky", "1000": "sea"}))
    assert [row[1:] for row in listed(load(tmp_path).split("train"))] == [
        ("ground", (70, 0)),
        ("sky", (5, 0)),
        ("sea", (5, 0)),
    ]


def test_a_folder_for_each_prompt(tmp_path):
    for name in "ab":
        photo(tmp_path / "images" / f"{name}.jpg")
    photo(tmp_path / "images" / "c.jpg")
    save(tmp_path / "masks" / "red cell" / "a.png", with_ones(255))
    save(tmp_path / "masks" / "platelet" / "a.png", with_ones(255, 255))
    save(tmp_path / "masks" / "platelet" / "b.png", with_ones(9))
    source = load(tmp_path)
    assert listed(source.split("train")) == [
        ("images/a.jpg", "platelet", (10, 0)),
        ("images/a.jpg", "red cell", (5, 0)),
        ("images/b.jpg", "platelet", (5, 0)),
    ]
    assert source.ignored == {"image without mask": 1}
    save(tmp_path / "masks" / "c.png", with_ones(9))
    assert load(tmp_path).ignored == {"image without mask": 1, "mask outside the prompts' folders": 1}
    with pytest.raises(UserError, match=r"has a folder for each prompt \(platelet, red cell\): leave it None"):
        load(tmp_path, {"prompt": "cell"})


def test_a_prompt_for_each_file(tmp_path):
    masks_folder(tmp_path, {"a": with_ones(1), "b": with_ones(1), "c": with_ones(1), "d": None})
    (tmp_path / "prompts.json").write_text(json.dumps({"a": "left lung", "b": ["lung", "left lung"], "d": "heart"}))
    source = load(tmp_path)
    assert source.class_names == ("heart", "left lung", "lung")
    rows = [("a", "left lung"), ("b", "lung"), ("b", "left lung")]
    assert listed(source.split("train")) == [(f"images/{stem}.png", text, (5, 0)) for stem, text in rows]
    assert source.ignored == {"image that prompts.json does not name": 1, "image without mask": 1}
    unmasked = load(tmp_path, {"allow_unmasked": True}).split("train")
    assert listed(unmasked)[-1] == ("images/d.png", "heart", None) and pairs(unmasked)[-1].prompt.present == (0,)


def test_unmasked_images_stay_in_training(tmp_path):
    masks_folder(tmp_path, {f"{i}": with_ones(1) if i < 5 else None for i in range(10)})
    source = load(tmp_path, {"prompt": "x", "allow_unmasked": True}, val_ratio=0.4)
    assert [sum(pair.prompt.mask is None for pair in pairs(split)) for split in source.splits.values()] == [5, 0]
    assert {name: len(split) for name, split in source.splits.items()} == {"train": 8, "val": 2}


def test_a_mask_that_cannot_be_read_stays_to_be_named(tmp_path):
    masks_folder(tmp_path, {"a": with_ones(1), "b": with_ones(2), "c": with_ones(2)})
    (tmp_path / "masks" / "b.png").write_text("hello")
    for prompts in ({"prompt": "x"}, None):
        (tmp_path / "classes.txt").write_text("cat\ndog\n")
        split = load(tmp_path, prompts).split("train")
        assert [split.record_name(i) for i in range(len(split))] == [f"images/{name}.png" for name in "abc"]
        with pytest.raises(BadImage, match=r"its mask masks/b.png cannot be read: UnidentifiedImageError"):
            pairs(split)[1].prompt.read_mask(MAX)


@pytest.mark.parametrize(
    ("mask", "name", "message"),
    [
        (np.zeros((4, 4, 3), np.uint8) + np.array([1, 0, 0], np.uint8), "a.png", "has colours, not one value a pixel"),
        (with_ones(1), "a.jpg", "is a JPEG, which changes values: save masks as PNG"),
        (with_ones(1, dtype=np.float32), "a.tif", r"float pixels \(mode F\)"),
        (np.zeros((1100, 1000), np.uint8), "a.png", "more than max_pixels = 1048576"),
    ],
)
def test_masks_whose_values_cannot_be_told(tmp_path, mask, name, message):
    with pytest.raises(BadImage, match=message):
        FileMask(str(save(tmp_path / name, mask)), (1,))(MAX)


def voc_folder(root):
    for name, values in {"2007_1": (1, 15, 255), "a 2": (8,), "2007_3": (20, 1), "2007_4": (255,)}.items():
        photo(root / "JPEGImages" / f"{name}.jpg")
        save(root / "SegmentationClass" / f"{name}.png", with_ones(*values), palette=True)
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("2007_1\na 2\n2007_9\n")
    (lists / "val.txt").write_text("2007_3\n2007_4\n")
    return root


@pytest.mark.parametrize("file", ["classes.txt", "ImageSets/Segmentation/train.txt"])
def test_lists_that_are_no_text_are_named(tmp_path, file):
    (voc_folder(tmp_path) / file).write_bytes(b"cat\nd\xffg\n")
    with pytest.raises(UserError, match=rf"{file}:2: byte 0xff at column 2 is not UTF-8"):
        load(tmp_path, name="voc")


def test_names_of_a_list_count_once(tmp_path):
    file = voc_folder(tmp_path) / "ImageSets" / "Segmentation" / "train.txt"
    once = load(tmp_path, name="voc")
    file.write_text(file.read_text() + "2007_1\n" * 5)
    again = load(tmp_path, name="voc")
    assert listed(again.split("train")) == listed(once.split("train"))
    assert again.ignored == once.ignored | {"name listed again": 5}


def test_voc(tmp_path):
    source = load(voc_folder(tmp_path), name="voc")
    assert len(source.class_names) == 20 and source.class_names[0] == "aeroplane"
    assert listed(source.split("train")) == [
        ("JPEGImages/2007_1.jpg", "aeroplane", (5, 5)),
        ("JPEGImages/2007_1.jpg", "person", (5, 5)),
        ("JPEGImages/a 2.jpg", "cat", (5, 0)),
    ]
    assert [row[1] for row in listed(source.split("val"))] == ["aeroplane", "tv monitor"]
    assert source.ignored == {"name without mask or image": 1, "mask without any class": 1}
    lists = tmp_path / "ImageSets" / "Segmentation"
    (lists / "val.txt").rename(lists / "Validation.txt")
    (lists / "test.txt").write_text("2008_1\n")  # VOC's own, without masks
    renamed = load(tmp_path, name="voc")
    assert renamed.origins == {"val": "Validation"} and "list test.txt" in renamed.ignored
    assert load(tmp_path, name="voc", train_split="Validation", val_split="train").split("train").record_name(0) == (
        "JPEGImages/2007_3.jpg"
    )
    (lists / "Validation.txt").rename(lists / "val.txt")
    (tmp_path / "classes.txt").write_text("plane\n")
    own = load(tmp_path, name="voc")
    assert own.class_names == ("plane",) and len(own.split("train")) == 1
    (tmp_path / "ImageSets" / "Segmentation" / "val.txt").unlink()
    (tmp_path / "classes.txt").unlink()
    assert {n: len(pairs(s)) for n, s in load(tmp_path, name="voc", val_ratio=0.4).splits.items()} in (
        {"train": 2, "val": 1},
        {"train": 1, "val": 2},
    )


def test_layouts_that_lack_something(tmp_path):
    with pytest.raises(UserError, match=r"needs a folder of images: --config.data.root=DIR"):
        load_pairs({"name": "masks"}, {"prompt": "x"})
    photo(tmp_path / "images" / "a.png")
    with pytest.raises(UserError, match=r"has no folder masks/; found: images"):
        load(tmp_path, {"prompt": "x"})
    save(tmp_path / "masks" / "a_mask.png", with_ones(1))
    with pytest.raises(UserError, match=r"no image of .* has a mask: a.png belongs to a\.\* .*; nearest: a_mask"):
        load(tmp_path, {"prompt": "x"})
    save(tmp_path / "masks" / "a.png", with_ones(1))
    with pytest.raises(UserError, match=r"nothing says what the masks of .* show: set prompts.prompt"):
        load(tmp_path)
    save(tmp_path / "masks" / "a.tif", with_ones(1))
    with pytest.raises(UserError, match=r"two files of one name in .*masks: a.png and a.tif|a.tif and a.png"):
        load(tmp_path, {"prompt": "x"})
    with pytest.raises(UserError, match=r"has no folder JPEGImages; found: images, masks"):
        load(tmp_path, name="voc")
    voc_folder(tmp_path / "VOCdevkit" / "VOC2012")
    with pytest.raises(UserError, match=r"there is one in .*VOC2012: set the root to it"):
        load(tmp_path, name="voc")
    with pytest.raises(UserError, match=r"val_split is 'vall', which is not in .*Segmentation; found: train, val"):
        load(tmp_path / "VOCdevkit" / "VOC2012", name="voc", val_split="vall")
    (tmp_path / "s" / "val" / "images").mkdir(parents=True)
    with pytest.raises(UserError, match="no train folder; found: val"):
        load(tmp_path / "s", {"prompt": "x"})


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        (
            "classes.json",
            '{"4": "cat", "5": "dog"}',
            "names the values 4, 5, but the masks, such as .*a.png, have 0, 1, 2",
        ),
        ("classes.json", '{"cat": 1}', 'must be {"1": "cat"'),
        ("classes.json", '["cat"]', 'must be {"1": "cat"'),
        ("classes.json", '{"1": " "}', "has the prompt ' ', which is empty"),
        ("classes.json", '{"1": 4}', "has the prompt 4, which is empty"),
        ("classes.txt", "\n\n", "names no class"),
        ("prompts.json", '{"a": ""}', "'a', has the prompt '', which is empty"),
        ("prompts.json", '{"b": "cat"}', "names none of the images; nearest: a"),
        ("prompts.json", '["cat"]', 'must be {"image": "prompt"}'),
        ("prompts.json", '{"a": 3}', 'must be {"image": "prompt"}'),
        ("prompts.json", "{", "not valid JSON"),
    ],
)
def test_files_of_words_that_are_wrong(tmp_path, file, text, message):
    masks_folder(tmp_path, {"a": with_ones(1, 2)})
    (tmp_path / file).write_text(text)
    with pytest.raises(UserError, match=message):
        load(tmp_path)


def test_sizes_that_differ_are_left_to_reading_unless_most_do(tmp_path):
    masks_folder(tmp_path, {"a": with_ones(1), "b": with_ones(1), "c": with_ones(1, size=(10, 8))})
    assert len(load(tmp_path, {"prompt": "x"}).split("train")) == 3
    masks_folder(tmp_path, {"b": with_ones(1, size=(9, 10))})
    with pytest.raises(UserError, match=r"2 of 3 masks differ in size from their images, such as .*b.png for .*b.png"):
        load(tmp_path, {"prompt": "x"})


def test_images_that_turn_upright_fit_their_masks(tmp_path):
    masks_folder(tmp_path, {"a": with_ones(1)})
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "images" / "a.png").unlink()
    save(tmp_path / "images" / "a.jpg", np.zeros((10, 8, 3), np.uint8), exif=exif)
    assert len(load(tmp_path, {"prompt": "x"}).split("train")) == 1


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tiff"])
def test_a_mask_is_turned_upright_as_its_image_is(tmp_path, suffix, orientation):
    """Both are written as the camera held them, with the same tag."""
    pixels = np.zeros((8, 10, 3), np.uint8)
    pixels[1:3, 6:9] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    how = {"quality": 100} if suffix == "jpg" else {"lossless": True} if suffix == "webp" else {}
    image = save(tmp_path / "images" / f"a.{suffix}", pixels, exif=exif, **how)
    save(tmp_path / "masks" / "a.png", pixels[..., 0], exif=exif)
    mask = load(tmp_path, {"prompt": "x"}).split("train").fields["prompts"][0][0].read_mask(MAX)
    upright = np.asarray(open_rgb(str(image), MAX))[..., 0]
    assert upright.shape == ((10, 8) if orientation >= 5 else (8, 10))
    assert np.array_equal(mask == 1, upright > 127)
    save(tmp_path / "masks" / "a.png", pixels[..., 0])  # without the tag
    if orientation >= 5:
        with pytest.raises(UserError, match="1 of 1 masks differ in size from their images"):
            load(tmp_path, {"prompt": "x"})


def test_a_split_without_pairs(tmp_path):
    masks_folder(tmp_path / "train", {"a": with_ones(1)})
    masks_folder(tmp_path / "val", {"b": with_ones()})
    with pytest.raises(
        UserError, match=r"the val split .* has 1 images and no pair .*passed over in all: 1 empty mask"
    ):
        load(tmp_path, {"prompt": "x"})


@pytest.mark.parametrize(
    ("cfg", "prompts", "message"),
    [
        ({"name": "mask"}, {}, "unknown source of images and masks 'mask'; nearest: masks"),
        ({"name": "digits"}, {}, "'digits'; nearest"),
        (
            {"name": "shapes"},
            {"prompt": "circle"},
            "prompts.prompt=circle is for data.name=masks",
        ),
        ({"name": "shapes"}, {"annotations": "a.json"}, "prompts.annotations=a.json is for data.name=coco"),
        ({}, {"prompt": " "}, "prompts.prompt has the prompt ' ', which is empty"),
        ({}, {"template": "{}"}, "prompts has no field 'template'; nearest: templates"),
        ({}, {"templates": ("a photo",)}, "the prompt template 'a photo' needs one {}"),
        ({}, {"templates": ()}, "templates is empty"),
        ({}, {"negatives": 1.5}, "prompts.negatives is 1.5; it is a chance"),
        ({}, {"spatial_prob": -1}, "prompts.spatial_prob is -1"),
        ({}, {"points": -1}, "prompts.points is -1"),
        ({}, {"empty": "drop"}, "prompts.empty is 'drop'; it is one of: skip, keep"),
    ],
)
def test_settings_that_are_wrong(cfg, prompts, message):
    with pytest.raises(UserError, match=message):
        load_pairs(cfg, prompts)


def test_prompts_are_data():
    config = ml_collections.ConfigDict(dataclasses.asdict(PromptConfig(points=2, boxes=True)))
    assert PromptConfig.of(config) == PromptConfig(points=2, boxes=True)
    assert PromptConfig.of(None) == PromptConfig() and PromptConfig.of(config).slots == 4
    assert PromptConfig(templates="a {}").templates == ("a {}",)
