"""Contenders: PyTorch's self-distillation step, on given crops or from files. Does not import JAX."""

import argparse
import copy
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from benchmarks.distill_step import METHODS
from benchmarks.harness import Contender, allow_torchvision, cores
from tests.parity.torch_distill import Distiller, Head, Network, Recipe

STEPS, EPOCH = 1000, 100
HIDDEN, BOTTLENECK = 2048, 256
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def device() -> str:
    """Return the device: the accelerator if there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def idle(library: str) -> None:
    """The libraries."""
    allow_torchvision()
    __import__(library)


class Timm(nn.Module):
    """timm's model with the loop's interface. Masked patches are replaced in the patch embedding."""

    def __init__(self, name: str, size: int):
        super().__init__()
        allow_torchvision()
        import timm

        if name.startswith("dinov3_vit"):
            word = {"s": "small", "b": "base", "l": "large"}[name.removeprefix("dinov3_vit")[0]]
            name = f"vit_{word}_patch16_dinov3_qkvb"
        self.net = timm.create_model(name, num_classes=0, img_size=size, dynamic_img_size=True)
        self.mask_token = nn.Parameter(torch.zeros(self.net.embed_dim))
        self.mask: torch.Tensor | None = None
        self.net.patch_embed.register_forward_hook(self._hide)

    def _hide(self, module: nn.Module, given: tuple, x: torch.Tensor) -> torch.Tensor:
        if self.mask is None:
            return x
        return torch.where(self.mask.reshape(*x.shape[:-1], 1), self.mask_token.to(x.dtype), x)

    def forward(self, images: torch.Tensor, mask: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        self.mask = mask
        x = self.net.forward_features(images)
        return x[:, 0], x[:, self.net.num_prefix_tokens :]

    @property
    def width(self) -> int:
        """Return the width of the features."""
        return self.net.embed_dim


class Transformers(nn.Module):
    """transformers' DINOv3 with the loop's interface."""

    def __init__(self, name: str, size: int):
        super().__init__()
        allow_torchvision()
        from transformers import DINOv3ViTConfig, DINOv3ViTModel

        width, depth, heads = {"s": (384, 12, 6), "b": (768, 12, 12), "l": (1024, 24, 16)}[name.split("vit")[1][0]]
        shape = dict(hidden_size=width, num_hidden_layers=depth, num_attention_heads=heads, intermediate_size=4 * width)
        config = DINOv3ViTConfig(image_size=size, patch_size=16, num_register_tokens=4, key_bias=False, **shape)
        self.net, self.width = DINOv3ViTModel(config), width

    def forward(self, images: torch.Tensor, mask: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.net(images, bool_masked_pos=mask).last_hidden_state
        return x[:, 0], x[:, 5:]


BACKBONES = {"timm": Timm, "transformers": Transformers}


def loop(library: str, mode: str, args: argparse.Namespace) -> Callable[[dict], None]:
    """Return a function that runs one step on a batch of crops."""
    torch.set_num_threads(cores())
    backbone = BACKBONES[library](args.model, args.size)
    student = Network(backbone, Head(backbone.width, HIDDEN, BOTTLENECK, args.out_dim)).to(device())
    recipe = Recipe(STEPS, rate=5e-4, frozen=EPOCH, final=0.002, **METHODS[args.method])
    reference = copy.deepcopy(backbone) if recipe.gram else None
    distiller = Distiller(student, recipe, reference, fused=True)
    if mode == "compile":
        for part in (student, distiller.teacher):
            part.backbone.compile(dynamic=False)
            part.dino_head.compile(dynamic=False)
    autocast = torch.autocast(device(), DTYPES[args.dtype], enabled=args.dtype != "float32")
    loss = distiller.loss

    def under_autocast(crops):
        with autocast:
            return loss(crops)

    distiller.loss = under_autocast

    def run(crops):
        distiller.train(crops)
        if device() == "cuda":
            torch.cuda.synchronize()

    return run


def masks(crops: dict[str, np.ndarray]) -> list[torch.Tensor]:
    """Return masks (B, N) for each global view."""
    return [torch.from_numpy(mask).flatten(1).to(device()) for mask in np.moveaxis(crops["mask"], 1, 0)]


def stepping(library: str, mode: str, args: argparse.Namespace, crops: dict[str, np.ndarray]) -> Contender:
    """Return a contender that steps on one batch of crops."""
    views = {
        kind: [torch.from_numpy(view).permute(0, 3, 1, 2).contiguous().to(device()) for view in np.moveaxis(x, 1, 0)]
        for kind, x in crops.items()
        if kind in ("global", "local")
    }
    run, given = loop(library, mode, args), views | {"mask": masks(crops)}
    return Contender(f"{library} {mode} {args.dtype}", lambda: run(given), args.batch)


class Files(torch.utils.data.Dataset):
    """A file's views, each by torchvision's transforms."""

    def __init__(self, paths: Sequence[Path], recipes: dict[str, list[Callable]]):
        self.paths, self.recipes = paths, recipes

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, list[torch.Tensor]]:
        with Image.open(self.paths[index]) as file:
            image = file.convert("RGB")
        return {kind: [one(image) for one in steps] for kind, steps in self.recipes.items()}


def from_files(
    library: str, mode: str, args: argparse.Namespace, paths: Sequence[Path], workers: int, crops: dict[str, np.ndarray]
) -> Contender:
    """Return a contender that steps on crops from a DataLoader in parallel; the masks are those of `crops`."""
    allow_torchvision()
    from dataclasses import replace

    from benchmarks.multicrop import torch_transform
    from jaxdino.data.recipe import DINO, expanded

    sizes, counts = {"global": args.size, "local": args.local_size}, {"local": args.locals}
    views = [replace(view, size=sizes[view.kind], count=counts.get(view.kind, view.count)) for view in DINO]
    recipes = {kind: [torch_transform(view) for view in expanded(views, kind)] for kind in sizes if kind in crops}
    files = Files(paths, recipes)
    endless = torch.utils.data.RandomSampler(files, replacement=True, num_samples=2**40)
    loader = torch.utils.data.DataLoader(files, args.batch, sampler=endless, num_workers=workers)
    batches: Iterator = itertools.chain.from_iterable(itertools.repeat(loader))
    step, hidden = loop(library, mode, args), masks(crops)

    def run():
        views = {kind: [view.to(device()) for view in x] for kind, x in next(batches).items()}
        step(views | {"mask": hidden})

    return Contender(f"{library} {mode} {args.dtype}, {workers} workers", run, args.batch)
