"""preprocessor_config.json, both ways."""

from collections.abc import Mapping
from typing import Any

from jaxdino.models.registry import Preprocess

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
        crop_pct=min(height, width) / edge if cropped and edge else 1.0,
        interpolation=_FILTERS.get(json.get("resample"), own.interpolation),
    )


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
