"""How images are prepared, as transformers' preprocessor_config.json and timm's config.json say it, both ways."""

from collections.abc import Mapping
from typing import Any

from jaxdino.models.spec import Preprocess

_FILTERS = {2: "bilinear", 3: "bicubic"}


def from_json(own: Preprocess, json: Mapping[str, Any] | None) -> Preprocess:
    """The family's preprocessing, corrected by preprocessor_config.json where there is one."""
    if not json:
        return own
    size, crop = json.get("size") or {}, json.get("crop_size")
    cropped = crop is not None and json.get("do_center_crop", True)
    height, width = _sides(crop if cropped else size, own.size)
    edge = size.get("shortest_edge") if isinstance(size, dict) else None
    return Preprocess(
        mean=tuple(json.get("image_mean", own.mean)),
        std=tuple(json.get("image_std", own.std)),
        size=(height, width),
        crop_pct=min(height, width) / edge if cropped and edge else _crop_pct(json, min(height, width)),
        interpolation=_FILTERS.get(json.get("resample"), own.interpolation),
    )


def _crop_pct(json: Mapping[str, Any], side: int) -> float:
    """transformers' ConvNextImageProcessor says it outright, and minds it below 384 pixels."""
    return json.get("crop_pct") or 1.0 if side < 384 else 1.0


def from_timm(json: Mapping[str, Any]) -> Preprocess | None:
    """What the config.json of a timm folder says; None if it says nothing."""
    given = json.get("pretrained_cfg") or {}
    if not given.keys() >= {"mean", "std", "input_size"}:
        return None
    own = Preprocess()
    filters = _FILTERS.values()
    return Preprocess(
        mean=tuple(given["mean"]),
        std=tuple(given["std"]),
        size=tuple(given["input_size"][1:]),
        crop_pct=given.get("crop_pct", own.crop_pct),
        interpolation=given["interpolation"] if given.get("interpolation") in filters else own.interpolation,
    )


def to_timm(card: Any, first_conv: str, classifier: str) -> dict[str, Any]:
    """The `pretrained_cfg` of a timm folder's config.json.

    Args:
      first_conv, classifier: timm's names of the layers that take in images and give out classes.
    """
    how = card.spec.preprocess
    return {
        "input_size": [card.spec.config.in_channels, *how.size],
        "fixed_input_size": False,
        "interpolation": how.interpolation,
        "crop_pct": how.crop_pct,
        "mean": list(how.mean),
        "std": list(how.std),
        "num_classes": card.num_classes,
        "pool_size": None,
        "first_conv": first_conv,
        "classifier": classifier,
        **({"label_names": list(card.class_names)} if card.class_names else {}),
    }


def _sides(size: Any, default: tuple[int, int]) -> tuple[int, int]:
    if isinstance(size, dict):
        edge = size.get("shortest_edge", default[0])
        return size.get("height", edge), size.get("width", edge)
    return (size, size) if isinstance(size, int) else default


def to_json(how: Preprocess) -> dict[str, Any]:
    """For transformers' resize, centre crop, rescale and normalise processor."""
    height, width = how.size
    return {
        "image_processor_type": "BitImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": round(min(how.size) / how.crop_pct)},
        "resample": {name: number for number, name in _FILTERS.items()}[how.interpolation],
        "do_center_crop": True,
        "crop_size": {"height": height, "width": width},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(how.mean),
        "image_std": list(how.std),
        "do_convert_rgb": True,
    }
