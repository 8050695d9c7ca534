"""CLIP-DINO-SAM: text-prompted segmentation, trained in four stages; SAM's decoder and DINO learn through LoRA first.

    python -m jaxdino.main --config=configs/clipdinosam.py
    python -m jaxdino.main --config=configs/clipdinosam.py:dinov3_vits16 --config.data.root=DIR \\
        --config.prompts.prompt=nucleus
A DINO image encoder computes patch tokens, CLIP's text encoder the prompt's feature, and SAM's decoder the mask; the
two projections between them are new. `--config.stage=2` runs one stage, from the run of the previous stage
(`--config.model.weights=WORKDIR`). The stages:

    stage   DINO                CLIP text   projections   SAM's decoder
    align   frozen              frozen      trained       LoRA
    adapt   LoRA, last blocks   frozen      trained       LoRA
    refine  the same adapters, lower rates, longer
    full    trained             frozen      trained       LoRA

Adapters that two stages share are kept; DINO's are merged before `full`. Flags can unfreeze DINO partly
(`--config.stages[3].rules`), add LoRA to CLIP (`--config.stages[1].lora.clip.rank=8`), or train CLIP or the decoder
(`--config.stages[3].groups.clip.frozen=False`, likewise `decoder`).

Without a model, everything is small and embedded: generated scenes of coloured shapes, the backbone of the digits, and
a CLIP and a SAM with random weights. Results of the first command, 352 seconds on two cores:

    stage    val/miou   val/dice   trainable parameters
    align       0.577      0.736   109,088
    adapt       0.630      0.784   121,376
    refine      0.655      0.802   121,376
    full        0.693      0.832   786,752
    test        0.631      0.796
"""

from dataclasses import asdict

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from configs import common
from jaxdino.data.prompts import PromptConfig
from jaxdino.models.lora_spec import LoRA
from jaxdino.objectives.segment_settings import Segmenting

PARTS = ("dino", "clip", "decoder")  # parts that may have adapters
RULES = (
    (common.LORA, "lora"),
    (r"backbone\.token_.*", "projections"),
    (r"backbone\.dino\..*", "dino"),
    (r"backbone\.clip\..*", "clip"),
    (r"backbone\.sam\.mask_decoder\..*", "decoder"),
    ("@all", "frozen"),
)


def get_config(model: str | None = None) -> ConfigDict:
    """Return a config with four stages; `--config.stage` selects one."""
    config = common.get_config(model)
    tiny = config.model.name == common.DIGITS_MODEL
    config.stage = placeholder(int)
    config.text = dict(name="clip_tiny" if tiny else "clip_vitb16", weights=placeholder(str))
    config.sam = dict(name="sam_tiny" if tiny else "sam_vitb", weights=placeholder(str))
    config.prompts = common.defaults(PromptConfig)
    config.objective = dict(name="segment", **asdict(Segmenting()))
    config.data.name = "shapes" if tiny else "masks"
    config.data.augment = "none"
    config.data.batch_size = 16
    decoder = dict(rank=8, alpha=16.0, targets=("@linear",))
    dino = dict(rank=8, alpha=16.0, targets=("q", "v"), last_blocks=4)
    config.stages = (
        _stage("align", 20, dict(projections=1e-3, lora=1e-3), dict(decoder=decoder)),
        _stage("adapt", 20, dict(projections=5e-4, lora=5e-4), dict(decoder=decoder, dino=dino)),
        _stage("refine", 40, dict(projections=1e-4, lora=1e-4), dict(decoder=decoder, dino=dino)),
        _stage("full", 20, dict(projections=1e-4, lora=1e-4, dino=1e-5), dict(decoder=decoder)),
    )
    return _fit_shapes(config) if tiny else config


def _stage(name: str, epochs: int, rates: dict[str, float], lora: dict[str, dict]) -> ConfigDict:
    """Make a stage that trains the groups with a rate; the others are frozen, and flags can unfreeze them."""
    groups = {group: dict(frozen=True, lr=1e-6) for group in ("dino", "clip", "decoder")} | dict(
        frozen=dict(frozen=True)
    )
    groups |= {group: dict(lr=rate) for group, rate in rates.items()}
    groups["lora"] |= dict(weight_decay=0.0)
    if "dino" in rates:
        groups["dino"] |= dict(layer_decay=0.9)
    adapters = {part: common.open_fields(LoRA, lora.get(part, {})) for part in PARTS}
    given = common.stage(
        name,
        RULES,
        groups,
        epochs=epochs,
        schedule=dict(warmup_epochs=1.0),
        objective=common.open_fields(Segmenting, {}),
    )
    given.lora = ConfigDict(adapters)
    return given


def _fit_shapes(config: ConfigDict) -> ConfigDict:
    """Set values for the shapes and their small models with random weights, which need higher rates."""
    config.data.image_size = 64
    config.text.weights = config.sam.weights = "random"
    lengths = dict(align=8, adapt=4, refine=6, full=4)
    rates = dict(align=3e-3, adapt=2e-3, refine=1e-3, full=1e-3)
    for given in config.stages:
        given.epochs = lengths[given.name]
        for name in ("projections", "lora"):
            given.groups[name].lr = rates[given.name]
    config.stages[-1].groups.dino.lr = 5e-4
    return config
