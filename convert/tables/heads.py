"""Layouts of the projection heads of DINO, DINOv2 and DINOv3: inside training checkpoints, under `head.`,
`dino_head.` and `ibot_head.` beside the backbone.

A head is read only on request (`--model dino_head`, `--prefix teacher.head`), or if the file holds nothing else: its
family comes last.

Sources of the names: facebookresearch/dino vision_transformer.py; facebookresearch/dinov2 and dinov3
layers/dino_head.py; pytorch/pytorch torch/nn/utils/weight_norm.py and parametrizations.py.
"""

import re

from convert.family import Family, Hints, Layout, Shapes, Told
from convert.ops import COLUMN, COPY, COUNT, LINEAR
from convert.table import rule
from jaxdino.core.errors import UserError
from jaxdino.models.heads.projection import DINOHeadConfig

H = "backbone."
SPELLINGS = {
    "weight_norm": ("last_layer.weight_g", "last_layer.weight_v"),
    "parametrized": tuple(f"last_layer.parametrizations.weight.original{n}" for n in (0, 1)),
    "plain": (None, "last_layer.weight"),
}
"""Spelling of last_layer -> the keys of the prototypes' norms and of the weight."""


def _single(config: DINOHeadConfig) -> bool:
    return config.num_layers == 1


def _bias(config: DINOHeadConfig) -> bool:
    return config.mlp_bias


def _counts(config: DINOHeadConfig) -> bool:
    return config.counts


def _last_layer(spelling: str) -> list:
    length, weight = SPELLINGS[spelling]
    ours = "v" if length else "kernel"

    def when(config: DINOHeadConfig) -> bool:
        return config.last_layer == spelling

    rules = [rule(weight, f"{H}last_layer.{ours}", LINEAR, when)]
    return rules + ([rule(length, f"{H}last_layer.g", COLUMN, when)] if length else [])


_NORM = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var"}
META = (
    rule("mlp.weight", H + "mlp.kernel", LINEAR, _single),
    rule("mlp.bias", H + "mlp.bias", COPY, lambda config: _single(config) and _bias(config)),
    rule("mlp.{l}.weight", H + "mlp.{l}.kernel", LINEAR),
    rule("mlp.{l}.bias", H + "mlp.{l}.bias", COPY, _bias),
    *[rule(f"mlp.{{b}}.{theirs}", f"{H}mlp.{{b}}.{ours}", COPY) for theirs, ours in _NORM.items()],
    rule("mlp.{b}.num_batches_tracked", H + "mlp.{b}.num_batches_tracked", COUNT, _counts),
    *[entry for spelling in SPELLINGS for entry in _last_layer(spelling)],
)


def detect(shapes: Shapes, hints: Hints) -> Told:
    """Detect the shape of a projection head.

    Raises:
      UserError: if the checkpoint has a last layer, but not the other layers of a projection head.
    """
    linears = sorted(int(m[1]) for key, shape in shapes.items() if (m := _linear(key)) and len(shape) == 2)
    first, last = (f"mlp.{linears[0]}.", f"mlp.{linears[-1]}.") if linears else ("mlp.", "mlp.")
    spelling = next(name for name, (_, weight) in SPELLINGS.items() if weight in shapes)
    weight = shapes[SPELLINGS[spelling][1]]
    if len(weight) != 2 or any(len(shapes.get(f"{layer}weight", ())) != 2 for layer in (first, last)):
        raise UserError(f"the checkpoint has {SPELLINGS[spelling][1]}, but not the layers of a DINO projection head")
    config = DINOHeadConfig(
        in_dim=shapes[f"{first}weight"][1],
        hidden_dim=shapes[f"{first}weight"][0] if linears else DINOHeadConfig.hidden_dim,
        bottleneck_dim=weight[1],
        out_dim=weight[0],
        num_layers=len(linears) or 1,
        use_bn=any(key.endswith("running_mean") for key in shapes),
        mlp_bias=f"{last}bias" in shapes,
        counts=any(key.endswith("num_batches_tracked") for key in shapes),
        last_layer=spelling,
        norm_last_layer=hints.extras.get("args.norm_last_layer") is True,
    )
    return Told("dino_head", "meta", config)


def _linear(key: str) -> re.Match | None:
    return re.fullmatch(r"mlp\.(\d+)\.weight", key)


FAMILY = Family(
    names=("dino_head",),
    anchors=tuple(weight for _, weight in SPELLINGS.values()),
    detect=detect,
    layouts={("dino_head", "meta"): Layout(META)},
    shape=(),
    reference="convert.references.heads",
)
