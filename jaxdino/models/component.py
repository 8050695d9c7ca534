"""Components of a composite model: what has adapters of its own, and what is a model of its own family."""

import dataclasses
from typing import Any

from jaxdino.models.layer_spec import Layer
from jaxdino.models.lora_spec import LoRA


@dataclasses.dataclass(frozen=True)
class Component:
    """One component of a model, such as the image encoder of a CLIP-DINO-SAM.

    Attributes:
      path: the path of its module. layers: its layers, with "backbone" in the place of `path`.
      lora: its adapters, whose targets and `last_blocks` refer to this component alone; None without adapters.
      family, config: those of the component as a model of its own, for conversion; "" and None if it is not one.
    """

    path: str
    layers: tuple[Layer, ...]
    lora: LoRA | None = None
    family: str = ""
    config: Any = None
