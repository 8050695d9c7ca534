"""A tiny run of segmentation on the embedded shapes."""

import dataclasses

import tiny
from ml_collections import ConfigDict

from configs import clipdinosam
from jaxdino.models import registry
from jaxdino.models.clip_towers import TextConfig

_CLIP, _SAM = registry.get("clip_tiny"), registry.get("sam_tiny")
_TEXT = TextConfig(width=16, depth=1, num_heads=2, mlp_dim=32)  # of its 49,408 embeddings all are drawn at each start
_SMALL = dict(width=32, decoder_mlp_dim=32, iou_hidden_dim=32)
CLIP = dataclasses.replace(_CLIP, name="tiny_text", config=dataclasses.replace(_CLIP.config, vision=None, text=_TEXT))
SAM = dataclasses.replace(_SAM, name="tiny_decoder", config=dataclasses.replace(_SAM.config, **_SMALL))
registry.MODELS |= {spec.name: spec for spec in (CLIP, SAM)}

DECODER = dict(rank=2, alpha=4.0, targets=("@linear",))
DINO = dict(rank=2, alpha=4.0, targets=("q", "v"), last_blocks=1)


def config(*steps: int, **changes) -> ConfigDict:
    """The four stages with so many steps each (0: left out); `changes` are set by dotted path ("__" for a dot)."""
    made = clipdinosam.get_config()
    made.model.name = made.model.configured_for = tiny.SPEC.name
    made.model.weights = "random"
    made.text.name, made.sam.name = CLIP.name, SAM.name
    made.data.update(image_size=16, batch_size=64, num_threads=0)
    made.log_every = 1
    for stage, count in zip(made.stages, (*steps, 0, 0, 0, 0), strict=False):
        stage.steps = count
        stage.lora.decoder.update(DECODER)
        if stage.lora.dino.rank:
            stage.lora.dino.update(DINO)
    for path, value in changes.items():
        *parents, leaf = path.split("__")
        node = made
        for name in parents:
            node = node[int(name)] if name.isdigit() else node[name]
        node[leaf] = value
    return made


def all_options() -> ConfigDict:
    """Two stages with every option of a stage."""
    made = config(0, 2, 0, 2, objective__align=0.5, objective__ssl=1.0, prompts__points=1, prompts__boxes=True)
    made.prompts.update(negatives=0.3, templates=("{}", "a drawing of a {}"))
    made.stages[1].lora.clip.update(rank=2, alpha=2.0, targets=("q", "v"))
    made.stages[3].groups.clip.frozen = made.stages[3].groups.decoder.frozen = False
    made.optimizer.accumulate = 2
    made.checkpoint.every_steps = 1
    return made
