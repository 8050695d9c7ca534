"""Runs the PyTorch original beside our model on one image and tells the largest differences."""

import dataclasses
from pathlib import Path

import numpy as np

from convert.hub import find
from convert.load import load_pretrained, recognise_source
from convert.readers import Source, open_source
from convert.store import is_model
from jaxdino.core.errors import UserError
from jaxdino.core.params import bind
from jaxdino.models.registry import ModelSpec

TOLERANCE = 1e-5


@dataclasses.dataclass(frozen=True)
class Difference:
    """The largest absolute difference at one place, and that divided by the largest value of the original."""

    place: str
    absolute: float
    relative: float


def verify(src: str | Path, *, image: str | Path | None = None, **overrules) -> tuple[ModelSpec, str, list[Difference]]:
    """Compares at the embedding, after each block and at the output, in float32.

    Args:
      src: a PyTorch checkpoint: a file, a Hugging Face folder or a hub name.
      image: an image file; without one, a fixed random picture at the model's size.

    Returns:
      The model, what the original was, and the differences in order.

    Raises:
      UserError: if torch is not installed, or SRC is no PyTorch checkpoint.
    """
    path = find(src)
    if is_model(path):
        raise UserError(f"{path} is a model of ours: give verify the PyTorch checkpoint it came from")
    try:
        import torch  # noqa: F401
    except ImportError:
        raise UserError("verify runs the PyTorch original: install torch (CPU is enough), then call it again") from None
    with open_source(path) as source:
        found = recognise_source(source, **overrules)
        pixels = _pixels(found.spec, image)
        ours = _ours(load_pretrained(path, drop_head=True, **overrules), pixels)
        original, theirs = _original(source, found, path, pixels)
    places = ["embedding", *(f"block {i}" for i in range(found.spec.config.depth)), "output"]
    pairs = zip(places, ours, theirs[: len(ours) - 1] + theirs[-1:], strict=True)
    return found.spec, original, [_difference(place, a, b) for place, a, b in pairs]


def _pixels(spec: ModelSpec, image: str | Path | None) -> np.ndarray:
    """(1, H, W, C) float32, normalised."""
    how = spec.preprocess
    if image is None:
        pixels = np.random.default_rng(0).random((*how.size, spec.config.in_channels), np.float32)
    else:
        from jaxdino.data.transforms import EvalTransform

        transform = EvalTransform(how.size, how.crop_pct, how.interpolation, max_pixels=10**9)
        pixels = transform(str(image)).astype(np.float32) / 255
    mean, std = (np.asarray(v, np.float32)[: spec.config.in_channels] for v in (how.mean, how.std))
    return ((pixels - mean) / std)[None]


def _ours(found, pixels: np.ndarray) -> list[np.ndarray]:
    import jax

    spec = found.card.spec
    skeleton = spec.skeleton()
    flat = {path: np.asarray(array, np.float32) for path, array in found.flat.items()}

    def forward(flat, pixels):
        backbone = bind(skeleton, flat).backbone
        states, _ = backbone.hidden_states(pixels)
        return [*states, backbone.norm(states[-1])]

    with jax.default_matmul_precision("highest"):
        return [np.asarray(state) for state in jax.jit(forward)(flat, pixels)]


def _original(source: Source, found, path: Path, pixels: np.ndarray) -> tuple[str, list[np.ndarray]]:
    import torch

    from convert.reference import StateDictViT, run_transformers

    channels_first = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))
    if found.layout == "hf":
        folder = path if path.is_dir() else path.parent
        if not (folder / "config.json").is_file():
            raise UserError(
                f"{folder}: transformers needs the Hugging Face folder, with config.json beside the weights"
            )
        return "transformers", run_transformers(str(folder), channels_first)
    state = {key: torch.from_numpy(source.read(full).astype(np.float32)) for key, full in found.keys.items()}
    return f"the {found.layout} state dict in torch", StateDictViT(state, found.spec.config)(channels_first)


def _difference(place: str, ours: np.ndarray, theirs: np.ndarray) -> Difference:
    absolute = float(np.abs(ours - theirs).max())
    return Difference(place, absolute, absolute / float(np.abs(theirs).max()))
