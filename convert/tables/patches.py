"""Names of the linear segmentation heads, published apart from their backbones or in one file with them.

Sources of the names: facebookresearch/dinov2 eval/segmentation/models/decode_heads/linear_head.py (a decode head of
mmsegmentation, as in DINOv2's dinov2_*_ade20k_linear_head.pth and *_ms_head.pth); facebookresearch/dinov3
eval/segmentation/models/__init__.py, heads/linear_head.py and train.py (its model_final.pth).
"""

from convert.ops import COPY, COUNT, POINTWISE
from convert.table import Rule, rule
from convert.tables import depth
from jaxdino.models.spec import ModelSpec

_NORM = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var"}


def _rules(norm: str, conv: str) -> tuple[Rule, ...]:
    """Build the rules from the names of the two modules; the convolution's weight comes first."""
    return (
        rule(f"{conv}.weight", "head.conv_seg.kernel", POINTWISE),
        rule(f"{conv}.bias", "head.conv_seg.bias", COPY),
        *(rule(f"{norm}.{theirs}", f"head.bn.{ours}", COPY) for theirs, ours in _NORM.items()),
        rule(f"{norm}.num_batches_tracked", "head.bn.num_batches_tracked", COUNT),
    )


MODULES = {
    "mmseg": "decode_head.",
    "dinov3": "segmentation_model.1.",
    "depth_linear": "decode_head.",
    "depth_dpt": "decode_head.",
    "depth_dpt_maps": "decode_head.",
    "dpt": "decode_head.",
    "dpt_maps": "decode_head.",
}
"""{naming: prefix of the head's keys}."""

TABLES = {
    "mmseg": _rules("decode_head.bn", "decode_head.conv_seg"),
    "dinov3": _rules("segmentation_model.1.batchnorm_layer", "segmentation_model.1.conv"),
    "depth_linear": depth.LINEAR_DEPTH,
    "depth_dpt": depth.dpt_depth(),
    "depth_dpt_maps": depth.dpt_depth(readout=False, blocks=False),
    "dpt": depth.dpt_classes(),
    "dpt_maps": depth.dpt_classes(readout=False, blocks=False),
}
"""{naming: rules}."""


def naming_of(spec: ModelSpec) -> str:
    """Return the naming in which a head on this backbone is written."""
    return "dinov3" if spec.family == "dinov3" else "mmseg"
