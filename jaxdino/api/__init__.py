"""The Python face, for notebooks: load a model, call it on images."""

from pathlib import Path

import jax.numpy as jnp

from convert.load import load_pretrained
from jaxdino.api.clip import ClipModel
from jaxdino.api.model import Model
from jaxdino.core.errors import UserError
from jaxdino.core.rules import did_you_mean

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16, "float16": jnp.float16}
FACES: dict[str, type[Model]] = {"clip": ClipModel}
"""family -> the class whose methods go beyond `Model`'s."""


def load(
    src: str | Path,
    dtype: str = "float32",
    *,
    model: str | None = None,
    layout: str | None = None,
    prefix: str | None = None,
    num_heads: int | None = None,
    in_channels: int | None = None,
    attention: str = "xla",
) -> Model:
    """Loads a model from a PyTorch checkpoint, a Hugging Face folder or hub name, or a workdir of ours.

    Args:
      src: a file (.pth, .safetensors), a folder, a hub name ("facebook/dinov2-small"), a published model name
        ("dinov3_vits16"), a folder made by `python -m convert import`, or a training run's workdir.
      dtype: "float32", "bfloat16" or "float16", of parameters and computation.
      model, layout, prefix, num_heads: overrule what is recognised from the file.
      in_channels: of the images, where it is not the 3 of the weights: the first convolution is adapted.
      attention: "xla", or "cudnn" for flash attention on an NVIDIA GPU in half precision.

    Raises:
      UserError: if the source cannot be found or read, or does not fit the model whole.
    """
    for what, value, known in (("dtype", dtype, DTYPES), ("attention", attention, ("xla", "cudnn"))):
        if value not in known:
            raise UserError(f"{what}={value!r} is not known; {did_you_mean(str(value), known)}")
    overrules = dict(model=model, layout=layout, prefix=prefix, num_heads=num_heads, in_channels=in_channels)
    found = load_pretrained(src, **overrules)
    card = found.card
    skeleton = card.spec.skeleton(card.num_classes, pool=card.pool, dtype=DTYPES[dtype], attention=attention)
    flat = {}
    for path in list(found.flat):  # each host array is let go of as soon as it is on the device
        wanted = DTYPES[dtype] if skeleton.entries[path].kind == "param" else None
        flat[path] = jnp.asarray(found.flat.pop(path), wanted).block_until_ready()
    return FACES.get(card.spec.family, Model)(card, skeleton, flat)
