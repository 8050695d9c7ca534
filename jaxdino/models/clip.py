"""CLIP: an image tower and a text tower into one space, in OpenAI's, open_clip's and transformers' variants."""

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

LOGIT_SCALE = 2.6592600
"""log(1 / 0.07), where the training of CLIP starts."""


@dataclasses.dataclass(frozen=True)
class CLIPConfig:
    """One tower or both.

    Attributes:
      embed_dim: of the common space; None for a tower alone that is not projected into one.
      quick_gelu: x sigmoid(1.702 x), as in OpenAI's models, in place of the exact GELU.
      logit_scale: whether the checkpoint holds the temperature (log of what cosines are multiplied by).
      buffers: whether the checkpoint also holds what only repeats its shape (OpenAI's `input_resolution`,
        `context_length`, `vocab_size`; transformers' `position_ids`): written again on export.
      keys: where a layout writes its keys in two ways, the second: "bare" if those of a tower alone do not begin with
        its name (transformers 5), "custom" if those of the text tower do (open_clip's CustomTextCLIP).
      in_channels: of the images.
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
        """Of the class token, which a classification head sees; of the text features without an image tower."""
        return self._main.width

    @property
    def depth(self) -> int:
        """Blocks of the image tower, or of the text tower alone."""
        return self._main.depth

    @property
    def _main(self) -> "VisionConfig | TextConfig":
        tower = self.vision or self.text
        if tower is None:
            raise UserError("a CLIP model has an image tower, a text tower, or both: this one has none")
        return tower

    @property
    def image_tower(self) -> str | None:
        """The shape of the image tower, by which two checkpoints are the same published model."""
        c = self.vision
        return f"{_blocks(c)}, patches of {c.patch_size}, grid {c.pos_grid}" if c else None

    @property
    def text_tower(self) -> str | None:
        """The shape of the text tower, likewise."""
        c = self.text
        return f"{_blocks(c)}, {c.vocab_size} tokens, texts of {c.context_length}" if c else None

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The text tower as one stem, then the image tower: embedding, blocks, norm with projection.

        Of a text tower alone: its embedding, blocks, norm with projection.
        """
        if self.vision is None:
            return _tower("text", self.depth, ("token_embedding", "pos_embed"), ("ln_final", "proj"))
        text = Layer("text", "stem", ("backbone.text", "backbone.logit_scale"))
        image = _tower(
            "visual", self.vision.depth, ("cls_token", "pos_embed", "patch_embed", "ln_pre"), ("ln_post", "proj")
        )
        return ((text,) if self.text or self.logit_scale else ()) + image

    def places(self) -> list[dict[str, int]]:
        """What a weight table's `{v}` and `{t}` stand for: each block of the image tower, and of the text tower."""
        image = [{"v": i} for i in range(self.vision.depth if self.vision else 0)]
        return image + [{"t": i} for i in range(self.text.depth if self.text else 0)]

    def image_only(self) -> "CLIPConfig":
        """The configuration of the image tower alone, its projection kept."""
        return dataclasses.replace(self, text=None, logit_scale=False)

    def text_only(self) -> "CLIPConfig":
        """The configuration of the text tower alone, its projection and the temperature kept."""
        return dataclasses.replace(self, vision=None)

    def with_channels(self, channels: int) -> "CLIPConfig":
        """The same for images of so many channels."""
        return dataclasses.replace(self, in_channels=channels)

    def build(self, **how) -> "CLIP":
        """The network with random parameters; `how` as `CLIP` takes it."""
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
    """`visual` and `text` as far as the configuration has them; called on images, it runs the image tower.

    drop_path is the image tower's; attention is "xla" or "cudnn"; remat recomputes blocks in the backward pass.
    """

    def __init__(
        self,
        cfg: CLIPConfig,
        *,
        rngs: nnx.Rngs,
        drop_path: float = 0.0,
        dtype: jnp.dtype = jnp.float32,
        attention: str = "xla",
        remat: bool = False,
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
        """Image tokens after `ln_pre` and after each block, before the final norm: depth + 1 arrays; and the grid."""
        tower = self._image_tower()
        x, grid = tower.embed(images, self.dtype)
        return self.run(tower.blocks, x, key), grid

    def text_states(self, ids: jax.Array) -> list[jax.Array]:
        """Text tokens after the embedding and after each block, before the final norm: depth + 1 arrays."""
        tower = self._text_tower()
        return self.run(tower.blocks, tower.embed(ids, self.dtype), None)

    def __call__(self, images: jax.Array, *, mask: jax.Array | None = None, key: jax.Array | None = None) -> Output:
        """images (B, H, W, C) float normalised -> Output; `pooled` is the image's embedding (B, E).

        Raises:
          UserError: without an image tower, or if a mask of patches is given: CLIP has no mask token.
        """
        if mask is not None:
            raise UserError("CLIP has no mask token: masked pre-training needs a model that has one, such as DINOv2")
        states, grid = self.hidden_states(images, key)
        return self._image_tower().finish(states[-1], grid)

    def encode_image(self, images: jax.Array) -> jax.Array:
        """images (B, H, W, C) float normalised -> embeddings (B, E), not of unit length."""
        return self(images).pooled

    def encode_text(self, ids: jax.Array) -> jax.Array:
        """Token ids (B, L), end-of-text mark in each -> embeddings (B, E), not of unit length."""
        return self._text_tower().finish(self.text_states(ids)[-1], ids)

    def intermediate_layers(self, images: jax.Array, n: int | Sequence[int] = 1) -> list[Output]:
        """The outputs of the image tower's last `n` blocks, or of those with the given indices, final norm applied."""
        states, grid = self.hidden_states(images)
        places = chosen(n, len(states) - 1, "blocks")
        return [self._image_tower().finish(states[i + 1], grid) for i in places]
