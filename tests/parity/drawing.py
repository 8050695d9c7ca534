"""Parameters and images drawn so that an error in any of them would show in the output."""

import math

import numpy as np
import torch

SCALES = ("lambda1", "gamma", "gamma_1", "gamma_2")


@torch.no_grad()
def draw(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Fills every parameter in place and gives the model back in eval mode.

    Layer scales and norm scales are uniform in 0.5..1.5, biases and tokens normal with std 0.3, and weights
    normal with std 1/sqrt(inputs), so that activations stay of order one and no term is small beside another.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        leaf = name.split(".")[-1]
        is_norm = parameter.ndim == 1 and leaf == "weight"
        if leaf in SCALES or is_norm:
            parameter.uniform_(0.5, 1.5, generator=generator)
        elif leaf == "weight":
            inputs = parameter[0].numel()
            parameter.normal_(0.0, 1 / math.sqrt(inputs), generator=generator)
        else:
            parameter.normal_(0.0, 0.3, generator=generator)
    return model.eval()


def images(height: int, width: int, seed: int = 1) -> torch.Tensor:
    """Two normal images (2, 3, height, width)."""
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(seed))


def channels_last(pixels: torch.Tensor) -> np.ndarray:
    """(B, C, H, W) in torch to (B, H, W, C) in numpy."""
    return pixels.permute(0, 2, 3, 1).contiguous().numpy()
