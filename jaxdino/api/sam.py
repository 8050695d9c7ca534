"""A loaded SAM: encode images once, then predict masks for points, boxes and masks."""

import dataclasses
import functools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from convert.card import Card
from jaxdino.api.model import Model
from jaxdino.api.pictures import Record, named, records
from jaxdino.api.sam_prompts import checked_prompts
from jaxdino.core.errors import UserError
from jaxdino.core.params import Flat, Skeleton, bind
from jaxdino.data.bad_images import BadImage
from jaxdino.data.checks import open_image
from jaxdino.models.positions import linear_matrix

Size = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Encoded:
    """Encoded images, the input of SAM's mask decoder.

    Attributes:
      embedding: (B, h, w, width).
      frame: side in pixels of the square that the images were padded to.
      original_sizes: (height, width) in pixels of each original image.
      input_sizes: (height, width) in pixels of each image within the frame, at its top left.
    """

    embedding: jax.Array
    frame: int
    original_sizes: tuple[Size, ...]
    input_sizes: tuple[Size, ...]

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.original_sizes)


def input_size(original: Size, frame: int) -> Size:
    """Return (height, width) after resizing the longest side to `frame`, rounded half up.

    Source: facebookresearch/segment-anything segment_anything/utils/transforms.py (get_preprocess_shape).
    """
    scale = frame / max(*original, 1)
    height, width = (int(side * scale + 0.5) for side in original)
    return height, width


class SamModel(Model):
    """A SAM; called on images, it returns the image embedding as an `Output`.

    `encode` images once, call `masks` any number of times, and `upscale` the masks you keep. A mask is where its
    logits are above 0. Each new number of images, prompts or points compiles once.
    """

    # its encoder has no final norm to apply to the outputs of its blocks
    lacks: ClassVar = {
        "intermediate_layers": "SAM returns no intermediate layers: call the model for the embedding, or use `encode`"
    }

    def __init__(self, card: Card, skeleton: Skeleton, flat: Flat, companions: Sequence[Path] = ()):
        super().__init__(card, skeleton, flat, companions)
        self._encode = jax.jit(lambda flat, pixels: bind(skeleton, flat).backbone.encode(pixels))
        self._masks = jax.jit(
            lambda flat, embedding, prompts, multimask: bind(skeleton, flat).backbone.masks(
                embedding, **prompts, multimask=multimask
            ),
            static_argnums=3,
        )

    def encode(
        self, images: Iterable[Record] | np.ndarray, frame: int | None = None, sixteen_bit: str | None = None
    ) -> Encoded:
        """Compute the embeddings of images of any sizes.

        Each image is resized (Pillow's bilinear filter) so that its longest side is `frame`, normalised, and then
        padded with zeros at the bottom and the right to a square.

        Args:
          images: a list of PIL images, paths of files, or arrays (H, W) or (H, W, C), which may be mixed; or one array
            (B, H, W, C). Grey becomes RGB.
          frame: side of the square in pixels, a multiple of the patch size; by default the checkpoint's own (1024).
            For other values the position tables are resampled (see `jaxdino.models.sam.Sam`), and low-resolution
            masks are frame / 4 a side.
          sixteen_bit: how values of more than 8 bits are read, as in `preprocess`.

        Raises:
          UserError: for values that are not images, and for a frame that is not a multiple of the patch size.
        """
        config = self._config
        frame = config.image_size if frame is None else frame
        if not isinstance(frame, int | np.integer) or frame < config.patch_size or frame % config.patch_size:
            raise UserError(f"frame={frame!r}: give a multiple of the patch size, {config.patch_size} pixels")
        frame, pictures = int(frame), self._pictures(images, sixteen_bit)
        originals = tuple((picture.height, picture.width) for picture in pictures)
        inputs = tuple(input_size(size, frame) for size in originals)
        if gone := [size for size, inner in zip(originals, inputs, strict=True) if not all(inner)]:
            raise UserError(f"nothing is left of an image {gone[0][1]} wide and {gone[0][0]} high in {frame} pixels")
        pixels = np.zeros((len(pictures), frame, frame, 3), np.float32)
        mean, std = (np.asarray(v, np.float32) for v in (self.card.spec.preprocess.mean, self.card.spec.preprocess.std))
        for row, picture, (height, width) in zip(pixels, pictures, inputs, strict=True):
            small = np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR), np.float32)
            row[:height, :width] = (small / 255 - mean) / std
        return Encoded(self._encode(self.flat, pixels), frame, originals, inputs)

    def masks(
        self,
        encoded: Encoded,
        *,
        points=None,
        labels=None,
        boxes=None,
        masks=None,
        multimask: bool = True,
    ) -> tuple[jax.Array, jax.Array]:
        """Predict low-resolution masks for P prompts of each of B images.

        Inputs with the same index form one prompt: prompt p is points[b, p] with boxes[b, p] and masks[b, p]. Leading
        axes of length 1 may be omitted.

        Args:
          points: (B, P, K, 2), (P, K, 2) or (K, 2): x and y in pixels of the original image; the centre of the first
            pixel is (0, 0).
          labels: points' shape without its last axis: 1 inside the object, 0 outside, -1 for no point, which pads
            prompts with fewer points.
          boxes: (B, P, 4), (P, 4) or (4,): x1, y1, x2, y2 in the same pixels.
          masks: (B, P or 1, s, s), (P, s, s) or (s, s): logits of an earlier call, s = frame / 4 (256 at 1024).
          multimask: three masks for each prompt, for ambiguous prompts; otherwise one.

        Returns:
          logits (B, P, M, s, s) and predicted IoU (B, P, M), float32; M = 3 or 1.

        Raises:
          UserError: if nothing is given, for other shapes or labels, points without labels, boxes with swapped
            corners, coordinates outside the image.
        """
        _check_encoded(encoded, "masks(encoded, ...)")
        side = 4 * encoded.embedding.shape[1]
        prompts = checked_prompts(encoded.original_sizes, side, points, labels, boxes, masks)
        scale = np.array(encoded.input_sizes)[:, ::-1] / np.array(encoded.original_sizes)[:, ::-1]
        if "points" in prompts:
            prompts["points"] = (prompts["points"] * scale[:, None, None]).astype(np.float32)
        if "boxes" in prompts:
            prompts["boxes"] = (prompts["boxes"] * np.tile(scale, 2)[:, None]).astype(np.float32)
        return self._masks(self.flat, encoded.embedding, prompts, bool(multimask))

    def upscale(self, logits: jax.Array | np.ndarray, encoded: Encoded) -> jax.Array | list[jax.Array]:
        """Resize logits (B, ..., s, s) to the original size: (B, ..., H, W), or a list of (..., H, W) if sizes differ.

        The logits are resized to the frame, cropped to the image, and resized to the original, bilinearly as by torch's
        `interpolate(align_corners=False)`. The mask is where they are above 0.

        Source: facebookresearch/segment-anything segment_anything/modeling/sam.py (postprocess_masks).

        Raises:
          UserError: if the logits do not belong to these images.
        """
        _check_encoded(encoded, "upscale(logits, encoded)")
        side, shape = 4 * encoded.embedding.shape[1], tuple(np.shape(logits))
        if len(shape) < 3 or shape[0] != len(encoded) or shape[-2:] != (side, side):
            raise UserError(f"logits have the shape {shape}; ({len(encoded)}, ..., {side}, {side}) is needed")
        logits = jnp.asarray(logits)
        if len(set(encoded.original_sizes)) == 1:
            return _resized(logits, encoded.frame, encoded.input_sizes[0], encoded.original_sizes[0])
        pairs = zip(encoded.input_sizes, encoded.original_sizes, strict=True)
        return [_resized(logits[n], encoded.frame, *sizes) for n, sizes in enumerate(pairs)]

    def _pictures(self, images: Iterable[Record] | np.ndarray, sixteen_bit: str | None) -> list[Image.Image]:
        """Return upright RGB pictures."""
        if self.card.spec.config.in_channels != 3:
            raise UserError("this model's images have other channels than three: normalise them and call the model")
        given, found = records(images, "encode"), []
        reading = self.reading(given, sixteen_bit)
        for place, record in enumerate(given):
            try:
                found.append(open_image(record, reading))
            except BadImage as err:
                raise UserError(f"{named(record, place)}: {err}") from err
        return found


def _check_encoded(encoded: Encoded, call: str) -> None:
    if not isinstance(encoded, Encoded):
        raise UserError(f"{call} takes what `encode` gave: encoded = model.encode([image])")


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def _resized(logits: jax.Array, frame: int, inner: Size, original: Size) -> jax.Array:
    """Resize (..., s, s) to (..., H, W): both resizes and the crop as one matrix for each axis."""
    rows, columns = (
        linear_matrix(small, big) @ linear_matrix(s, frame)[:small]
        for s, small, big in zip(logits.shape[-2:], inner, original, strict=True)
    )
    return jnp.einsum("hy,...yx,wx->...hw", rows, logits.astype(jnp.float32), columns, precision="highest")
