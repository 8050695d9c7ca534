"""The Python API, for notebooks: load a model, call it on images."""

import warnings
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from convert import assumptions
from jaxdino.api import opening
from jaxdino.api.model import Model
from jaxdino.core.errors import AssumedWarning


def load(
    src: str | Path,
    dtype: str = "float32",
    *,
    model: str | None = None,
    layout: str | None = None,
    prefix: str | None = None,
    num_heads: int | None = None,
    pos_grid: tuple[int, int] | None = None,
    pool: str | None = None,
    head_blocks: int | tuple[int, ...] | None = None,
    image_size: int | tuple[int, int] | None = None,
    head: str | Path | None = None,
    drop_head: bool = False,
    in_channels: int | None = None,
    attention: str = "xla",
    mesh: Mesh | None = None,
) -> Model:
    """Load a model from a PyTorch checkpoint, a Hugging Face folder or hub name, or a workdir of jaxdino.

    Args:
      src: a file (.pth, .safetensors), a folder, a hub name ("facebook/dinov2-small"), a published model name
        ("dinov3_vits16"), a folder made by `python -m convert import`, or a training run's workdir.
      dtype: "float32", "bfloat16" or "float16", of parameters and computation.
      model, layout, prefix, num_heads: override what is detected from the file.
      pos_grid: (height, width) of a ViT's position table in patches, likewise.
      pool: input features of the file's classification head, "cls", "mean", "cls_mean" or "cls4_mean".
      head_blocks: the blocks that the file's segmentation head reads: the last n, or their indices.
      image_size: of the images, (height, width) in pixels or one number for both.
      head: a file with a linear head for these weights, of classes or of segmentation, as published for DINOv2.
      drop_head: ignore a head in the file.
      in_channels: channels of the images, if not 3 as in the weights: the first convolution is adapted.
      attention: "xla", or "cudnn" for flash attention on an NVIDIA GPU in half precision.
      mesh: devices to shard the parameters over (`jaxdino.core.sharding.make_mesh`), for models too large for one.

    Warns about weights that are not finite, by name, and about each fact that is assumed because the weights do not
    hold it (`AssumedWarning`, with the keyword that overrides it).

    Raises:
      UserError: if the source cannot be found or read, or does not match the model exactly.
    """
    overrules: dict[str, Any] = dict(model=model, layout=layout, prefix=prefix, num_heads=num_heads, pos_grid=pos_grid)
    overrules |= dict(
        pool=pool,
        head_blocks=head_blocks,
        image_size=image_size,
        head=head,
        drop_head=drop_head,
        in_channels=in_channels,
    )
    found, notes = opening.open_model(src, dtype, attention=attention, mesh=mesh, **overrules)
    for note in notes:
        kind = AssumedWarning if note.startswith(assumptions.MARK) else UserWarning
        warnings.warn(note.removeprefix(opening.WARNING), kind, stacklevel=2)
    return found
