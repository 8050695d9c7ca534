"""Read and write preprocessing as transformers' processor files and timm's config.json.

For pixels x in 0..255, a processor computes (rescale_factor * x - mean) / std, and we compute (x / 255 - mean) / std.
The two agree if our mean and std are theirs / (255 * rescale_factor); this supports any factor, or none.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any

from convert.preprocess_fields import NAMED, NONE, REFUSED, TIMM, TRANSFORMERS, Field, class_defaults, unknown_class
from jaxdino.core.errors import UserError
from jaxdino.core.resize import CROP_MODES, FILTERS
from jaxdino.core.rules import did_you_mean
from jaxdino.models.spec import Preprocess

Json = Mapping[str, Any]
RESAMPLE = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
"""Pillow's filter numbers."""
PROCESSOR, TIMM_FILE = "the image processor's file", "config.json"
WARPED_FROM = 384
"""ConvNextImageProcessor squashes images from this size on, and crops below it."""


def from_json(own: Preprocess, json: Json | None) -> tuple[Preprocess, list[str]]:
    """Update the family's preprocessing from a processor file; also return notes on ignored fields.

    Args:
      own: the family's preprocessing.
      json: preprocessor_config.json, or "image_processor" of processor_config.json; None if there is none.

    Raises:
      UserError: if a field changes the pixels in a way that we do not support.
    """
    if not json:
        return own, []
    notes = _unfollowed(json, TRANSFORMERS, PROCESSOR)
    if unknown := unknown_class(json):
        notes.append(f"{PROCESSOR} is of the class {unknown}, whose defaults are not known: the model's are used")
    given = class_defaults(json) | {name: value for name, value in json.items() if value is not None}
    how, more = _geometry(own, given)
    mean, std = _statistics(own, given)
    if min(mean) > 1:
        more.append(
            f"warning: {PROCESSOR} says a mean of {mean}, brighter than white (1): is do_rescale=false missing?"
        )
    number = given.get("resample")
    if number is not None and number not in RESAMPLE:
        raise UserError(f"{PROCESSOR} says resample={number!r}; known: {_listed(RESAMPLE)}")
    filter_ = own.interpolation if number is None else RESAMPLE[number]
    return dataclasses.replace(how, mean=mean, std=std, interpolation=filter_, crop_rounding="down"), notes + more


def _unfollowed(json: Json, fields: Mapping[str, Field], where: str) -> list[str]:
    """Return a note for each field that is unknown or ignored. Raise UserError for a field that is refused."""
    notes = []
    for name, value in json.items():
        field = fields.get(name)
        if field is None:
            notes.append(f"{where}: the field {name}={_short(value)} is not known and was not followed")
        elif field.action in (NAMED, REFUSED) and not any(value is ok or value == ok for ok in NONE):
            text = f"{where} says {name}={_short(value)}: {field.why}"
            if field.action == REFUSED:
                raise UserError(f"{text}. Prepare the images this way yourself, and remove the field")
            notes.append(f"{text}; it was not followed")
    return notes


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _listed(names: Mapping[int, str]) -> str:
    return ", ".join(f"{number} ({name})" for number, name in names.items())


def _statistics(own: Preprocess, given: Json) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation for pixels in 0..1; see the module docstring."""
    channels = len(own.mean)
    factor = float(given.get("rescale_factor", 1 / 255)) if given.get("do_rescale", True) else 1.0
    scale = 1.0 if math.isclose(255 * factor, 1.0, rel_tol=1e-9) else 255 * factor
    if not scale > 0:
        raise UserError(f"{PROCESSOR} says rescale_factor={given.get('rescale_factor')!r}: it must be above 0")
    if not given.get("do_normalize", True):
        return (0.0,) * channels, (1 / scale,) * channels
    mean, std = given.get("image_mean", own.mean), given.get("image_std", own.std)
    mean, std = ((v,) * channels if isinstance(v, int | float) else tuple(v) for v in (mean, std))
    return (mean, std) if scale == 1 else (tuple(m / scale for m in mean), tuple(s / scale for s in std))


def _geometry(own: Preprocess, given: Json) -> tuple[Preprocess, list[str]]:
    """Read size, crop_pct and crop_mode; also return notes."""
    crop = _sides(given["crop_size"], "crop_size") if given.get("crop_size") is not None else None
    cropped = crop is not None and given.get("do_center_crop", True)
    notes = []
    if crop is not None and not cropped:
        notes.append(f"{PROCESSOR} says crop_size and do_center_crop=false: crop_size was not followed")
    if not given.get("do_resize", True):
        size = crop if cropped else own.size
        if not cropped:
            notes.append(
                f"{PROCESSOR} says do_resize=false, so images keep their size there; here the centre of "
                f"{size[0]} x {size[1]} is cut out or padded"
            )
        return dataclasses.replace(own, size=size, crop_pct=1.0, crop_mode="none"), notes
    size = _size(given)
    if size is None:
        return (dataclasses.replace(own, size=crop, crop_pct=1.0) if cropped else own), notes
    if "height" in size:
        return _squashed(own, (size["height"], size["width"]), crop if cropped else None), notes
    edge = size.get("shortest_edge")
    if edge is None:
        notes.append(
            f"{PROCESSOR} says size={_short(size)}: here the shorter side becomes {size['longest_edge']} and the "
            "centre is cut out (SAM's `encode` resizes the longer side and pads, as SAM does)"
        )
        return dataclasses.replace(own, size=(size["longest_edge"],) * 2), notes
    if "longest_edge" in size:
        notes.append(f"{PROCESSOR} says size={_short(size)}: longest_edge was not followed")
    if "crop_pct" in given and not cropped:  # ConvNextImageProcessor
        small = edge < WARPED_FROM
        how = dict(crop_pct=float(given["crop_pct"]), crop_mode="center") if small else dict(crop_mode="squash")
        return dataclasses.replace(own, **{"size": (edge, edge), "crop_pct": 1.0, **how}), notes
    if not cropped:
        notes.append(
            f"{PROCESSOR} says shortest_edge={edge} without a crop, so images keep their aspect ratio there; here the "
            f"centre of {edge} x {edge} is cut out"
        )
        crop = (edge, edge)
    elif crop[0] != crop[1]:
        notes.append(
            f"{PROCESSOR} cuts {crop[0]} x {crop[1]} out of a shorter side of {edge}, padded where the image is too "
            "small for that; here the image is resized to cover the crop"
        )
    return dataclasses.replace(own, size=crop, crop_pct=min(crop) / edge, crop_mode="center"), notes


def _squashed(own: Preprocess, size: tuple[int, int], crop: tuple[int, int] | None) -> Preprocess:
    crop = crop or size
    pct = crop[0] / size[0]
    if any(math.floor(c / pct + 1e-6) != s for c, s in zip(crop, size, strict=True)):
        raise UserError(
            f"{PROCESSOR} resizes to {size[0]} x {size[1]} and cuts {crop[0]} x {crop[1]} out: only crops of the same "
            "proportions can be followed"
        )
    return dataclasses.replace(own, size=crop, crop_pct=pct, crop_mode="squash")


def _size(given: Json) -> dict[str, int] | None:
    """Return `size` as a dict; a single number is the shorter side or both sides, depending on the class."""
    size = given.get("size")
    if size is None:
        return None
    if isinstance(size, int):
        cropped = given.get("crop_size") is not None and given.get("do_center_crop", True)
        shorter = cropped or "crop_pct" in given
        square = given.get("default_to_square", not shorter)
        return {"height": size, "width": size} if square else {"shortest_edge": size}
    if isinstance(size, list | tuple):
        height, width = size
        return {"height": height, "width": width}
    known = [{"height", "width"}, {"shortest_edge"}, {"longest_edge"}, {"shortest_edge", "longest_edge"}]
    if not isinstance(size, dict):
        raise UserError(f"{PROCESSOR} says size={_short(size)}: a whole number, a list of two, or an object is known")
    size = {name: value for name, value in size.items() if value is not None}
    if set(size) not in known:
        names = " or ".join(" and ".join(sorted(one)) for one in known)
        raise UserError(f"{PROCESSOR} says size={_short(size)}: {names} are known")
    return size


def _sides(size: Any, name: str) -> tuple[int, int]:
    if isinstance(size, int):
        return size, size
    height, width = (size["height"], size["width"]) if isinstance(size, dict) else size
    return height, width


def from_timm(json: Json) -> tuple[Preprocess | None, list[str]]:
    """Read the preprocessing in a timm folder's config.json (None if absent), and notes on ignored fields.

    Raises:
      UserError: if timm does not have the crop_mode or interpolation.
    """
    given = json.get("pretrained_cfg") or (json if "architecture" in json and "input_size" in json else {})
    given = {name: value for name, value in given.items() if value is not None}
    if not given.keys() & {"mean", "std", "input_size", "crop_pct", "crop_mode", "interpolation"}:
        return None, []
    notes = _unfollowed(given, TIMM, "pretrained_cfg in config.json") if given is not json else []
    own, filter_ = Preprocess(), given.get("interpolation", "bicubic")
    if filter_ == "random":
        notes.append("pretrained_cfg in config.json says interpolation='random', for training: bicubic is used")
        filter_ = "bicubic"
    for name, value, known in (
        ("interpolation", filter_, FILTERS),
        ("crop_mode", given.get("crop_mode", "center"), CROP_MODES[:3]),
    ):
        if value not in known:
            raise UserError(f"pretrained_cfg in config.json says {name}={value!r}; {did_you_mean(str(value), known)}")
    size, more = _timm_size(json.get("model_args") or {}, given, own.size)
    how = Preprocess(
        mean=tuple(given.get("mean", own.mean)),
        std=tuple(given.get("std", own.std)),
        size=size,
        crop_pct=given.get("crop_pct") or own.crop_pct,
        interpolation=filter_,
        crop_mode=given.get("crop_mode", "center"),
    )
    return how, notes + more


def _timm_size(args: Json, given: Json, default: tuple[int, int]) -> tuple[tuple[int, int], list[str]]:
    """Return (height, width) of the images; `img_size` of model_args has priority, unless the model takes any size.

    timm 1.0.31 replaces `input_size` with it if `fixed_input_size` is true (timm/models/_hub.py); otherwise it builds a
    model that refuses every other size.
    """
    size = tuple(given["input_size"][1:]) if "input_size" in given else default
    own = args.get("img_size")
    loose = args.get("dynamic_img_size") or args.get("strict_img_size") is False or args.get("use_naflex")
    if own is None or loose:
        return size, []
    own = (own, own) if isinstance(own, int) else tuple(own)
    if own == size or given.get("fixed_input_size") or "input_size" not in given:
        return own, []
    text = "config.json says img_size={} in model_args and input_size={} in pretrained_cfg: the first is followed"
    return own, [text.format(list(own), given["input_size"])]


def to_timm(card: Any, first_conv: str, classifier: str) -> dict[str, Any]:
    """Build the `pretrained_cfg` of a timm folder's config.json.

    Args:
      first_conv, classifier: timm's names of the first convolution and the classification layer.
    """
    how = card.spec.preprocess
    return {
        "input_size": [card.spec.config.in_channels, *how.size],
        "fixed_input_size": False,
        "interpolation": how.interpolation,
        "crop_pct": how.crop_pct,
        "crop_mode": "center" if how.crop_mode == "none" else how.crop_mode,
        "mean": list(how.mean),
        "std": list(how.std),
        "num_classes": card.num_classes,
        "pool_size": None,
        "first_conv": first_conv,
        "classifier": classifier,
        **({"label_names": list(card.class_names)} if card.class_names else {}),
    }


def to_json(how: Preprocess) -> dict[str, Any]:
    """Build preprocessor_config.json for transformers' processor: resize, centre crop, rescale, normalise."""
    height, width = how.size
    target = [math.floor(side / how.crop_pct + 1e-6) for side in how.size]
    squash = how.crop_mode == "squash"
    size = {"height": target[0], "width": target[1]} if squash else {"shortest_edge": min(target)}
    return {
        "image_processor_type": "ViTImageProcessor" if squash else "BitImageProcessor",
        "do_resize": how.crop_mode != "none",
        "size": size,
        "resample": {name: number for number, name in RESAMPLE.items()}[how.interpolation],
        "do_center_crop": not squash or target != [height, width],
        "crop_size": {"height": height, "width": width},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(how.mean),
        "image_std": list(how.std),
        "do_convert_rgb": len(how.mean) == 3,
    }


def unlike(how: Preprocess, files: Iterable[str]) -> list[str]:
    """Return a line for each part of the preprocessing that the exported files cannot express."""
    notes = []
    if how.sixteen_bit != "auto":
        notes.append(
            f"only jaxdino.json says that 16-bit and float pixels were read with sixteen_bit={how.sixteen_bit}: "
            "for other tools, convert images to 8 bits first"
        )
    if "preprocessor_config.json" in files:
        if how.crop_mode == "border":
            notes.append("transformers has no crop_mode 'border': its processor crops the centre, so pixels differ")
        if how.crop_mode == "center" and how.size[0] != how.size[1]:
            notes.append(f"transformers' processor crops {how.size} differently from ours, so pixels differ")
    elif "open_clip_config.json" in files:
        if how.crop_mode in ("border", "none") or how.crop_pct != 1:
            notes.append(
                "open_clip resizes the shorter side to the model's size and crops the centre, so pixels differ"
            )
    elif "config.json" in files and how.crop_mode == "none":
        notes.append("timm has no crop_mode 'none': its transform resizes and crops the centre, so pixels differ")
    return notes
