"""Table of preprocessing fields and how each is handled; errors and docs are generated from it.

Sources: huggingface/transformers image_processing_utils.py, image_processing_backends.py and
models/*/image_processing_*.py; huggingface/pytorch-image-models timm/models/_pretrained.py and timm/data/config.py.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from jaxdino.models.published.clip import CLIP
from jaxdino.models.spec import IMAGENET, INCEPTION

FOLLOWED, IGNORED, NAMED, REFUSED = "followed", "ignored", "named", "refused"
"""Followed: part of the model's preprocessing. Ignored: it does not change pixels. Named: not followed, with a note.
Refused: it would change the pixels in a way that we do not support."""


class Field(NamedTuple):
    """How a field is handled.

    Attributes:
      action: one of the four words above; NAMED and REFUSED apply to values other than `NONE`.
      why: what the field becomes, or the reason.
    """

    action: str
    why: str


NONE = (None, False, {}, [], "")

TRANSFORMERS: dict[str, Field] = {
    "image_mean": Field(FOLLOWED, "mean"),
    "image_std": Field(FOLLOWED, "std"),
    "do_normalize": Field(FOLLOWED, "false: mean 0, deviation 1"),
    "do_rescale": Field(FOLLOWED, "false: pixels stay 0..255, folded into mean and deviation"),
    "rescale_factor": Field(FOLLOWED, "folded into mean and deviation"),
    "do_resize": Field(FOLLOWED, "false: crop_mode none"),
    "size": Field(FOLLOWED, "size and crop_mode: height and width squash, shortest_edge keeps the aspect ratio"),
    "resample": Field(FOLLOWED, "interpolation"),
    "do_center_crop": Field(FOLLOWED, "whether the centre of crop_size is cut out"),
    "crop_size": Field(FOLLOWED, "size of the crop"),
    "crop_pct": Field(FOLLOWED, "crop_pct, below 384 pixels (ConvNextImageProcessor)"),
    "default_to_square": Field(FOLLOWED, "what a single number in size means"),
    "image_processor_type": Field(FOLLOWED, "the defaults of fields that the file leaves out"),
    "feature_extractor_type": Field(FOLLOWED, "the older name of image_processor_type"),
    "do_convert_rgb": Field(IGNORED, "images always get the model's channels"),
    "do_flip_channel_order": Field(REFUSED, "the channel order blue, green, red is not supported"),
    "do_pad": Field(NAMED, "images are not padded (SAM's `encode` pads as SAM does)"),
    "pad_size": Field(NAMED, "images are not padded (SAM's `encode` pads as SAM does)"),
    "size_divisor": Field(NAMED, "images are not padded to multiples"),
    "offset": Field(REFUSED, "pixels shifted by -1 after rescaling (EfficientNet) are not supported"),
    "rescale_offset": Field(REFUSED, "pixels shifted by -1 after rescaling (EfficientNet) are not supported"),
    "do_reduce_labels": Field(IGNORED, "of masks, not of images"),
    "reduce_labels": Field(IGNORED, "of masks, not of images"),
    "mask_size": Field(IGNORED, "of masks, not of images"),
    "mask_pad_size": Field(IGNORED, "of masks, not of images"),
    "processor_class": Field(IGNORED, "the class that holds a tokenizer too"),
    "_processor_class": Field(IGNORED, "the class that holds a tokenizer too"),
    "auto_map": Field(IGNORED, "code in the repository, which is never run"),
    "return_tensors": Field(IGNORED, "the type of the result"),
    "data_format": Field(IGNORED, "the order of axes of the result"),
    "input_data_format": Field(IGNORED, "the order of axes of arrays; ours are (H, W, C)"),
    "device": Field(IGNORED, "where it runs"),
    "backend": Field(IGNORED, "the library that resizes"),
    "disable_grouping": Field(IGNORED, "how images are batched"),
    "_valid_processor_keys": Field(IGNORED, "names of fields"),
    "image_seq_length": Field(IGNORED, "of language models"),
    "transformers_version": Field(IGNORED, "who wrote the file"),
}
"""preprocessor_config.json, or "image_processor" in processor_config.json."""

TIMM: dict[str, Field] = {
    "input_size": Field(FOLLOWED, "size: channels, height, width; img_size in model_args comes first, as in timm"),
    "mean": Field(FOLLOWED, "mean"),
    "std": Field(FOLLOWED, "std"),
    "crop_pct": Field(FOLLOWED, "crop_pct"),
    "crop_mode": Field(FOLLOWED, "crop_mode: center, squash or border"),
    "interpolation": Field(FOLLOWED, "interpolation; random, a choice for training, becomes bicubic"),
    "num_classes": Field(IGNORED, "the head's tensors say it"),
    "label_names": Field(FOLLOWED, "class_names"),
    "label_descriptions": Field(IGNORED, "longer names of the classes"),
    "test_input_size": Field(NAMED, "a larger size for testing: --config.data.image_size takes it"),
    "test_crop_pct": Field(NAMED, "goes with test_input_size"),
    "min_input_size": Field(IGNORED, "a limit"),
    "fixed_input_size": Field(FOLLOWED, "whether img_size in model_args replaces input_size without a note"),
    "pool_size": Field(IGNORED, "the shape says it"),
    "first_conv": Field(IGNORED, "a name of a layer"),
    "classifier": Field(IGNORED, "a name of a layer"),
    "origin_url": Field(IGNORED, "where the weights came from"),
    "url": Field(IGNORED, "where the weights came from"),
    "file": Field(IGNORED, "where the weights came from"),
    "source": Field(IGNORED, "where the weights came from"),
    "hf_hub_id": Field(IGNORED, "where the weights came from"),
    "hf_hub_filename": Field(IGNORED, "where the weights came from"),
    "paper_ids": Field(IGNORED, "a reference"),
    "paper_name": Field(IGNORED, "a reference"),
    "tag": Field(IGNORED, "a name of the weights"),
    "license": Field(IGNORED, "read it where you get the weights"),
    "notes": Field(IGNORED, "a remark"),
    "architecture": Field(IGNORED, "keys and shapes say it"),
    "custom_load": Field(IGNORED, "code of timm's"),
    "state_dict": Field(IGNORED, "code of timm's"),
}
"""`pretrained_cfg` in timm's config.json."""


def stats(pair: tuple[tuple[float, ...], tuple[float, ...]]) -> dict[str, tuple[float, ...]]:
    """Return mean and standard deviation with transformers' names."""
    return {"image_mean": pair[0], "image_std": pair[1]}


CLASSES: dict[str, dict[str, Any]] = {
    "ViT": dict(size={"height": 224, "width": 224}, resample=2, **stats(INCEPTION)),
    "Deit": dict(
        size={"height": 256, "width": 256}, crop_size=224, do_center_crop=True, resample=3, **stats(INCEPTION)
    ),
    "DINOv3ViT": dict(size={"height": 224, "width": 224}, resample=2, **stats(IMAGENET)),
    "Bit": dict(size={"shortest_edge": 224}, crop_size=224, do_center_crop=True, resample=3, **stats(CLIP)),
    "CLIP": dict(size={"shortest_edge": 224}, crop_size=224, do_center_crop=True, resample=3, **stats(CLIP)),
    "ConvNext": dict(size={"shortest_edge": 384}, crop_pct=224 / 256, resample=3, **stats(INCEPTION)),
    "Sam": dict(size={"longest_edge": 1024}, resample=2, **stats(IMAGENET)),
}
"""Defaults of transformers' processor classes for missing fields."""
TOLD = ("size", "resample", "image_mean", "image_std")
"""Fields that are needed to know the pixels."""
ENDINGS = ("ImageProcessorFast", "ImageProcessorPil", "ImageProcessor", "FeatureExtractor")
"""Suffixes of the class names."""


def _named(json: Mapping[str, Any]) -> tuple[str, str | None]:
    """Return the processor class that a file names, and the matching key of `CLASSES`."""
    name = str(json.get("image_processor_type") or json.get("feature_extractor_type") or "")
    stem = next((name.removesuffix(end) for end in ENDINGS if name.endswith(end)), name)
    return name, next((known for known in CLASSES if known.casefold() == stem.casefold()), None)


def unknown_class(json: Mapping[str, Any]) -> str:
    """Return the class that a file names if fields are missing and its defaults are unknown, else ""."""
    name, known = _named(json)
    return "" if known or all(field in json for field in TOLD) else name


def class_defaults(json: Mapping[str, Any]) -> dict[str, Any]:
    """Return the defaults of the file's processor class for missing fields; {} for an unknown class."""
    _, found = _named(json)
    if found is None:
        return {}
    square = "height" in CLASSES[found]["size"]
    return CLASSES[found] | {"default_to_square": square, "do_center_crop": "do_center_crop" in CLASSES[found]}
