"""Adapt the first convolution to images with another number of channels.

The rule is timm's (huggingface/pytorch-image-models timm/models/_manipulate.py, adapt_input_conv). For one channel,
the kernel is summed over RGB, so a grey image gives the same output as before in RGB. For n channels, the three
kernels are repeated in turn and scaled by 3 / n, so activations keep their scale. The mean and standard deviation of
the preprocessing are averaged for one channel and repeated in turn for more.
"""

import dataclasses
from typing import TypeVar, cast

import numpy as np

from convert.lazy_array import LazyArray
from jaxdino.core.errors import UserError
from jaxdino.core.options import CHANNELS, check_range
from jaxdino.models.spec import ImageConfig, ModelSpec, Preprocess

Opened = TypeVar("Opened")
RGB = 3


def adapt_kernel(kernel: np.ndarray, channels: int) -> np.ndarray:
    """Adapt a kernel (h, w, 3, D) to `channels` input channels; the dtype is kept."""
    wide = kernel.astype(np.float32)
    if channels == 1:
        return wide.sum(axis=2, keepdims=True).astype(kernel.dtype)
    return (wide[:, :, np.arange(channels) % RGB] * (RGB / channels)).astype(kernel.dtype)


def adapt_preprocess(how: Preprocess, channels: int) -> Preprocess:
    """Adapt the mean and standard deviation to `channels`: the average for one, the three in turn for more."""
    turn = [i % RGB for i in range(channels)]

    def adapted(values: tuple[float, ...]) -> tuple[float, ...]:
        return (sum(values) / RGB,) if channels == 1 else tuple(values[i] for i in turn)

    return dataclasses.replace(how, mean=adapted(how.mean), std=adapted(how.std))


def seen_as(spec: ModelSpec) -> ModelSpec:
    """Adapt the spec of weights with other channels if only the RGB mean and standard deviation are known."""
    channels = spec.config.in_channels
    if channels in (0, RGB) or len(spec.preprocess.mean) != RGB:
        return spec
    return dataclasses.replace(spec, preprocess=adapt_preprocess(spec.preprocess, channels))


def with_channels(spec: ModelSpec, channels: int) -> ModelSpec:
    """Return the spec for images with `channels` channels.

    Raises:
      UserError: for a number below one, and for a network that takes features.
    """
    if not spec.config.in_channels:
        raise UserError(f"in_channels={channels}: a {spec.name} takes features, not images")
    check_range("in_channels", channels, CHANNELS)
    if channels == spec.config.in_channels:
        return spec
    how, config = adapt_preprocess(spec.preprocess, channels), cast(ImageConfig, spec.config)
    return dataclasses.replace(spec, config=config.with_channels(channels), preprocess=how)


def fit_channels(opened: Opened, channels: int | None) -> Opened:
    """Adapt the opened weights to images with `channels` channels; None keeps them as they are.

    Raises:
      UserError: if the number changes and the weights do not have three channels, or `channels` is below one.
    """
    spec = opened.card.spec
    if channels is None or channels == spec.config.in_channels:
        return opened
    if spec.config.in_channels not in (0, RGB):
        raise UserError(
            f"in_channels={channels}: weights for {spec.config.in_channels} channels cannot be adapted to that; "
            "weights for 3 channels can, to 1 or more"
        )
    spec = with_channels(spec, channels)
    card = dataclasses.replace(opened.card, spec=spec)
    path = spec.config.input_kernel
    old = opened.flat[path]
    shape = (*old.shape[:2], channels, old.shape[3])
    new = LazyArray(shape, old.dtype, lambda: adapt_kernel(np.asarray(old), channels))
    note = f"the first convolution was adapted from {RGB} to {channels} channels: {path}"
    return dataclasses.replace(
        opened,
        card=card,
        skeleton=spec.skeleton(head=card.head),
        flat=opened.flat | {path: new},
        notes=[*opened.notes, note],
    )
