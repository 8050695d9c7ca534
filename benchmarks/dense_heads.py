"""Compare our dense heads with PyTorch modules of the same computation: images/s, forward and a training step.

python -m benchmarks.dense_heads --head fcos detr fpn mlp masks
python -m benchmarks.dense_heads --head eomt dpt --batch 2 --rounds 5

The peers of the first five are the modules of docs/torch_heads.md, with the same weights, on the feature maps of a
ResNet-18 at `--size` pixels; that of `eomt`, a whole vision transformer with mask queries, is transformers'
EomtForUniversalSegmentation, and that of `dpt`, which gives depth from four blocks of a ViT-S/16, are transformers'
DPTNeck and DPTDepthEstimationHead, with the same random weights. The training step is that of `benchmarks.modules`, in
float32.
"""

import argparse
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import harness
from benchmarks.modules import contenders

WIDTHS, CLASSES = (64, 128, 256, 512), 20
VIT, PATCH = 384, 16
DPT_NAMES = {
    r"reassemble_blocks\.projects\.(\d)\.conv": r"neck.reassemble_stage.layers.\1.projection",
    r"reassemble_blocks\.readout_projects": "neck.reassemble_stage.readout_projects",
    r"reassemble_blocks\.resize_layers\.(\d)": r"neck.reassemble_stage.layers.\1.resize",
    r"convs\.(\d)\.conv": r"neck.convs.\1",
    r"fusion_blocks\.(\d)\.project\.conv": r"neck.fusion_stage.layers.\1.projection",
    r"fusion_blocks\.(\d)\.res_conv_unit(\d)\.conv(\d)\.conv": (
        r"neck.fusion_stage.layers.\1.residual_layer\2.convolution\3"
    ),
    r"project\.conv": "head.projection",
    r"conv_depth\.head": "head.head",
}
"""{name in DINOv2's published head, after `decode_head.`: transformers' name}, as regular expressions."""
PAGE = Path(__file__).parent.parent / "docs" / "torch_heads.md"


def heads() -> dict[str, tuple[Any, str, dict[str, Any], int]]:
    """Return {name: our configuration, the class of the page, its arguments, the first map that it reads}."""
    from jaxdino.models.heads.decoders import FPNHeadConfig, MLPHeadConfig
    from jaxdino.models.heads.detr import DETRHeadConfig
    from jaxdino.models.heads.fcos import FCOSHeadConfig
    from jaxdino.models.heads.mask_queries import MaskQueriesHeadConfig

    return {
        "fcos": (FCOSHeadConfig(CLASSES), "FCOS", dict(channels=WIDTHS[1:]), 1),
        "detr": (DETRHeadConfig(CLASSES), "DETR", dict(channels=WIDTHS[1:]), 1),
        "fpn": (FPNHeadConfig(CLASSES, 1, "stages"), "FPN", dict(channels=WIDTHS), 0),
        "mlp": (MLPHeadConfig(CLASSES, 1, "stages"), "MLP", dict(channels=WIDTHS), 0),
        "masks": (MaskQueriesHeadConfig(CLASSES, form="stages"), "Masks", dict(channels=WIDTHS), 0),
    }


def pair(name: str, batch: int, size: int) -> tuple[Callable, dict, Any, Any]:
    """Return our forward, its parameters, the peer with the same weights, and what it takes."""
    import jax.numpy as jnp
    import torch
    from flax import nnx

    from convert.table import BoundTable
    from convert.tables.own_heads import PREFIX, rules
    from jaxdino.core.params import bind, split
    from jaxdino.models.output import Output
    from jaxdino.models.registry import get

    config, peer, how, first = heads()[name]
    skeleton, flat = split(config.build(WIDTHS[-1], nnx.Rngs(0)))
    spec, rng = get("resnet18"), np.random.default_rng(0)
    maps = [
        rng.standard_normal((batch, size // s, size // s, w), np.float32)
        for s, w in zip((4, 8, 16, 32), WIDTHS, strict=True)
    ]
    ours = tuple(jnp.asarray(one) for one in maps)
    page: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)[1:]:
        exec(block, page)
    module = page[peer](CLASSES, **how)
    table = BoundTable(rules(config, spec), spec.config)
    written = table.write({f"head.{path}": np.asarray(array) for path, array in flat.items()})
    module.load_state_dict({one.key.removeprefix(PREFIX): torch.tensor(one.make()) for one in written})
    none = jnp.zeros((batch, 0, 1))

    def forward(flat: dict) -> Any:
        found = bind(skeleton, flat)([Output(none, ours[-1], none, none, ours)])
        return tuple(found.values())

    return forward, flat, module, [torch.tensor(one).permute(0, 3, 1, 2).contiguous() for one in maps[first:]]


def whole(batch: int, size: int) -> tuple[Callable, dict, Any, Any]:
    """Return our EoMT and transformers', of 6 blocks of 192 channels, with the same random weights."""
    harness.allow_torchvision()
    import jax.numpy as jnp
    import torch
    from transformers import EomtConfig, EomtForUniversalSegmentation

    from convert.load import load_pretrained
    from jaxdino.core.params import bind

    given = dict(hidden_size=192, num_hidden_layers=6, num_attention_heads=3, num_blocks=2, num_queries=100)
    module = EomtForUniversalSegmentation(EomtConfig(image_size=size, patch_size=16, **given)).eval()
    module.attn_mask_probs.fill_(0)
    with tempfile.TemporaryDirectory() as folder:
        module.save_pretrained(folder)
        found = load_pretrained(folder)
    skeleton = found.card.spec.skeleton(head=found.card.head)
    pixels = np.random.default_rng(0).standard_normal((batch, size, size, 3), np.float32)
    images = jnp.asarray(pixels)

    def forward(flat: dict) -> Any:
        predictions = bind(skeleton, flat)(images).predictions
        return tuple(predictions[name] for name in ("logits", "masks"))

    flat = {path: jnp.asarray(array) for path, array in found.flat.items()}
    return forward, flat, module, torch.tensor(pixels).permute(0, 3, 1, 2).contiguous()


def depth(batch: int, size: int) -> tuple[Callable, dict, Any, Any]:
    """Return our DPT decoder for depth and transformers', on four blocks of a ViT-S/16, with the same weights."""
    harness.allow_torchvision()
    import jax.numpy as jnp
    import torch
    from flax import nnx
    from transformers import DPTConfig
    from transformers.models.dpt.modeling_dpt import DPTDepthEstimationHead, DPTNeck

    from convert.table import BoundTable
    from convert.tables.depth import STEM, dpt_depth
    from jaxdino.core.params import bind, split
    from jaxdino.models.heads.depth import DepthDPTHeadConfig
    from jaxdino.models.output import Output
    from jaxdino.models.registry import get

    class DPT(torch.nn.Module):
        def __init__(self, config: DPTConfig):
            super().__init__()
            self.neck, self.head = DPTNeck(config), DPTDepthEstimationHead(config)

        def forward(self, tokens: list[torch.Tensor]) -> torch.Tensor:
            return self.head(self.neck(tokens))

    skeleton, flat = split(DepthDPTHeadConfig(blocks=4, output="relu").build(VIT, nnx.Rngs(0)))
    channels = [VIT // 8, VIT // 4, VIT // 2, VIT]
    given = dict(neck_hidden_sizes=channels, add_projection=True, use_bias_in_fusion_residual=False)
    module = DPT(DPTConfig(hidden_size=VIT, **given))
    table = BoundTable(dpt_depth(), get("vit_small_patch16_224").config)
    for one in table.write({f"head.{path}": np.asarray(array) for path, array in flat.items()}):
        name = one.key.removeprefix(STEM)
        for published, transformers in DPT_NAMES.items():
            name = re.sub(f"^{published}", transformers, name)
        with torch.no_grad():
            module.get_parameter(name).copy_(torch.tensor(one.make()))
    side, rng = size // PATCH, np.random.default_rng(0)
    tokens = [rng.standard_normal((batch, 1 + side * side, VIT), np.float32) for _ in channels]
    maps = [jnp.asarray(one[:, 1:]).reshape(batch, side, side, VIT) for one in tokens]
    none = jnp.zeros((batch, 0, VIT))
    outs = [Output(jnp.asarray(one[:, 0]), patches, none, none) for one, patches in zip(tokens, maps, strict=True)]

    def forward(flat: dict) -> Any:
        return (bind(skeleton, flat)(outs)["depth"],)

    return forward, flat, module, [torch.tensor(one) for one in tokens]


OTHERS = {"eomt": whole, "dpt": depth}


def main() -> None:
    """Run the benchmark."""
    flags = harness.parser(__doc__)
    flags.add_argument("--head", nargs="+", choices=(*heads(), *OTHERS), default=["fcos"])
    flags.add_argument("--size", type=int, default=256, help="pixels")
    args: argparse.Namespace = flags.parse_args()
    harness.begin(args)
    for name in args.head:
        made = OTHERS[name](args.batch, args.size) if name in OTHERS else pair(name, args.batch, args.size)
        for what, both in contenders(made, args.batch).items():
            title = f"{what}, {name} at {args.size}, batch {args.batch}"
            harness.report(title, both, harness.alternate(both, args.rounds))


if __name__ == "__main__":
    main()
