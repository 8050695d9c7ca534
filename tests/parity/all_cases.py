"""Every reference model of every layout."""

from tests.parity.hf_models import HF_CASES
from tests.parity.meta_modules import META_CASES
from tests.parity.timm_models import TIMM_CASES

CASES = {**HF_CASES, **TIMM_CASES, **META_CASES}
