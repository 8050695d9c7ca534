"""CLIP-DINO-SAM: masks from DINO's patch tokens and CLIP's text features, decoded by SAM's mask decoder."""

import dataclasses
from collections.abc import Iterable, Mapping
from operator import attrgetter
from typing import Any, ClassVar, cast

import jax
import jax.numpy as jnp
from flax import nnx

from jaxdino.core.errors import UserError
from jaxdino.models import lora
from jaxdino.models.clip import CLIPConfig
from jaxdino.models.component import Component
from jaxdino.models.layer_spec import Layer
from jaxdino.models.lora_spec import LoRA
from jaxdino.models.output import Output
from jaxdino.models.remat import Remat
from jaxdino.models.sam import SamConfig
from jaxdino.models.sam_decoder import MaskDecoder
from jaxdino.models.sam_prompt import PADDING, PromptEncoder
from jaxdino.models.token_masks import TokenProjection, TokenToMaskEmbedding, unit
from jaxdino.models.vit import ViTConfig

DINO, CLIP, DECODER = "backbone.dino", "backbone.clip", "backbone.sam.mask_decoder"


@dataclasses.dataclass(frozen=True)
class ClipDinoSamConfig:
    """The shapes of the parts, and their adapters.

    Attributes:
      image: shape of the image encoder; image_family: its family for conversion ("dino", "dinov2", "dinov3", "vit").
      text: shape of the text tower alone (`CLIPConfig.text_only`), with the projection into CLIP's common space.
      sam: shape of the prompt encoder and the mask decoder; its image encoder fields are ignored.
      hidden: width of `TokenProjection`'s inner layer; None for twice that of the text features.
      dino_lora, clip_lora, decoder_lora: adapters of the `components`; the blocks of the decoder are those of its
        two-way transformer.
    """

    image: ViTConfig
    text: CLIPConfig
    sam: SamConfig
    image_family: str = "dinov3"
    hidden: int | None = None
    dino_lora: LoRA | None = None
    clip_lora: LoRA | None = None
    decoder_lora: LoRA | None = None
    input_kernel: ClassVar[str] = f"{DINO}.patch_embed.proj.kernel"

    def __post_init__(self):
        if self.text.text is None or self.text.embed_dim is None:
            raise UserError("the text tower needs its blocks and its projection: give a CLIP model that has both")
        if self.text.vision is not None:
            raise UserError("of CLIP the text tower alone is built: give `config.text_only()`")

    @property
    def width(self) -> int:
        """Width of the text features, and so of the projected tokens."""
        return cast(int, self.text.embed_dim)  # `__post_init__` refuses None

    @property
    def in_channels(self) -> int:
        """Number of channels of the images."""
        return self.image.in_channels

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers of DINO, so that selectors such as "@last:4" select its blocks; then one layer per other part.

        The kind of CLIP's layer is "text", which only the selector "@all" selects; a rule on its paths trains it.
        """
        return (
            *(dataclasses.replace(layer, prefixes=_under(DINO, layer.prefixes)) for layer in self.image.layers),
            Layer("clip", "text", (CLIP,)),
            Layer("token_projection", "head", ("backbone.token_projection",)),
            Layer("token_to_mask", "head", ("backbone.token_to_mask",)),
            Layer("prompt_encoder", "aside", ("backbone.sam.prompt_encoder",)),
            Layer("mask_decoder", "head", (DECODER,)),
        )

    def places(self) -> list[dict[str, int]]:
        """Always empty: there is no weight table of the whole model; each part is converted as its own family."""
        return []

    def with_channels(self, channels: int) -> "ClipDinoSamConfig":
        """Return the configuration for images with this number of channels."""
        return dataclasses.replace(self, image=self.image.with_channels(channels))

    @property
    def components(self) -> dict[str, Component]:
        """The parts that can have adapters; DINO and CLIP are also models of their own."""
        blocks = range(self.sam.decoder_depth)
        decoder = (Layer(f"blocks.{i}", "block", (f"backbone.transformer.layers.{i}",)) for i in blocks)
        return {
            "dino": Component(DINO, self.image.layers, self.dino_lora, self.image_family, self.image),
            "clip": Component(CLIP, self.text.layers, self.clip_lora, "clip", self.text),
            "decoder": Component(DECODER, tuple(decoder), self.decoder_lora),
        }

    def with_adapters(self, adapters: Mapping[str, LoRA | None]) -> "ClipDinoSamConfig":
        """Return the configuration with other adapters on the named components; None removes them."""
        fields: dict[str, Any] = {f"{name}_lora": lora for name, lora in adapters.items()}
        return dataclasses.replace(self, **fields)

    def bare(self) -> "ClipDinoSamConfig":
        """Return the configuration without adapters, which fits the result of `lora.merged`."""
        return self.with_adapters(dict.fromkeys(self.components))

    def build(self, **how) -> "ClipDinoSam":
        """Build the network with random parameters and adapters without effect; `how` are arguments of `ClipDinoSam`.

        Raises:
          UserError: if a part does not have the targets or blocks of its adapters (see `lora.places`).
        """
        net = ClipDinoSam(self, **how)
        self.adapt(net, self.components, how["rngs"])
        return net

    def adapt(self, net: "ClipDinoSam", names: Iterable[str], rngs: nnx.Rngs) -> None:
        """Add the configured adapters of some components to a network without them."""
        for component in (self.components[name] for name in names):
            if component.lora is not None:
                module = attrgetter(component.path.removeprefix("backbone."))(net)
                lora.add(_Part(module), component, component.lora, rngs)


def _under(place: str, prefixes: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(place + prefix.removeprefix("backbone") for prefix in prefixes)


class _Part(nnx.Module):
    """A component, at the path `backbone` that its layers expect."""

    def __init__(self, backbone: nnx.Module):
        self.backbone = backbone


class SamHead(nnx.Module):
    """SAM without its image encoder; pixel coordinates refer to images in patches of `patch_size`."""

    def __init__(self, cfg: SamConfig, patch_size: int, rngs: nnx.Rngs, dtype: jnp.dtype):
        self.prompt_encoder = PromptEncoder(dataclasses.replace(cfg, patch_size=patch_size), rngs, dtype)
        self.mask_decoder = MaskDecoder(cfg, rngs, dtype)


class ClipDinoSam(nnx.Module):
    """Predict masks from images and prompts; see `ClipDinoSamConfig` for the parts.

    Accepts any grid h x w, independent of the decoder's training size: its positions are Fourier features of
    coordinates relative to the frame, computed for each cell of the grid. Cells of a grid other than the training grid
    of 64 x 64 are closer together or further apart, on each axis separately; no weight depends on their number.

    remat recomputes DINO's and CLIP's blocks in the backward pass; drop_path is DINO's.

    Sources: Kirillov et al. 2023, Segment Anything (arXiv:2304.02643), section 3 and appendix D.5, for text as a
    prompt of the decoder; Radford et al. 2021, CLIP (arXiv:2103.00020), for the features of texts.
    """

    def __init__(
        self,
        cfg: ClipDinoSamConfig,
        *,
        rngs: nnx.Rngs,
        drop_path: float = 0.0,
        dtype: jnp.dtype = jnp.float32,
        attention: str = "xla",
        remat: Remat = False,
    ):
        how: dict[str, Any] = dict(rngs=rngs, dtype=dtype, attention=attention, remat=remat)
        self.dino = cfg.image.build(drop_path=drop_path, **how)
        self.clip = cfg.text.build(**how)
        self.token_projection = TokenProjection(cfg.image.width, cfg.hidden or 2 * cfg.width, cfg.width, rngs)
        self.token_to_mask = TokenToMaskEmbedding(cfg.width, cfg.sam.width, rngs)
        self.sam = SamHead(cfg.sam, cfg.image.patch_size, rngs, dtype)
        self.cfg, self.dtype = cfg, dtype

    def __call__(self, images: jax.Array, *, mask: jax.Array | None = None, key: jax.Array | None = None) -> Output:
        """Map normalised float images (B, H, W, C) to Output: projected tokens as patches, their mean as cls, pooled.

        Args:
          mask: (B, h, w) bool, patches to hide from DINO; requires a DINO with a mask token.
        """
        patches = self.tokens(images, mask=mask, key=key)
        mean = patches.mean(axis=(1, 2))
        return Output(cls=mean, patches=patches, registers=mean[:, None][:, :0], pooled=mean)

    def tokens(self, images: jax.Array, *, mask: jax.Array | None = None, key: jax.Array | None = None) -> jax.Array:
        """Map normalised float images (B, H, W, C) to DINO's patch tokens in the text's width, (B, h, w, T)."""
        return self.token_projection(self.dino(images, mask=mask, key=key).patches)

    def encode_text(self, ids: jax.Array) -> jax.Array:
        """Map token ids (n, L), each row with an end-of-text token, to features (n, T) of unit length, float32."""
        return unit(self.clip.encode_text(ids))

    def masks(
        self,
        tokens: jax.Array,
        text: jax.Array,
        points: jax.Array | None = None,
        labels: jax.Array | None = None,
        multimask: bool = False,
    ) -> tuple[jax.Array, jax.Array]:
        """Predict masks for P prompts of each image.

        For the decoder, padding points (all labels -1) differ from no points: it attends to each padding vector.
        A model trained with K points per row must therefore get K points, padded.

        Args:
          tokens: (B, h, w, T), from `tokens`.
          text: (B, P, T) of unit length, from `encode_text`.
          points: (B, P, K, 2), x and y in pixels of the encoded images; labels: (B, P, K), 1 inside the object, 0
            outside, 2 and 3 the corners of its box, -1 no point. A padding point is added, as in SAM.
          multimask: predict the three masks for ambiguous prompts instead of one. Static under jit.

        Returns:
          logits (B, P, M, 4 h, 4 w) and predicted IoU (B, P, M), float32, M = 3 or 1.
        """
        (b, h, w, _), p = tokens.shape, text.shape[1]
        if points is None:
            points, labels = jnp.zeros((b, p, 1, 2)), jnp.full((b, p, 1), PADDING)
            spatial, nothing = self.sam.prompt_encoder(points, labels, grid=(h, w), pad=False)
        else:
            spatial, nothing = self.sam.prompt_encoder(points, labels, grid=(h, w))
        image, dense, sparse = self.token_to_mask(tokens.astype(self.dtype), text)
        positions = self.sam.prompt_encoder.image_positions((h, w))
        sparse = jnp.concatenate([sparse.astype(self.dtype), spatial], axis=2)
        return self.sam.mask_decoder(image, positions, sparse, nothing + dense.astype(self.dtype), multimask)
