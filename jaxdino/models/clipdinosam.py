"""CLIP-DINO-SAM: DINO's patch tokens and a prompt in CLIP's words, made into masks by SAM's decoder."""

import dataclasses
from collections.abc import Iterable
from typing import Any, ClassVar, cast

import jax
import jax.numpy as jnp
from flax import nnx

from jaxdino.core.errors import UserError
from jaxdino.models import lora
from jaxdino.models.clip import CLIPConfig
from jaxdino.models.layer_spec import Layer
from jaxdino.models.lora_spec import LoRA
from jaxdino.models.output import Output
from jaxdino.models.sam import SamConfig
from jaxdino.models.sam_decoder import MaskDecoder
from jaxdino.models.sam_prompt import PADDING, PromptEncoder
from jaxdino.models.token_masks import TokenProjection, TokenToMaskEmbedding, unit
from jaxdino.models.vit import ViTConfig

DINO, CLIP, DECODER = "backbone.dino", "backbone.clip", "backbone.sam.mask_decoder"
ADAPTED = {"dino": DINO, "clip": CLIP, "decoder": DECODER}
"""The parts that may have adapters, and their paths."""


@dataclasses.dataclass(frozen=True)
class ClipDinoSamConfig:
    """The shapes of the parts, and the adapters that stand on them.

    Attributes:
      image: of the image encoder; image_family: the family it is converted as ("dino", "dinov2", "dinov3", "vit").
      text: of the text tower alone (`CLIPConfig.text_only`), with the projection into CLIP's common space.
      sam: of the prompt encoder and the mask decoder; what it says of the image encoder is not looked at.
      hidden: width of `TokenProjection`'s inner layer; None for twice that of the text features.
      dino_lora, clip_lora, decoder_lora: adapters, whose targets and `last_blocks` are looked up in that part alone;
        the blocks of the decoder are those of its two-way transformer.
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
        """Of the text features, and so of the projected tokens."""
        return cast(int, self.text.embed_dim)  # `__post_init__` refuses None

    @property
    def in_channels(self) -> int:
        """Of the images."""
        return self.image.in_channels

    @property
    def layers(self) -> tuple[Layer, ...]:
        """DINO's, so that selectors such as "@last:4" mean its blocks; then the other parts, a layer each.

        The kind of CLIP's layer is "text", which no selector but "@all" means: a rule on its paths trains it.
        """
        return (
            *(dataclasses.replace(layer, prefixes=_under(DINO, layer.prefixes)) for layer in self.image.layers),
            Layer("clip", "text", ("backbone.clip",)),
            Layer("token_projection", "head", ("backbone.token_projection",)),
            Layer("token_to_mask", "head", ("backbone.token_to_mask",)),
            Layer("prompt_encoder", "aside", ("backbone.sam.prompt_encoder",)),
            Layer("mask_decoder", "head", (DECODER,)),
        )

    def places(self) -> list[dict[str, int]]:
        """None: no weight table speaks of the whole; each part is converted as its own family."""
        return []

    def with_channels(self, channels: int) -> "ClipDinoSamConfig":
        """The same for images of so many channels."""
        return dataclasses.replace(self, image=self.image.with_channels(channels))

    def bare(self) -> "ClipDinoSamConfig":
        """The same without adapters: the shape of what `lora.merged` gives."""
        return dataclasses.replace(self, dino_lora=None, clip_lora=None, decoder_lora=None)

    def build(self, **how) -> "ClipDinoSam":
        """The network with random parameters, with adapters that change nothing yet; `how` as `ClipDinoSam` takes it.

        Raises:
          UserError: for adapters whose targets or blocks a part does not have (see `lora.places`).
        """
        net = ClipDinoSam(self, **how)
        self.adapt(net, ADAPTED, how["rngs"])
        return net

    def adapt(self, net: "ClipDinoSam", parts: Iterable[str], rngs: nnx.Rngs) -> None:
        """Puts the adapters that the configuration has for some of `ADAPTED` on a network that lacks them."""
        decoder = tuple(
            Layer(f"blocks.{i}", "block", (f"backbone.transformer.layers.{i}",)) for i in range(self.sam.decoder_depth)
        )
        known = {
            "dino": (net.dino, self.image.layers),
            "clip": (net.clip, self.text.layers),
            "decoder": (net.sam.mask_decoder, decoder),
        }
        for name in parts:
            part, layers = known[name]
            if (spec := getattr(self, f"{name}_lora")) is not None:
                lora.add(_Part(part), _Layers(layers), spec, rngs)


def _under(place: str, prefixes: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(place + prefix.removeprefix("backbone") for prefix in prefixes)


@dataclasses.dataclass(frozen=True)
class _Layers:
    """What `lora.add` looks at of a configuration."""

    layers: tuple[Layer, ...]


class _Part(nnx.Module):
    """A part where the layers of its configuration have it."""

    def __init__(self, backbone: nnx.Module):
        self.backbone = backbone


class SamHead(nnx.Module):
    """SAM without its image encoder; pixels are those of images in patches of `patch_size`."""

    def __init__(self, cfg: SamConfig, patch_size: int, rngs: nnx.Rngs, dtype: jnp.dtype):
        self.prompt_encoder = PromptEncoder(dataclasses.replace(cfg, patch_size=patch_size), rngs, dtype)
        self.mask_decoder = MaskDecoder(cfg, rngs, dtype)


class ClipDinoSam(nnx.Module):
    """Masks from images and prompts; see `ClipDinoSamConfig` for the parts.

    Any grid h x w passes, whatever the decoder was trained with: its positions are Fourier features of shares of the
    frame, computed for each cell of the grid there is. A decoder trained on squares of 64 x 64 cells sees those of
    another grid closer or further apart, each axis by itself, and no weight depends on their number.

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
        remat: bool = False,
    ):
        how: dict[str, Any] = dict(rngs=rngs, dtype=dtype, attention=attention, remat=remat)
        self.dino = cfg.image.build(drop_path=drop_path, **how)
        self.clip = cfg.text.build(**how)
        self.token_projection = TokenProjection(cfg.image.width, cfg.hidden or 2 * cfg.width, cfg.width, rngs)
        self.token_to_mask = TokenToMaskEmbedding(cfg.width, cfg.sam.width, rngs)
        self.sam = SamHead(cfg.sam, cfg.image.patch_size, rngs, dtype)
        self.cfg, self.dtype = cfg, dtype

    def __call__(self, images: jax.Array, *, mask: jax.Array | None = None, key: jax.Array | None = None) -> Output:
        """images (B, H, W, C) float normalised -> Output: the projected tokens as patches, their mean as cls, pooled.

        Args:
          mask: (B, h, w) bool, of patches that DINO is not shown; for a DINO that has a mask token.
        """
        patches = self.tokens(images, mask=mask, key=key)
        mean = patches.mean(axis=(1, 2))
        return Output(cls=mean, patches=patches, registers=mean[:, None][:, :0], pooled=mean)

    def tokens(self, images: jax.Array, *, mask: jax.Array | None = None, key: jax.Array | None = None) -> jax.Array:
        """images (B, H, W, C) float normalised -> DINO's patch tokens in the text's width, (B, h, w, T)."""
        return self.token_projection(self.dino(images, mask=mask, key=key).patches)

    def encode_text(self, ids: jax.Array) -> jax.Array:
        """Token ids (n, L), end-of-text mark in each -> features (n, T) of unit length, float32."""
        return unit(self.clip.encode_text(ids))

    def masks(
        self,
        tokens: jax.Array,
        text: jax.Array,
        points: jax.Array | None = None,
        labels: jax.Array | None = None,
        multimask: bool = False,
    ) -> tuple[jax.Array, jax.Array]:
        """Masks for P prompts of each image.

        A row of points without a prompt (all labels -1) is not the same to the decoder as no points: it attends to
        each padding vector. A model trained with K points a row is therefore to be given K, padded.

        Args:
          tokens: (B, h, w, T), from `tokens`.
          text: (B, P, T) of unit length, from `encode_text`.
          points: (B, P, K, 2), x and y in pixels of the encoded images; labels: (B, P, K), 1 in the object, 0 not in
            it, 2 and 3 the corners of its box, -1 no point. A padding point is added, as SAM does.
          multimask: the three masks of ambiguous prompts, or the one. Static under jit.

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
