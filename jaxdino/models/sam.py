"""Segment Anything: an image encoder, a prompt encoder and a mask decoder."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from jaxdino.core.errors import UserError
from jaxdino.models.layer_spec import Layer
from jaxdino.models.output import Output
from jaxdino.models.remat import Remat
from jaxdino.models.sam_decoder import MaskDecoder
from jaxdino.models.sam_image_encoder import ImageEncoder
from jaxdino.models.sam_prompt import PromptEncoder

ENCODER = "backbone.image_encoder."


@dataclasses.dataclass(frozen=True)
class SamConfig:
    """The shape of a SAM.

    Attributes:
      image_size: side in pixels of the square frame of the checkpoint's position tables.
      encoder_width, depth, num_heads, mlp_dim: shape of the image encoder's ViT.
      window_size: side of the attention windows in patches; global_attn_indexes: the blocks with global attention.
      width: width of the image embedding and of the decoder.
      mask_channels: channels of the convolutions that embed mask prompts.
      decoder_eps: eps of the norms in the two-way blocks: 1e-5 in Meta's code, 1e-6 in transformers' class. (The norm
        after them has 1e-5 in both.)
      position_names: which of transformers' two names of the position matrix the checkpoint uses: "image", "prompt"
        or "both". It does not affect the forward pass; it is kept so that export restores the file's keys.
    """

    image_size: int = 1024
    patch_size: int = 16
    encoder_width: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_dim: int = 3072
    window_size: int = 14
    global_attn_indexes: tuple[int, ...] = (2, 5, 8, 11)
    encoder_eps: float = 1e-6
    width: int = 256
    mask_channels: int = 16
    decoder_depth: int = 2
    decoder_heads: int = 8
    decoder_mlp_dim: int = 2048
    attention_downsample_rate: int = 2
    num_multimask_outputs: int = 3
    iou_hidden_dim: int = 256
    decoder_eps: float = 1e-5
    position_names: str = "both"
    in_channels: int = 3
    input_kernel: ClassVar[str] = f"{ENCODER}patch_embed.proj.kernel"

    @property
    def grid(self) -> int:
        """Number of patches along a side of the frame."""
        return self.image_size // self.patch_size

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The embedding, each block of the image encoder, its neck; prompt encoder and mask decoder are "aside"."""
        return (
            Layer("embed", "stem", (f"{ENCODER}patch_embed", f"{ENCODER}pos_embed")),
            *(Layer(f"blocks.{i}", "block", (f"{ENCODER}blocks.{i}",)) for i in range(self.depth)),
            Layer("neck", "norm", (f"{ENCODER}neck",)),
            Layer("prompt_encoder", "aside", ("backbone.prompt_encoder",)),
            Layer("mask_decoder", "aside", ("backbone.mask_decoder",)),
        )

    def places(self) -> list[dict[str, int]]:
        """Values of `{i}`: the encoder's blocks; `{j}`: the decoder's; `{m}`: mask tokens; `{p}`: kinds of points."""
        counts = {"i": self.depth, "j": self.decoder_depth, "m": self.num_multimask_outputs + 1, "p": 4}
        return [{name: n} for name, count in counts.items() for n in range(count)]

    def with_channels(self, channels: int) -> "SamConfig":
        """Return the configuration for images with this number of channels."""
        return dataclasses.replace(self, in_channels=channels)

    def build(self, **how) -> "Sam":
        """Build the network with random parameters; `how` are arguments of `Sam`."""
        return Sam(self, **how)


class Sam(nnx.Module):
    """Segment Anything; see `SamConfig` for its shape.

    Accepts images of any size that is a multiple of the patch size: the table of absolute positions is resampled to
    their grid (torch's bicubic, without antialiasing), the tables of relative positions of the global blocks
    linearly, each axis to its own length. The embedding is (h, w) = the size in patches, masks are (4 h, 4 w),
    and points and boxes are in pixels of that size. At `image_size` nothing is resampled.

    `attention` is ignored: cuDNN has no attention with relative positions.

    Sources: facebookresearch/segment-anything segment_anything/modeling/; for the resampling of absolute
    positions, facebookresearch/detectron2 detectron2/modeling/backbone/utils.py (get_abs_pos), whose encoder SAM's is.
    """

    def __init__(
        self,
        cfg: SamConfig,
        *,
        rngs: nnx.Rngs,
        drop_path: float = 0.0,
        dtype: jnp.dtype = jnp.float32,
        attention: str = "xla",
        remat: Remat = False,
    ):
        self.image_encoder = ImageEncoder(cfg, rngs, drop_path, dtype, remat)
        self.prompt_encoder = PromptEncoder(cfg, rngs, dtype)
        self.mask_decoder = MaskDecoder(cfg, rngs, dtype)
        self.cfg, self.dtype = cfg, dtype

    def __call__(self, images: jax.Array, *, mask: jax.Array | None = None, key: jax.Array | None = None) -> Output:
        """Map normalised float images (B, H, W, C) to Output: the embedding as patches, its mean as cls and pooled."""
        if mask is not None:
            raise UserError("SAM's image encoder has no mask token: patches cannot be masked")
        patches = self.image_encoder(images, key)
        mean = patches.mean(axis=(1, 2))
        registers = jnp.zeros((mean.shape[0], 0, mean.shape[-1]), mean.dtype)
        return Output(cls=mean, patches=patches, registers=registers, pooled=mean)

    def encode(self, images: jax.Array) -> jax.Array:
        """Map normalised float images (B, H, W, C) to the image embedding (B, h, w, width)."""
        return self.image_encoder(images)

    def masks(
        self,
        embedding: jax.Array,
        points: jax.Array | None = None,
        labels: jax.Array | None = None,
        boxes: jax.Array | None = None,
        masks: jax.Array | None = None,
        multimask: bool = True,
    ) -> tuple[jax.Array, jax.Array]:
        """Predict masks for P prompts of each image; points, boxes and masks of one index form one prompt.

        Args:
          embedding: (B, h, w, width), from `encode`.
          points: (B, P, K, 2), x and y in pixels of the encoded frame; labels: (B, P, K), 1 inside the object, 0
            outside, -1 no point.
          boxes: (B, P, 4), x1, y1, x2, y2 in the same pixels.
          masks: (B, P or 1, 4 h, 4 w) logits of an earlier call.
          multimask: predict the three masks for ambiguous prompts instead of one. Static under jit.

        Returns:
          logits (B, P, M, 4 h, 4 w) and predicted IoU (B, P, M), float32, M = 3 or 1.
        """
        _, h, w, _ = embedding.shape
        grid = (h, w)
        sparse, dense = self.prompt_encoder(points, labels, boxes, masks, grid=grid)
        positions = self.prompt_encoder.image_positions(grid)
        return self.mask_decoder(embedding, positions, sparse, dense, multimask)
