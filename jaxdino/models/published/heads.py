"""The published projection heads: DINO's."""

from jaxdino.models.heads.projection import DINOHeadConfig
from jaxdino.models.spec import ModelSpec

SPECS = (ModelSpec("dino_head", "dino_head", DINOHeadConfig(), page="https://github.com/facebookresearch/dino"),)
