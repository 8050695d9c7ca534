"""Names of DINOv2's depth heads: bins on features, and the DPT decoder, published apart from their backbones.

Source of the names: facebookresearch/dinov2 dinov2/hub/depth/decode_heads.py (BNHead, DPTHead) and hub/depthers.py, in
dinov2_*_{nyu,kitti}_linear_head.pth, *_linear4_head.pth and *_dpt_head.pth.
"""

from convert.ops import CONV, COPY, LINEAR, POINTWISE, Op
from convert.table import Rule, rule

LEVELS = 4
TRANSPOSED = Op("transposed", lambda a: a.transpose(2, 3, 0, 1), lambda a: a.transpose(2, 3, 0, 1))
"""torch.nn.ConvTranspose2d's (in, out, h, w) <-> our (h, w, in, out)."""
STEM = "decode_head."


def _both(theirs: str, ours: str, op: Op) -> list[Rule]:
    return [
        rule(f"{STEM}{theirs}.weight", f"head.{ours}.kernel", op),
        rule(f"{STEM}{theirs}.bias", f"head.{ours}.bias", COPY),
    ]


def decoder(readout: bool = True, blocks: bool = True) -> list[Rule]:
    """Return the rules of the DPT decoder at head.decoder, on blocks of a ViT or on stages."""
    found, own = [], "decoder.reassemble_blocks."
    if blocks:
        for level in range(LEVELS):
            found += _both(f"reassemble_blocks.projects.{level}.conv", f"{own}projects.{level}", POINTWISE)
            if readout:
                found += _both(
                    f"reassemble_blocks.readout_projects.{level}.0", f"{own}readout_projects.{level}", LINEAR
                )
        found += _both("reassemble_blocks.resize_layers.0", f"{own}enlarge4", TRANSPOSED)
        found += _both("reassemble_blocks.resize_layers.1", f"{own}enlarge2", TRANSPOSED)
        found += _both("reassemble_blocks.resize_layers.3", f"{own}reduce", CONV)
    for level in range(LEVELS):
        found.append(rule(f"{STEM}convs.{level}.conv.weight", f"head.decoder.convs.{level}.kernel", CONV))
        theirs, ours = f"fusion_blocks.{level}", f"decoder.fusion_blocks.{level}"
        found += _both(f"{theirs}.project.conv", f"{ours}.project", POINTWISE)
        for unit in ("res_conv_unit1",) * bool(level) + ("res_conv_unit2",):
            for conv in ("conv1", "conv2"):
                key, path = f"{STEM}{theirs}.{unit}.{conv}.conv.weight", f"head.{ours}.{unit}.{conv}.kernel"
                found.append(rule(key, path, CONV))
    return found + _both("project.conv", "decoder.project", CONV)


LINEAR_DEPTH = tuple(_both("conv_depth", "conv_depth", POINTWISE))


def dpt_depth(readout: bool = True, blocks: bool = True) -> tuple[Rule, ...]:
    """Return the rules of a DPT depth head, its last layer first."""
    last = _both("conv_depth.head.4", "out", POINTWISE)
    inner = [*_both("conv_depth.head.0", "conv_depth.0", CONV), *_both("conv_depth.head.2", "conv_depth.1", CONV)]
    return (*last, *inner, *decoder(readout, blocks))


def dpt_classes(readout: bool = True, blocks: bool = True) -> tuple[Rule, ...]:
    """Return the rules of the DPT decoder for classes, its last layer first."""
    return (*_both("conv_seg", "conv_seg", POINTWISE), *decoder(readout, blocks))


PUBLISHED = {12: (2, 5, 8, 11), 24: (4, 11, 17, 23), 40: (9, 19, 29, 39)}
"""{number of blocks of a ViT: those that DINOv2's heads on four blocks read}."""
RANGES = {"nyu": (0.001, 10.0), "kitti": (0.001, 80.0)}
"""{data set in the name of a head's file: smallest and largest depth in metres}."""
