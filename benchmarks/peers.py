"""Contenders: the same models of timm and transformers in PyTorch, eager and compiled."""

import itertools
from collections.abc import Callable

import torch

from benchmarks.harness import Contender, allow_torchvision
from benchmarks.ours import NUM_CLASSES
from jaxdino.models import registry

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def timm_model(name: str, size: int) -> torch.nn.Module:
    """timm's model of the same shape as ours of that name, with a head."""
    allow_torchvision()
    import timm

    if name.startswith("dinov3_vit"):
        letter, patch = name.removeprefix("dinov3_vit")[0], 16
        word = {"s": "small", "b": "base", "l": "large"}[letter]
        # With a qkv bias, as the checkpoints of Meta and transformers have it; its class token as the feature.
        return timm.create_model(
            f"vit_{word}_patch{patch}_dinov3_qkvb", num_classes=NUM_CLASSES, img_size=size, global_pool="token"
        )
    if registry.get(name).family in ("resnet", "convnext"):  # of any size; the same blocks under another name
        return timm.create_model(name.removeprefix("dinov3_"), num_classes=NUM_CLASSES)
    return timm.create_model(name, num_classes=NUM_CLASSES, img_size=size)


class Headed(torch.nn.Module):
    """transformers' DINOv3 with a linear head on its class token."""

    def __init__(self, name: str, size: int):
        super().__init__()
        from transformers import DINOv3ViTConfig, DINOv3ViTModel

        cfg = registry.get(name).config
        self.backbone = DINOv3ViTModel(
            DINOv3ViTConfig(
                image_size=size,
                patch_size=cfg.patch_size,
                hidden_size=cfg.width,
                intermediate_size=cfg.mlp_dim,
                num_hidden_layers=cfg.depth,
                num_attention_heads=cfg.num_heads,
                num_register_tokens=cfg.num_registers,
                key_bias=False,
            )
        )
        self.head = torch.nn.Linear(cfg.width, NUM_CLASSES)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) -> (B, classes)."""
        return self.head(self.backbone(images).pooler_output)


def models(name: str) -> dict[str, Callable[[str, int], torch.nn.Module]]:
    """{library: maker} of those that have the model."""
    return {"timm": timm_model} | ({"transformers": Headed} if name.startswith("dinov3_vit") else {})


def device() -> str:
    """Return the peers' device: the accelerator if there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def wait() -> None:
    """Wait until the device is idle."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


MODES: dict[str, Callable] = {"eager": lambda f: f, "compile": torch.compile}


def modes(quick: bool) -> tuple[str, ...]:
    """Return "eager" and, unless `quick`, "compile"."""
    return ("eager",) if quick else tuple(MODES)


def forward(name: str, batch: int, size: int, dtype: str, quick: bool) -> list[Contender]:
    """Inference: for bfloat16, once with the weights stored so and once under autocast."""
    each = itertools.product(models(name), modes(quick), sorted({dtype, "float32"}))
    return [inference(library, mode, name, batch, size, dtype, stored) for library, mode, stored in each]


def inference(library: str, mode: str, name: str, batch: int, size: int, dtype: str, stored: str) -> Contender:
    """One library's model in one mode, its weights `stored` as one of `DTYPES`."""
    images = torch.zeros(batch, 3, size, size, device=device(), dtype=DTYPES[stored])
    model = models(name)[library](name, size).to(device(), DTYPES[stored]).eval()
    call = _inference(MODES[mode](model), images, dtype if stored != dtype else None)
    return Contender(f"{library} {mode} {dtype}" + (" autocast" if stored != dtype else ""), call, batch)


def _inference(model: Callable, images: torch.Tensor, dtype: str | None) -> Callable[[], None]:
    def run():
        with torch.inference_mode(), autocast(dtype):
            model(images)
        wait()

    return run


def autocast(dtype: str | None) -> torch.autocast:
    """Return a context of `dtype`; for None and "float32" it does nothing."""
    return torch.autocast(device(), DTYPES[dtype or "bfloat16"], enabled=dtype not in (None, "float32"))


def freeze(model: torch.nn.Module, library: str, trainable: str) -> None:
    """Disable gradients of frozen parameters, as in the documentation of both libraries."""
    if trainable == "all":
        return
    model.requires_grad_(False)
    backbone = getattr(model, "backbone", model)
    trained = [model.head]
    if trainable == "last4":
        blocks = backbone.blocks if library == "timm" else backbone.model.layer
        norms = [getattr(backbone, name, None) for name in ("norm", "fc_norm")]
        trained += [*blocks[-4:], *(norm for norm in norms if norm is not None)]
    for module in trained:
        module.requires_grad_(True)


def training(name: str, batch: int, size: int, dtype: str, trainable: str, slices: int, quick: bool) -> list[Contender]:
    """The full step: normalise, forward under autocast, backward, fused AdamW.

    Args:
      slices: also time gradient accumulation over this number of slices; 1 means none.
    """
    each = itertools.product(models(name), modes(quick), sorted({1, slices}))
    given = name, batch, size, dtype, trainable
    return [stepping(library, mode, *given, parts) for library, mode, parts in each]


def stepping(
    library: str, mode: str, name: str, batch: int, size: int, dtype: str, trainable: str, slices: int = 1
) -> Contender:
    """One library's step in one mode, as `training`."""
    model = models(name)[library](name, size).to(device()).train()
    freeze(model, library, trainable)
    run = _training(MODES[mode](model), model, batch, size, dtype, slices)
    return Contender(f"{library} {mode} {dtype}" + (f", {slices} slices" if slices > 1 else ""), run, batch)


def _training(model, parameters, batch: int, size: int, dtype: str, slices: int) -> Callable[[], None]:
    trained = [p for p in parameters.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.05, fused=True)
    images = torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8, device=device())
    labels = torch.randint(0, NUM_CLASSES, (batch,), device=device())

    def run():
        for part, targets in zip(images.chunk(slices), labels.chunk(slices), strict=True):
            pixels = part.float().div_(255).sub_(0.5).div_(0.5)
            with autocast(dtype):
                logits = model(pixels)
            loss = torch.nn.functional.cross_entropy(logits.float(), targets) / slices
            loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        wait()

    return run
