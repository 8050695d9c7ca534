"""The settings of depth heads and DPT decoders in a checkpoint, from shapes, the names of files and our own notes."""

import re
from typing import Any

from convert.assumptions import assume
from convert.head_keys import OWN
from convert.readers import NOTES, Source
from convert.recognise import Recognised
from convert.tables.depth import PUBLISHED, RANGES, STEM
from jaxdino.core.errors import UserError
from jaxdino.models import heads
from jaxdino.models.heads import Blocks, HeadConfig
from jaxdino.models.heads.decoders import DPTHeadConfig
from jaxdino.models.heads.depth import DepthDPTHeadConfig, DepthLinearHeadConfig
from jaxdino.models.heads.maps import even

CONV = f"{STEM}convs.0.conv.weight"


def decoder_head(found: Recognised, source: Source, blocks: Blocks | None) -> tuple[HeadConfig, tuple[str, ...]]:
    """Return the head and the assumptions: from our export's notes, or as DINOv2 publishes it.

    DINOv2's depth heads read blocks before the final norm. The largest depth is that of the data set in the file's
    name, "nyu" or "kitti".

    Raises:
      UserError: if neither our notes nor the name of the file tell the range of depths; for a head of our own without
        our notes.
    """
    noted = source.notes.get("head")
    if noted is not None and blocks is None:
        return heads.from_json(noted, f"{NOTES}: head"), ()
    depth = getattr(found.spec.config, "depth", 0)
    assumed: tuple[str, ...] = ()

    def four() -> Blocks:
        nonlocal assumed
        if blocks is not None:
            return blocks
        if depth not in PUBLISHED:
            assumed = (assume(f"a head on blocks {even(depth)}", "at even intervals", "head_blocks"),)
        return PUBLISHED.get(depth) or even(depth)

    if found.segmentation == OWN:
        raise UserError(
            f"{source.origin['path']}: a head of ours, whose shape is in the {NOTES} that was written beside it"
        )
    if found.segmentation.startswith("dpt"):
        width = source.shape(found.keys[CONV])[0]
        return DPTHeadConfig(found.num_classes, four(), width=width), assumed
    low, high = _range(source)
    common: dict[str, Any] = dict(min_depth=low, max_depth=high, norm=False)
    if found.segmentation.startswith("depth_dpt"):
        width = source.shape(found.keys[CONV])[0]
        return DepthDPTHeadConfig(1, four(), width=width, output="relu", **common), assumed
    bins, features = source.shape(found.keys[found.head[0]])[:2]
    read = blocks if blocks is not None else 1 if features == 2 * found.spec.config.width else four()
    return DepthLinearHeadConfig(1, read, bins=bins, **common), assumed


def _range(source: Source) -> tuple[float, float]:
    name = str(source.origin.get("head", source.origin["path"]))
    for word, span in RANGES.items():
        if re.search(rf"(?<![a-z]){word}(?![a-z])", name.rpartition("/")[2].casefold()):
            return span
    raise UserError(
        f"{name}: a depth head, and its range of depths is not in the file: name it as DINOv2 does, with nyu (10 m) or "
        "kitti (80 m), as in dinov2_vits14_nyu_linear_head.pth"
    )
