"""CLIP: an image tower and a text tower with a common embedding space; layouts of OpenAI, open_clip, transformers."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from jaxdino.core.errors import UserError
from jaxdino.models.clip_towers import ImageTower, TextConfig, TextTower, VisionConfig, run_blocks
from jaxdino.models.layer_spec import Layer
from jaxdino.models.layers import gelu, quick_gelu
from jaxdino.models.output import Output, chosen
from jaxdino.models.remat import Remat

LOGIT_SCALE = 2.6592600
"""log(1 / 0.07), the initial value in CLIP's training."""


@dataclasses.dataclass(frozen=True)
class CLIPConfig:
    """The shape of one tower or both.

    Attributes:
      embed_dim: width of the common space; None for a single tower without a projection.
      quick_gelu: use x sigmoid(1.702 x), as OpenAI's models do, instead of the exact GELU.
      logit_scale: whether the checkpoint has the temperature (log of the factor of the cosines).
      buffers: whether the checkpoint also has values that repeat its shape (OpenAI's `input_resolution`,
        `context_length`, `vocab_size`; transformers' `position_ids`); they are written again on export.
      keys: the second spelling of keys in layouts that have two: "bare" if the keys of a single tower do not begin with
        its name (transformers 5), "custom" if those of the text tower do (open_clip's CustomTextCLIP).
      in_channels: number of channels of the images.
    """

    vision: VisionConfig | None
    text: TextConfig | None
    embed_dim: int | None
    quick_gelu: bool = True
    logit_scale: bool = True
    buffers: bool = False
    keys: str = ""
    in_channels: int = 3
    input_kernel: ClassVar[str] = "backbone.visual.patch_embed.proj.kernel"

    @property
    def width(self) -> int:
        """Width of the class token, the input of a classification head; without image tower, of the text features."""
        return self._main.width

    @property
    def depth(self) -> int:
        """Number of blocks of the image tower, or of a single text tower."""
        return self._main.depth

    @property
    def _main(self) -> "VisionConfig | TextConfig":
        tower = self.vision or self.text
        if tower is None:
            raise UserError("a CLIP model has an image tower, a text tower, or both: this one has none")
        return tower

    @property
    def image_tower(self) -> str | None:
        """Description of the image tower's shape, used to compare checkpoints with published models."""
        c = self.vision
        return f"{_blocks(c)}, patches of {c.patch_size}, grid {c.pos_grid}" if c else None

    @property
    def text_tower(self) -> str | None:
        """Description of the text tower's shape, used likewise."""
        c = self.text
        return f"{_blocks(c)}, {c.vocab_size} tokens, texts of {c.context_length}" if c else None

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The text tower as one stem, then the image tower: embedding, blocks, norm with projection.

        For a single text tower: its embedding, blocks, norm with projection.
        """
        if self.vision is None:
            return _tower("text", self.depth, ("token_embedding", "pos_embed"), ("ln_final", "proj"))
        text = Layer("text", "stem", ("backbone.text", "backbone.logit_scale"))
        image = _tower(
            "visual", self.vision.depth, ("cls_token", "pos_embed", "patch_embed", "ln_pre"), ("ln_post", "proj")
        )
        return ((text,) if self.text or self.logit_scale else ()) + image

    def places(self) -> list[dict[str, int]]:
        """Values of a weight table's `{v}` and `{t}`: each block of the image tower, and of the text tower."""
        image = [{"v": i} for i in range(self.vision.depth if self.vision else 0)]
        return image + [{"t": i} for i in range(self.text.depth if self.text else 0)]

    def image_only(self) -> "CLIPConfig":
        """Return the configuration of the image tower alone, with its projection."""
        return dataclasses.replace(self, text=None, logit_scale=False)

    def text_only(self) -> "CLIPConfig":
        """Return the configuration of the text tower alone, with its projection and the temperature."""
        return dataclasses.replace(self, vision=None)

    def with_channels(self, channels: int) -> "CLIPConfig":
        """Return the configuration for images with this number of channels."""
        return dataclasses.replace(self, in_channels=channels)

    def build(self, **how) -> "CLIP":
        """Build the network with random parameters; `how` are arguments of `CLIP`."""
        return CLIP(self, **how)


def _blocks(c: VisionConfig | TextConfig) -> str:
    return f"width {c.width}, {c.depth} blocks, {c.num_heads} heads, feed-forward {c.mlp_dim}"


def _tower(name: str, depth: int, stem: tuple[str, ...], top: tuple[str, ...]) -> tuple[Layer, ...]:
    base = f"backbone.{name}"
    return (
        Layer("embed", "stem", (*(f"{base}.{part}" for part in stem), *(["backbone.logit_scale"] * (name == "text")))),
        *(Layer(f"blocks.{i}", "block", (f"{base}.blocks.{i}",)) for i in range(depth)),
        Layer("norm", "norm", tuple(f"{base}.{part}" for part in top)),
    )


class CLIP(nnx.Module):
    """`visual` and `text`, if the configuration has them; a call on images runs the image tower.

    drop_path applies to the image tower; attention is "xla" or "cudnn"; remat recomputes blocks in the backward pass.
    """

    def __init__(
        self,
        cfg: CLIPConfig,
        *,
        rngs: nnx.Rngs,
        drop_path: float = 0.0,
        dtype: jnp.dtype = jnp.float32,
        attention: str = "xla",
        remat: Remat = False,
    ):
        how = {"act": quick_gelu if cfg.quick_gelu else gelu, "how": attention, "rngs": rngs}
        image = {"in_channels": cfg.in_channels, "drop_path": drop_path}
        self.visual = ImageTower(cfg.vision, cfg.embed_dim, **image, **how) if cfg.vision else None
        self.text = TextTower(cfg.text, cfg.embed_dim, **how) if cfg.text else None
        if cfg.logit_scale:
            self.logit_scale = nnx.Param(jnp.full((), LOGIT_SCALE))
        self.cfg, self.dtype, self.run = cfg, dtype, functools.partial(run_blocks, remat=remat)

    def _image_tower(self) -> ImageTower:
        if self.visual is None:
            raise UserError("this CLIP model is its text tower alone: it takes no images; load both towers for that")
        return self.visual

    def _text_tower(self) -> TextTower:
        if self.text is None:
            raise UserError("this CLIP model is its image tower alone: it takes no text; load both towers for that")
        return self.text

    def hidden_states(self, images: jax.Array, key=None) -> tuple[list[jax.Array], tuple[int, int]]:
        """Return image tokens after `ln_pre` and after each block, before the final norm (depth + 1), and the grid."""
        tower = self._image_tower()
        x, grid = tower.embed(images, self.dtype)
        return self.run(tower.blocks, x, key), grid

    def text_states(self, ids: jax.Array) -> list[jax.Array]:
        """Return text tokens after the embedding and after each block, before the final norm: depth + 1 arrays."""
        tower = self._text_tower()
        return self.run(tower.blocks, tower.embed(ids, self.dtype), None)

    def __call__(self, images: jax.Array, *, mask: jax.Array | None = None, key: jax.Array | None = None) -> Output:
        """Map normalised float images (B, H, W, C) to Output; `pooled` is the image embedding (B, E).

        Raises:
          UserError: without an image tower, or if a mask of patches is given, since CLIP has no mask token.
        """
        if mask is not None:
            raise UserError("CLIP has no mask token: masked pre-training needs a model that has one, such as DINOv2")
        states, grid = self.hidden_states(images, key)
        return self._image_tower().finish(states[-1], grid)

    def encode_image(self, images: jax.Array) -> jax.Array:
        """Map normalised float images (B, H, W, C) to embeddings (B, E), not of unit length."""
        return self(images).pooled

    def encode_text(self, ids: jax.Array) -> jax.Array:
        """Map token ids (B, L), each row with an end-of-text token, to embeddings (B, E), not of unit length."""
        return self._text_tower().finish(self.text_states(ids)[-1], ids)

    def intermediate_layers(self, images: jax.Array, n: int | Sequence[int] = 1) -> list[Output]:
        """Return outputs of the image tower's last `n` blocks, or of those with given indices, final norm applied."""
        states, grid = self.hidden_states(images)
        places = chosen(n, len(states) - 1, "blocks")
        return [self._image_tower().finish(states[i + 1], grid) for i in places]
