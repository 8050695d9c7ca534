"""The two sides of a trajectory of self-distillation: our step and the PyTorch loop, on the same crops."""

import functools
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import numpy as np
import torch
from torch import nn

from configs import ssl
from convert.load import load_pretrained
from convert.store import Card
from jaxdino import optim
from jaxdino.core import sharding
from jaxdino.core.image_sizes import Sizes
from jaxdino.core.params import Flat
from jaxdino.objectives.distill import with_heads
from jaxdino.objectives.distill_settings import Projection
from jaxdino.stage import stages
from jaxdino.strategy import resolve
from jaxdino.train import state, step
from jaxdino.train.task import Part
from jaxdino.train.tasks.distill import Distillation, backbone_of
from tests.parity import resnet_cases
from tests.parity.cases import GRID, HEADS, PATCH, WIDTH
from tests.parity.drawing import draw
from tests.parity.meta_modules import MetaViT
from tests.parity.torch_distill import Crops, Distiller, Head, Network, Recipe

STEPS, EPOCH, BATCH, LOCALS = 30, 3, 8, 3
HEAD = dict(hidden_dim=48, bottleneck_dim=16, out_dim=32)
CLIP = 0.1

DINO = Recipe(
    STEPS, rate=2e-3, warmup=2 * EPOCH, final=0.1, frozen=2 * EPOCH, clip=CLIP, heating=4 * EPOCH, momentum=(0.9, 1.0)
)
DINO = replace(DINO, teacher_temperature=(0.03, 0.06), decay=(0.1, 1.0))
DINOV2 = replace(DINO, ibot=1.0, koleo=0.1)
DINOV3 = replace(DINOV2, centring="sinkhorn", gram=2.0, clip_by="global")
RECIPES = {"dino": DINO, "resnet": replace(DINO, rate=2e-4), "dinov2": DINOV2, "dinov3": DINOV3}
"""case -> the published method in words of its own, its lengths and rates chosen so that thirty steps show them."""


class Tokens(MetaViT):
    """A ViT that gives its class token and patches, and can have patches masked."""

    def forward(self, pixels: torch.Tensor, mask: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        h, w = (side // PATCH for side in pixels.shape[2:])
        x = self.patch_embed(pixels)
        if mask is not None:
            x = torch.where(mask[..., None], self.mask_token, x)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)
        rope = self.rope_embed(h, w) if self.rope else None
        x = x if self.rope else x + self.positions(h, w)
        more = self.state_tokens().expand(len(x), -1, -1)
        x = torch.cat([x[:, :1], more, x[:, 1:]], dim=1)
        for block in self.blocks:
            x = block(x, rope)
        x = self.norm(x)
        return x[:, 0], x[:, 1 + more.shape[1] :]

    def state_tokens(self) -> torch.Tensor:
        """The registers; none of a model without."""
        return getattr(self, self.tokens_name) if self.tokens_name else self.cls_token[:, :0]


class Pooled(nn.Module):
    """A ResNet's pooled feature map in the place of a class token."""

    def __init__(self):
        super().__init__()
        self.net = resnet_cases.build_torchvision(False)

    def forward(self, pixels: torch.Tensor, mask: None) -> tuple[torch.Tensor, None]:
        return self.net(pixels), None


def build(case: str, seed: int = 0) -> Network:
    """The same drawn networks at each call."""
    if case == "resnet":
        backbone, width = Pooled(), resnet_cases.PLANES[-1]
    else:
        rope = dict(rope=True, registers=4, tokens_name="storage_tokens", mask_k_bias=True)
        how = {"dino": dict(scaled=False), "dinov2": {}, "dinov3": rope}[case]
        backbone, width = Tokens(depth=2, **how), WIDTH
    shape = (width, *HEAD.values())
    fixed = case == "dino"
    heads = [Head(*shape, fixed=fixed, batch_norm=case == "resnet") for _ in range(1 + (case == "dinov3"))]
    network = draw(Network(backbone, *heads), seed)
    if case == "resnet":
        resnet_cases.prepare(backbone.net)
    for head in heads:
        with torch.no_grad():
            head.last_layer.weight_g.fill_(1)
    return network


def converted(network: Network) -> tuple[Card, Flat]:
    """The backbone's card and all leaves as ours, through the files and tables of the conversion."""
    backbone = getattr(network.backbone, "net", network.backbone)
    parts = {"backbone": backbone, "dino_head": network.dino_head, "ibot_head": network.ibot_head}
    flat, cards = {}, {}
    for name, module in parts.items():
        if module is None:
            continue
        overrules = dict(num_heads=HEADS) if name == "backbone" and hasattr(module, "pos_embed") else {}
        with tempfile.TemporaryDirectory() as folder:
            torch.save(module.state_dict(), Path(folder) / "weights.pth")
            found = load_pretrained(Path(folder) / "weights.pth", **overrules)
        cards[name] = found.card
        flat |= {f"{name}.{path.removeprefix('backbone.')}": leaf for path, leaf in found.flat.items()}
    return cards["backbone"], flat


@dataclass(frozen=True)
class Batches:
    """Crops for each step, the same for both sides; images of weight 0 are noise."""

    case: str
    weight: tuple[int, ...] = (1,) * BATCH

    @functools.cached_property
    def ours(self) -> list[dict[str, np.ndarray]]:
        """(B, V, H, W, 3), as our step takes them."""
        rng, found = np.random.default_rng(0), []
        sides = (32, 16) if self.case == "resnet" else (GRID * PATCH, GRID // 2 * PATCH)
        for _ in range(STEPS):
            crops = [
                rng.normal(size=(BATCH, views, side, side, 3)).astype(np.float32)
                for views, side in zip((2, LOCALS), sides, strict=True)
            ]
            shared = rng.normal(size=(BATCH, 1, 1, 1, 3)).astype(np.float32)  # an image's views are alike
            masked = rng.integers(0, 9, (BATCH, 2, 1, 1)) * rng.integers(0, 2, (BATCH, 2, 1, 1))
            order = rng.random((BATCH, 2, GRID * GRID)).argsort(-1).reshape(BATCH, 2, GRID, GRID)
            batch = {"global": crops[0] + 2 * shared, "local": crops[1] + 2 * shared, "mask": order < masked}
            found.append(batch | {"weight": np.float32(self.weight)})
        return found

    @functools.cached_property
    def theirs(self) -> list[Crops]:
        """A list of views (B, 3, H, W) of the images that count, as the PyTorch loop takes them."""
        counts, found = np.array(self.weight) > 0, []
        for batch in self.ours:
            views = {kind: np.moveaxis(batch[kind][counts], (1, -1), (0, 2)) for kind in ("global", "local")}
            mask = np.moveaxis(batch["mask"][counts], 1, 0).reshape(2, counts.sum(), -1)
            found.append(
                {
                    name: list(map(torch.from_numpy, map(np.ascontiguousarray, value)))
                    for name, value in (views | {"mask": mask}).items()
                }
            )
        return found


@dataclass(frozen=True)
class Run:
    """What is compared: the losses, all leaves of the teacher, the centres."""

    losses: list[float]
    teacher: Flat
    centres: dict[str, np.ndarray]


@functools.cache
def batches(case: str, weight: tuple[int, ...] = (1,) * BATCH) -> Batches:
    """Made once."""
    return Batches("resnet" if case == "resnet" else "vit", weight)


def plain_loop(case: str, recipe: Recipe, kind: type[Distiller] = Distiller) -> Distiller:
    """The PyTorch loop before its first step."""
    return kind(build(case), recipe, build(case, seed=1).backbone if recipe.gram else None)


def theirs(case: str, recipe: Recipe, weight=(1,) * BATCH) -> Run:
    """The PyTorch loop, all its steps."""
    loop = plain_loop(case, recipe)
    losses = [loop.train(crops).item() for crops in batches(case, weight).theirs]
    return Run(losses, converted(loop.teacher)[1], {name: centre.numpy() for name, centre in loop.centres.items()})


def config_of(case: str, accumulate: int):
    """The config of self-distillation, its lengths cut to thirty steps."""
    config = ssl.get_config("dinov3_vits16")
    config.model.weights = "drawn"
    config.objective.method = "dino" if case == "resnet" else case
    config.projection.update(**HEAD, norm_last_layer=case == "dino", use_bn=case == "resnet", separate=case == "dinov3")
    config.data.batch_size = BATCH
    recipe = RECIPES[case]
    config.optimizer.update(clip_norm=CLIP, clip_by=recipe.clip_by, accumulate=accumulate)
    config.optimizer.update(weight_decay=recipe.decay[0], weight_decay_end=recipe.decay[1])
    given = config.stages[0]
    given.epochs, given.schedule.warmup_epochs, given.schedule.final = STEPS // EPOCH, 2.0, recipe.final
    given.groups.last_layer.update(lr=recipe.rate, freeze_epochs=2.0)
    given.groups.all.lr = recipe.rate
    given.objective.gram = None  # the method's
    low, high = recipe.teacher_temperature
    heat = dict(warmup_teacher_temperature=low, teacher_temperature=high, warmup_teacher_temperature_epochs=4.0)
    given.objective.update(momentum=recipe.momentum[0], **heat)
    return config


@functools.cache
def ours(case: str, devices: int = 1, accumulate: int = 1, weight: tuple[int, ...] = (1,) * BATCH) -> Run:
    """Our step."""
    config, mesh = config_of(case, accumulate), sharding.make_mesh(devices=jax.devices()[:devices])
    task = Distillation.__new__(Distillation)  # without its data: crops are given here
    task.config, task.mesh, task.tell = config, mesh, print
    task.card, flat = converted(build(case))
    task.spec = with_heads(task.card.spec, Projection.of(config.projection))
    (stage,) = stages(config)
    skeleton = task.skeleton(stage)
    plan = resolve(task.spec, skeleton, stage)
    tx = optim.build(plan, stage, STEPS, steps_per_epoch=EPOCH)
    sizes = Sizes.one((GRID * PATCH,) * 2)
    part = Part(0, stage, plan, skeleton, tx, EPOCH, STEPS, sizes, sizes.final, 0)
    task.masking = lambda stage: None  # the masks are given too
    objective = replace(task.objective(part), capacity=8 * 2 * BATCH // devices // accumulate)
    flat = sharding.put(flat, sharding.replicated(mesh))
    average = {path: flat[path] for path in task.averaged([plan], stage)}
    more = task.more(flat)
    if more["teacher"]["reference"]:
        reference = backbone_of(converted(build(case, seed=1))[1])
        more["teacher"]["reference"] = sharding.put(reference, sharding.replicated(mesh))
    now = state.begin(flat, skeleton, plan, tx, seed=0, mesh=mesh, ema=average, more=more)
    one = step.make_train_step(
        skeleton, objective, tx, lambda key, batch: batch, accumulate=accumulate, ema_decay=objective.momentum
    )
    compiled, losses = step.compile_train_step(one, now, mesh), []
    for batch in batches(case, weight).ours:
        batch = {name: value for name, value in batch.items() if name != "mask" or objective.settings.ibot}
        now["moving"], found = compiled(now["moving"], now["frozen"], sharding.put_batch(batch, mesh))
        losses.append(float(found["loss"]))
    teacher = state.whole(state.evaluated(now["moving"]), now["frozen"])
    return Run(losses, *sharding.gather((teacher, now["moving"]["teacher"]["centres"])))
