"""Every reference model of every layout."""

from tests.parity.clip_cases import CLIP_CASES
from tests.parity.convnext_cases import CONVNEXT_CASES
from tests.parity.head_cases import HEAD_CASES
from tests.parity.hf_models import HF_CASES
from tests.parity.meta_modules import META_CASES
from tests.parity.resnet_cases import RESNET_CASES
from tests.parity.sam_cases import SAM_CASES
from tests.parity.timm_models import TIMM_CASES
from tests.parity.vit_cases import as_family_case

CASES = {**HF_CASES, **TIMM_CASES, **META_CASES}
"""The ViTs, as their own tests look at them."""

FAMILY_CASES = {
    **{name: as_family_case(name, case) for name, case in CASES.items()},
    **CLIP_CASES,
    **CONVNEXT_CASES,
    **RESNET_CASES,
    **SAM_CASES,
    **HEAD_CASES,
}
"""All of them, as the tests that every family shares look at them (test_families.py)."""
