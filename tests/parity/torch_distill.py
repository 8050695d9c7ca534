"""Self-distillation in plain PyTorch: what a trajectory of ours is held against. It knows nothing of our code.

Written from the papers (DINO arXiv:2104.14294, iBOT 2111.07832, KoLeo 1806.03198, DINOv2 2304.07193, DINOv3
2508.10104, Sinkhorn-Knopp 2006.09882) and from what facebookresearch/dino, dinov2 and dinov3 do where these are silent.
"""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

TOKENS = ("cls_token", "mask_token", "register_tokens", "storage_tokens", "pos_embed")
Crops = Mapping[str, Sequence[torch.Tensor]]
"""global, local: a tensor (B, 3, H, W) for each view; mask: one (B, N) bool for each global view."""


@dataclass(frozen=True)
class Recipe:
    """A run. Pairs are (where it starts, where it ends); lengths are steps.

    Attributes:
      rate: the peak, after `warmup`; final: what is left of it at the end, as a share.
      frozen: how long the last layer's rate is 0.
      clip: of each parameter's gradient or of all together, by `clip_by`.
      heating: how long the teacher's temperature rises.
      dino, ibot, koleo, gram: weights of the losses.
    """

    steps: int
    rate: float
    warmup: int = 0
    final: float = 0.0
    frozen: int = 0
    decay: tuple[float, float] = (0.04, 0.4)
    clip: float = 3.0
    clip_by: str = "parameter"
    momentum: tuple[float, float] = (0.996, 1.0)
    student_temperature: float = 0.1
    teacher_temperature: tuple[float, float] = (0.04, 0.04)
    heating: int = 0
    centring: str = "centre"
    centre_momentum: float = 0.9
    dino: float = 1.0
    ibot: float = 0.0
    koleo: float = 0.0
    gram: float = 0.0


def along_cosine(start: float, end: float, step: int, steps: int) -> float:
    """Half a cosine from `start` at step 0 to `end` at `steps`."""
    return end + (start - end) * (1 + math.cos(math.pi * step / steps)) / 2


class Prototypes(nn.Module):
    """A linear layer under weight norm; with `fixed` lengths, which stay 1."""

    def __init__(self, width: int, count: int, fixed: bool):
        super().__init__()
        self.weight_g = nn.Parameter(torch.ones(count, 1), requires_grad=not fixed)
        self.weight_v = nn.Parameter(torch.randn(count, width) * 0.02)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.weight_g * F.normalize(self.weight_v, dim=1))


class Head(nn.Module):
    """Three linear layers with GELU, and a batch norm before it if asked for; unit length; prototypes."""

    def __init__(self, width: int, hidden: int, bottleneck: int, count: int, *, fixed=True, batch_norm=False):
        super().__init__()
        norm = [nn.BatchNorm1d(hidden)] if batch_norm else []
        twin = copy.deepcopy(norm)
        layers = [nn.Linear(width, hidden), *norm, nn.GELU(), nn.Linear(hidden, hidden), *twin, nn.GELU()]
        self.mlp = nn.Sequential(*layers, nn.Linear(hidden, bottleneck))
        self.last_layer = Prototypes(bottleneck, count, fixed)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last_layer(F.normalize(self.mlp(x), dim=-1))


class Network(nn.Module):
    """A backbone, (images, mask) -> class tokens (B, D) and patches (B, N, D), and its projection heads."""

    def __init__(self, backbone: nn.Module, dino_head: nn.Module, ibot_head: nn.Module | None = None):
        super().__init__()
        self.backbone, self.dino_head, self.ibot_head = backbone, dino_head, ibot_head

    def patch_scores(self, patches: torch.Tensor) -> torch.Tensor:
        """By the patches' own head, or the class token's."""
        return (self.ibot_head or self.dino_head)(patches)


class Distiller:
    """Student, teacher, centres, optimiser. Every rule of the method is a method, for a test to get it wrong.

    Args:
      reference: the backbone that Gram anchoring holds on to.
    """

    def __init__(self, student: Network, recipe: Recipe, reference: nn.Module | None = None, **optimizer):
        self.student, self.recipe, self.reference = student.train(), recipe, reference
        self.teacher = copy.deepcopy(student).requires_grad_(False).train()  # batch norms look at their own batch
        groups = [self.group(name, parameter) for name, parameter in student.named_parameters()]
        self.optimizer = torch.optim.AdamW(groups, **optimizer)
        self.centres: dict[str, torch.Tensor] = {}
        self.step = 0

    def group(self, name: str, parameter: torch.Tensor) -> dict:
        """Biases, norms, layer scales and tokens have no weight decay."""
        bare = parameter.ndim == 1 or name.endswith(TOKENS)
        return {"params": [parameter], "name": name, "bare": bare}

    # What the teacher says.

    def temperature(self) -> float:
        """Of the teacher: rises linearly."""
        start, end = self.recipe.teacher_temperature
        return start + (end - start) * min((self.step + 1) / max(self.recipe.heating, 1), 1)

    def targets(self, head: str, scores: torch.Tensor) -> torch.Tensor:
        """Scores (n, K) as probabilities; the centre moves when it has been used."""
        recipe, temperature = self.recipe, self.temperature()
        if recipe.centring == "sinkhorn":
            return self.sinkhorn(scores, temperature)
        centre = self.centres.get(head, torch.zeros_like(scores[0]))
        if recipe.centring == "centre":
            kept = recipe.centre_momentum
            self.centres[head] = kept * centre + (1 - kept) * scores.mean(0)
        return F.softmax((scores - centre) / temperature, dim=-1)

    def sinkhorn(self, scores: torch.Tensor, temperature: float) -> torch.Tensor:
        """Three rounds: each prototype gets as much as the others, then each row."""
        shares = torch.exp(scores / temperature)
        for _ in range(3):
            shares = shares / shares.sum(0, keepdim=True)
            shares = shares / shares.sum(1, keepdim=True)
        return shares

    # The losses.

    def logarithms(self, scores: torch.Tensor) -> torch.Tensor:
        """The student's scores (n, K) as log probabilities."""
        return F.log_softmax(scores.float() / self.recipe.student_temperature, dim=-1)

    def is_pair(self, teacher: int, student: int) -> bool:
        """Whether two views are compared: a view is not compared with itself."""
        return teacher != student

    def dino(self, targets: Sequence[torch.Tensor], answers: Sequence[torch.Tensor]) -> torch.Tensor:
        """The mean over pairs of views of the cross entropies (B,)."""
        found = [
            -(target * answer).sum(-1).mean()
            for t, target in enumerate(targets)
            for s, answer in enumerate(answers)
            if self.is_pair(t, s)
        ]
        return sum(found) / len(found)

    def patch_weights(self, mask: torch.Tensor) -> torch.Tensor:
        """(views, N) -> a weight for each masked patch: their mean in each view, and then over all views."""
        per_view = mask.sum(1, keepdim=True).clamp(min=1)
        return (1 / per_view).expand(mask.shape)[mask] / len(mask)

    def koleo(self, views: Sequence[torch.Tensor]) -> torch.Tensor:
        """-log of the distance to the nearest neighbour among the images, added up over the views."""
        return sum(self.spread(F.normalize(view, dim=-1)) for view in views)

    def spread(self, x: torch.Tensor) -> torch.Tensor:
        """(B, D) of length one -> a scalar."""
        nearest = (x @ x.T).detach().fill_diagonal_(-1).argmax(1)
        return -torch.log((x - x[nearest]).norm(dim=-1) + 1e-8).mean()

    def gram(self, patches: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        """The squared difference of the patches' cosines from the reference's, image by image."""
        with torch.no_grad():
            theirs = F.normalize(self.reference(images, None)[1], dim=-1)
        ours = F.normalize(patches, dim=-1)
        return (ours @ ours.mT - theirs @ theirs.mT).square().mean()

    def student_mask(self, crops: Crops) -> torch.Tensor | None:
        """What the student does not see."""
        return torch.cat(list(crops["mask"])) if self.recipe.ibot else None

    def loss(self, crops: Crops) -> torch.Tensor:
        """The weighted sum; moves the centres."""
        recipe, student, teacher = self.recipe, self.student, self.teacher
        views, images = len(crops["global"]), torch.cat(list(crops["global"]))
        mask = torch.cat(list(crops["mask"])) if recipe.ibot else None
        with torch.no_grad():
            cls, patches = teacher.backbone(images, None)
            targets = self.targets("dino_head", teacher.dino_head(cls).float())
            if recipe.ibot:
                patch_targets = self.targets("ibot_head", teacher.patch_scores(patches[mask]).float())
        cls, patches = student.backbone(images, self.student_mask(crops))
        seen = [cls]
        if len(crops.get("local", ())):
            seen.append(student.backbone(torch.cat(list(crops["local"])), None)[0])
        seen = torch.cat(seen)
        answers = self.logarithms(student.dino_head(seen))
        total = recipe.dino * self.dino(targets.chunk(views), answers.split(len(images) // views))
        if recipe.ibot:
            found = -(patch_targets * self.logarithms(student.patch_scores(patches[mask]))).sum(-1)
            total = total + recipe.ibot * (found * self.patch_weights(mask)).sum()
        if recipe.koleo:
            total = total + recipe.koleo * self.koleo(cls.float().chunk(views))
        if recipe.gram:
            total = total + recipe.gram * self.gram(patches.float(), images)
        return total

    # The update.

    def clip(self) -> None:
        """Of each gradient by itself (DINO), or of all by their common norm."""
        given = [p for p in self.student.parameters() if p.grad is not None]
        if self.recipe.clip_by == "global":
            nn.utils.clip_grad_norm_(given, self.recipe.clip)
            return
        for parameter in given:
            parameter.grad *= (self.recipe.clip / (parameter.grad.norm() + 1e-6)).clamp(max=1)

    def schedule(self) -> None:
        """This step's rates and weight decays."""
        recipe, step = self.recipe, self.step
        if step < recipe.warmup:
            rate = recipe.rate * step / recipe.warmup
        else:
            rate = recipe.rate * along_cosine(1, recipe.final, step - recipe.warmup, recipe.steps - recipe.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = 0.0 if "last_layer" in group["name"] and step < recipe.frozen else rate
            group["weight_decay"] = 0.0 if group["bare"] else along_cosine(*recipe.decay, step, recipe.steps)

    @torch.no_grad()
    def follow(self) -> None:
        """The teacher's parameters move towards the student's."""
        kept = along_cosine(*self.recipe.momentum, self.step, self.recipe.steps)
        for mine, theirs in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
            mine.mul_(kept).add_(theirs, alpha=1 - kept)

    def apply(self) -> None:
        """The student's update, and then the teacher's."""
        self.optimizer.step()
        self.follow()

    def train(self, crops: Crops) -> torch.Tensor:
        """One step; the loss before it."""
        loss = self.loss(crops)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.clip()
        self.schedule()
        self.apply()
        self.step += 1
        return loss.detach()
