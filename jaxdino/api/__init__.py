"""The Python face, for notebooks: load a model, call it on images."""

import dataclasses
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from convert import assumptions
from convert.load import open_pretrained
from jaxdino.api.clip import ClipModel
from jaxdino.api.head import HeadModel
from jaxdino.api.model import Model
from jaxdino.api.sam import SamModel
from jaxdino.api.segmenter import Segmenter
from jaxdino.core.bars import by_bytes
from jaxdino.core.errors import AssumedWarning, UserError
from jaxdino.core.params import Digest
from jaxdino.core.rules import did_you_mean
from jaxdino.core.sharding import spec_for

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16, "float16": jnp.float16}
FACES: dict[str, type[Model]] = {
    "clip": ClipModel,
    "clipdinosam": Segmenter,
    "dino_head": HeadModel,
    "sam": SamModel,
}
"""family -> the class whose methods go beyond `Model`'s."""


def load(
    src: str | Path,
    dtype: str = "float32",
    *,
    model: str | None = None,
    layout: str | None = None,
    prefix: str | None = None,
    num_heads: int | None = None,
    pool: str | None = None,
    image_size: int | tuple[int, int] | None = None,
    head: str | Path | None = None,
    drop_head: bool = False,
    in_channels: int | None = None,
    attention: str = "xla",
    mesh: Mesh | None = None,
) -> Model:
    """Loads a model from a PyTorch checkpoint, a Hugging Face folder or hub name, or a workdir of ours.

    Args:
      src: a file (.pth, .safetensors), a folder, a hub name ("facebook/dinov2-small"), a published model name
        ("dinov3_vits16"), a folder made by `python -m convert import`, or a training run's workdir.
      dtype: "float32", "bfloat16" or "float16", of parameters and computation.
      model, layout, prefix, num_heads: overrule what is recognised from the file.
      pool: what the file's classification head looks at, "cls", "mean", "cls_mean" or "cls4_mean".
      image_size: of the images, (height, width) in pixels or one number for both.
      head: a file with a linear classification head for these weights, as DINOv2 and DINOv3 publish them.
      drop_head: leave a classification head in the file aside.
      in_channels: of the images, where it is not the 3 of the weights: the first convolution is adapted.
      attention: "xla", or "cudnn" for flash attention on an NVIDIA GPU in half precision.
      mesh: devices to share the parameters out over (`jaxdino.core.sharding.make_mesh`), for models too large for one.

    Warns of weights that are not finite, by name, and of each fact that the weights do not hold and that was assumed
    (`AssumedWarning`, with the keyword that overrules it).

    Raises:
      UserError: if the source cannot be found or read, or does not fit the model whole.
    """
    for what, value, known in (("dtype", dtype, DTYPES), ("attention", attention, ("xla", "cudnn"))):
        if value not in known:
            raise UserError(f"{what}={value!r} is not known; {did_you_mean(str(value), known)}")
    overrules = dict(model=model, layout=layout, prefix=prefix, num_heads=num_heads, pool=pool, image_size=image_size)
    overrules |= dict(head=head, drop_head=drop_head, in_channels=in_channels)
    with assumptions.spelling(), open_pretrained(src, **overrules) as opened:
        card, digest = opened.card, Digest()
        skeleton = card.spec.skeleton(card.num_classes, pool=card.pool, dtype=DTYPES[dtype], attention=attention)
        flat = {}
        for path, leaf in by_bytes(
            opened.flat, "loading"
        ):  # each host array is let go of as soon as it is on the device
            array = np.asarray(leaf)
            digest.add(path, array)
            cast = skeleton.entries[path].kind == "param" and array.ndim  # CLIP's temperature stays what it is
            flat[path] = _placed(path, array.astype(DTYPES[dtype], copy=False) if cast else array, mesh)
    for note in opened.notes:
        if note.startswith("warning: "):  # weights that are not finite
            warnings.warn(note.removeprefix("warning: "), stacklevel=2)
        elif note.startswith(assumptions.MARK):
            warnings.warn(assumptions.spelled(note), AssumedWarning, stacklevel=2)
    card = dataclasses.replace(card, digest=digest.value())
    return FACES.get(card.spec.family, Model)(card, skeleton, flat, opened.companions)


def _placed(path: str, array: np.ndarray, mesh: Mesh | None) -> jax.Array:
    where = None if mesh is None else NamedSharding(mesh, spec_for(path, array.shape, mesh))
    return jax.device_put(array, where).block_until_ready()
