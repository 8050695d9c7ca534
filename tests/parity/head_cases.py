"""Tiny projection heads with the key names of DINO, DINOv2 and DINOv3, in all spellings of their last layer."""

from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from tests.parity.family_case import FamilyCase

IN, HIDDEN, BOTTLENECK, PROTOTYPES = 24, 40, 16, 50


def _features(*shape: int) -> dict[str, torch.Tensor]:
    return {"features": torch.randn(*shape, IN, generator=torch.Generator().manual_seed(1))}


INPUTS = {"class tokens": _features(6), "one": _features(1)}


class Head(nn.Module):
    """Linear layers, batch norms and GELUs in a Sequential, or one linear layer, before normalised prototypes."""

    def __init__(self, layers: int, batch_norm: bool, bias: bool, weight_norm):
        super().__init__()
        self.how = (layers, batch_norm, bias, weight_norm)
        parts: list[nn.Module] = []
        for n in range(layers - 1):
            parts.append(nn.Linear(HIDDEN if n else IN, HIDDEN, bias=bias))
            parts += [nn.BatchNorm1d(HIDDEN)] if batch_norm else []
            parts.append(nn.GELU())
        parts.append(nn.Linear(HIDDEN if layers > 1 else IN, BOTTLENECK, bias=bias))
        self.mlp = nn.Sequential(*parts) if layers > 1 else parts[0]
        self.last_layer = weight_norm(nn.Linear(BOTTLENECK, PROTOTYPES, bias=False))

    def __deepcopy__(self, memo) -> "Head":
        """A layer under torch's older weight norm cannot be copied."""
        twin = Head(*self.how).to(next(self.parameters()).dtype)
        twin.load_state_dict(self.state_dict())
        return twin.train(self.training)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.last_layer(F.normalize(self.mlp(features), dim=-1))


def weight_norm(layer: nn.Linear) -> nn.Linear:
    """`weight_g` and `weight_v`, as every release of Meta's has them; torch has deprecated the function."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return nn.utils.weight_norm(layer)


@torch.no_grad()
def prepare(model: nn.Module) -> None:
    """Draws the running statistics and a count, and lengths of prototypes that are not the weight's own."""
    generator = torch.Generator().manual_seed(2)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.running_mean.normal_(0.0, 0.3, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
            module.num_batches_tracked.fill_(12_345)
    for name, parameter in model.last_layer.named_parameters():
        if name.endswith(("weight_g", "original0")):
            parameter.uniform_(0.5, 1.5, generator=generator)
        else:
            parameter.normal_(0.0, 0.3, generator=generator)


def save(model: nn.Module, folder: Path) -> Path:
    """A bare state dict by torch.save."""
    torch.save(model.state_dict(), folder / "head.pth")
    return folder / "head.pth"


def save_full(model: nn.Module, folder: Path) -> Path:
    """The teacher's head beside another student's, as in a training checkpoint of DINO whose backbone is left out."""
    teacher = {f"head.{key}": tensor for key, tensor in model.state_dict().items()}
    student = {f"module.{key}": tensor + 1 for key, tensor in teacher.items()}
    torch.save({"student": student, "teacher": teacher, "epoch": 100}, folder / "full.pth")
    return folder / "full.pth"


def _theirs(model: nn.Module, given: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    hidden = model.mlp(given["features"])
    return {"bottleneck": F.normalize(hidden, dim=-1), "prototypes": model(given["features"])}


def _ours(model, given) -> dict:
    return {"bottleneck": model.backbone.bottleneck(given["features"]), "prototypes": model.backbone(given["features"])}


def _case(layers=3, *, batch_norm=False, bias=True, spelling=weight_norm, keep=save) -> FamilyCase:
    return FamilyCase(
        family="dino_head",
        layout="meta",
        build=lambda: Head(layers, batch_norm, bias, spelling),
        save=keep,
        inputs=INPUTS,
        theirs=_theirs,
        ours=_ours,
        prepare=prepare,
    )


PARAMETRIZED = nn.utils.parametrizations.weight_norm

HEAD_CASES = {
    "dino_head": _case(),
    "dino_head bn": _case(batch_norm=True),
    "dino_head full": _case(keep=save_full),
    "dino_head single": _case(1),
    "dino_head two parametrized": _case(2, bias=False, spelling=PARAMETRIZED),
    "dino_head bn parametrized": _case(batch_norm=True, spelling=PARAMETRIZED),
    "dino_head dinov3": _case(spelling=lambda layer: layer),
}
"""name -> case. DINOv3's last layer is a linear layer as it is."""
