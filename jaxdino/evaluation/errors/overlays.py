"""Where a network looks: Grad-CAM of a class, and attention of the class token, over the images that it received.

Source of Grad-CAM: Selvaraju et al., Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization
(arXiv:1610.02391), equations 1 and 2.
"""

import io
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from jaxdino.core.page import data_uri
from jaxdino.core.params import Flat, bind
from jaxdino.data.photometric import standardise
from jaxdino.data.thumbnail import SIDE
from jaxdino.evals.pictures import look
from jaxdino.evaluation.context import Context
from jaxdino.evaluation.predictions import batches_of
from jaxdino.models.output import Output

GRAD_CAM, ATTENTION = "Grad-CAM", "attention"


def has_map(backbone: Any) -> bool:
    """Whether Grad-CAM is defined here for a backbone: a network of feature maps, or a ViT."""
    return hasattr(backbone, "stage_maps") or hasattr(backbone, "cls_attention")


def last_map(backbone: Any, pixels: jax.Array) -> tuple[jax.Array, Callable[[jax.Array], Output]]:
    """Return the map (B, h, w, D) of Grad-CAM, and the rest of the backbone as a function of it.

    It is the last feature map; of a ViT the patch tokens before the last block, because a head on the class token
    does not depend on the patches after it.
    """
    if hasattr(backbone, "stage_maps"):
        return backbone.stage_maps(pixels)[-1], backbone.finish
    states, grid = backbone.hidden_states(pixels)
    first = states[-2].shape[1] - grid[0] * grid[1]
    special, patches = states[-2][:, :first], states[-2][:, first:]

    def rest(patches_BxhxwxD: jax.Array) -> Output:
        tokens = jnp.concatenate([special, patches_BxhxwxD.reshape(patches.shape)], axis=1)
        return backbone.finish(backbone.last_block(tokens, grid), grid)

    return patches.reshape(patches.shape[0], *grid, -1), rest


def grad_cam(logit: Callable[[jax.Array], jax.Array], map_BxhxwxD: jax.Array) -> jax.Array:
    """Return Grad-CAM float32 (B, h, w), not scaled: where the map speaks for the class.

    Args:
      logit: function of the map that returns the logit of each image's class, (B,).
    """
    slope = jax.grad(lambda x: logit(x).sum())(map_BxhxwxD)
    weights = slope.astype(jnp.float32).mean(axis=(1, 2), keepdims=True)
    return jax.nn.relu((weights * map_BxhxwxD.astype(jnp.float32)).sum(axis=-1))


def seen(model: Any, flat: Flat, images: jax.Array, classes: jax.Array) -> dict[str, jax.Array]:
    """Return overlays by name, float32 (B, H, W) of the images' size, inside jit; {} if none is defined.

    Args:
      images: float (B, H, W, C) in 0..1. classes: int (B,), the class that Grad-CAM explains.
    """
    how = model.card.spec.preprocess
    network = bind(model.skeleton, flat)
    pixels = standardise(images, how.mean, how.std)
    found: dict[str, jax.Array] = {}
    if has_map(network.backbone):
        earlier = network.backbone.intermediate_layers(pixels, network.blocks)[:-1] if network.blocks > 1 else []
        features, rest = last_map(network.backbone, pixels)

        def logit(x: jax.Array) -> jax.Array:
            logits = network.head([*earlier, rest(x)])["logits"]
            return jnp.take_along_axis(logits, classes[:, None], axis=1)[:, 0]

        found[GRAD_CAM] = grad_cam(logit, features)
    attention = look(network.backbone, pixels).attention
    if attention is not None:
        found[ATTENTION] = attention.mean(axis=1)
    size = images.shape[:3]
    return {name: jax.image.resize(one, size, "linear") for name, one in found.items()}


def overlays(context: Context, indices: Sequence[int], classes: Sequence[int]) -> list[dict[str, str]]:
    """Return {"input": data URI, overlay: data URI, ...} of each image: the network's input, and overlays on it.

    Args:
      indices: the images' numbers in the split. classes: what Grad-CAM explains.
    """
    run = context.run
    compiled = jax.jit(lambda flat, images, chosen: seen(run.model, flat, images, chosen))
    pictures: list[dict[str, str]] = [{} for _ in indices]
    for batch in batches_of(run, context.found.split.chosen(list(indices)), context.settings.batch_size):
        places = batch["index"].astype(np.int64)
        chosen = jnp.asarray(np.asarray(classes)[places.clip(0, len(indices) - 1)])
        found = compiled(run.model.flat, jnp.asarray(batch["image"], jnp.float32) / 255, chosen)
        maps = {name: np.asarray(one) for name, one in found.items()}
        for row in np.flatnonzero(batch["weight"] > 0):
            image = np.asarray(batch["image"][row])
            glows = {name: glowing(image, one[row]) for name, one in maps.items()}
            pictures[places[row]] = {
                "input": small(visible(image)),
                **{name: small(one) for name, one in glows.items()},
            }
    return pictures


def visible(image: np.ndarray) -> np.ndarray:
    """Return an image uint8 (H, W, C) as uint8 (H, W, 3): of more than three channels the first three, else grey."""
    return image[..., :3] if image.shape[-1] >= 3 else image[..., :1].repeat(3, axis=-1)


def glowing(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Return a map (H, W), scaled to its maximum, in colours over the darkened image uint8 (H, W, C); uint8."""
    from matplotlib import colormaps

    share = np.clip(heat / max(float(heat.max()), 1e-30), 0, 1)
    grey = visible(image).mean(axis=2, keepdims=True) / (3 * 255)
    alpha = np.sqrt(share)[..., None]
    mixed = (1 - alpha) * grey + alpha * colormaps["inferno"](share)[..., :3]
    return (mixed * 255).round().astype(np.uint8)


def small(levels: np.ndarray) -> str:
    """Return an image uint8 (H, W, 3) as a JPEG whose longer side has `SIDE` pixels, in a data URI."""
    image = Image.fromarray(np.ascontiguousarray(levels))
    scale = SIDE / max(image.size)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    how = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
    file = io.BytesIO()
    image.resize(size, how).save(file, "JPEG", quality=80)
    return data_uri(file.getvalue(), ".jpg")
