"""Find the pooling of a ViT's classification head, if shapes do not show it."""

from typing import Any

from convert.assumptions import assume
from convert.family import POOL_WORDS, Hints
from convert.tables.vit.num_heads import ARCHITECTURES
from convert.timm_args import said_pool
from jaxdino.models.spec import ModelSpec

BY_WIDTH = {2: "cls_mean", 5: "cls4_mean"}
TIMM = {"token": "cls", "avg": "mean"}
REASONS = {
    "timm": "timm's ViTs that average have fc_norm in place of norm",
    "meta": "the linear heads of Meta's code, on one block",
    "hf": "transformers' heads of this width",
}


def pool(spec: ModelSpec, layout: str, widths: int, hints: Hints) -> tuple[str | None, tuple[str, ...]]:
    """Return the pooling, None if unknown, and the assumption if it was assumed.

    timm's DINOv3 has the same keys for both poolings, mean and class token, so nothing is assumed for it.

    Raises:
      UserError: if config.json names an unknown pooling.
    """
    if widths in BY_WIDTH:
        return BY_WIDTH[widths], ()
    if layout == "timm" and (named := _timm(hints)):
        return named, ()
    if layout == "hf" and spec.family in ("dino", "vit"):
        return "cls", ()
    if (spec.family, layout) == ("dinov3", "timm"):
        return None, ()
    return "cls", (assume(f"a head on the {POOL_WORDS['cls']}", REASONS[layout], "pool"),)


def _timm(hints: Hints) -> str | None:
    """Return the pooling in timm's config.json or training checkpoint; by default the architecture's own."""
    json, extras = hints.json, hints.extras
    if said := said_pool(hints, TIMM):
        return TIMM[said]
    trained = next((name for key in ARCHITECTURES if _is_timm(name := extras.get(key))), None)
    architecture = json.get("architecture") or (trained if "args.gp" in extras else None)
    if architecture is None:
        return None
    return TIMM["avg" if "dinov3" in architecture else "token"]


def _is_timm(architecture: Any) -> bool:
    return isinstance(architecture, str) and "patch" in architecture
