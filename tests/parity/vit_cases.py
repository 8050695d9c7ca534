"""The ViTs' reference models in the form that all families share."""

from tests.parity.cases import PATCH, SIZES, Case, look
from tests.parity.drawing import images
from tests.parity.family_case import FamilyCase
from tests.parity.ours import look_at

INPUTS = {name: {"images": images(*(PATCH * side for side in size))} for name, size in SIZES.items()}
THOROUGH = (
    "hf dino",
    "hf vit head",
    "hf dinov2 head",
    "hf dinov2 reg swiglu",
    "hf dinov3",
    "timm vit",
    "timm dinov3 qkvb",
    "timm dinov2",
    "meta dino",
    "meta dinov2",
    "meta dinov3 swiglu",
)
"""One of each kind of block, token and position."""
SILENT = (
    # The mask token stands in for masked patches only, the second norm for local crops in pre-training.
    "backbone.mask_token",
    "backbone.local_cls_norm.*",
    # A bias of the keys adds the same to all the scores of a query, which softmax takes away again; DINOv3, whose
    # rotation would make it visible, multiplies it by zero.
    "*.qkv.bias[k]",
)


def ours(model, given) -> dict:
    """Our values, by one function for all cases, so that those of one shape share a program."""
    return look_at(model, given["images"])


def as_family_case(name: str, case: Case) -> FamilyCase:
    """The same model, looked at through the names of `FamilyCase`."""
    layout, family, *_ = name.split()
    return FamilyCase(
        family=family,
        layout=layout,
        build=case.build,
        save=case.save,
        inputs=INPUTS,
        theirs=lambda model, given: look(case, model, given["images"]),
        ours=ours,
        overrules=case.overrules,
        silent=SILENT,
        thorough=name in THOROUGH,
    )
