"""Heads that find regions with queries: each gives a class, or none, and a mask. Parts that both forms share.

"tokens": EoMT, for vision transformers: the queries are tokens of the last blocks. "stages": for hierarchical networks,
a pixel decoder and a small transformer decoder (`mask_decoder`).

Sources: Kerssies et al. 2025, Your ViT is Secretly an Image Segmentation Model (arXiv:2503.19108), tue-mps/eomt
models/eomt.py and scale_block.py; Cheng et al. 2022, Mask2Former (arXiv:2112.01527).
"""

import dataclasses
import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from jaxdino.core.errors import UserError
from jaxdino.core.options import check_choice, check_range
from jaxdino.models.depthwise import depthwise_conv
from jaxdino.models.heads.mask_decoder import StagesMaskHead
from jaxdino.models.initial import normal, truncated_normal
from jaxdino.models.layers import LayerNorm, Linear, gelu
from jaxdino.models.output import Output
from jaxdino.models.positions import linear_matrix

FORMS = ("tokens", "stages")
Predictions = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class MaskQueriesHeadConfig:
    """The shape of a head of mask queries; see `heads.HeadConfig`.

    Attributes:
      queries: the most regions of an image. things: for each class whether its regions are objects, each with a query;
        of other classes, an image has one region. () if all are.
      form: a key of `FORMS`. layers: blocks of the vision transformer that the queries pass through, or layers of the
        decoder.
      upscale: how often the patch tokens are doubled in resolution for the masks ("tokens").
      width: channels of the decoder ("stages"), a multiple of 8.
      threshold: smallest probability of a region in the map of all regions.
    """

    num_classes: int = 0
    queries: int = 100
    form: str = "tokens"
    layers: int = 4
    upscale: int = 2
    width: int = 128
    things: tuple[bool, ...] = ()
    threshold: float = 0.5
    name: ClassVar[str] = "mask_queries"
    of: ClassVar[str] = "mask"

    def __post_init__(self):
        object.__setattr__(self, "things", tuple(self.things))  # from JSON or a config
        check_choice("form", self.form, FORMS)
        check_range("num_classes", self.num_classes, "[0, inf)")
        check_range("queries", self.queries, "[1, 10000]")
        check_range("layers", self.layers, "[1, inf)")
        check_range("upscale", self.upscale, "[0, 6]")
        check_range("threshold", self.threshold, "[0, 1]")
        if self.width < 8 or self.width % 8:
            raise UserError(f"width={self.width} of a head of mask queries must be a multiple of 8")
        if self.things and len(self.things) != self.num_classes:
            raise UserError(f"things has {len(self.things)} entries for {self.num_classes} classes")

    @property
    def blocks(self) -> int:
        """1: the head reads the last output, or passes through the blocks itself."""
        return 1

    @property
    def choice(self) -> None:
        """None: the head finds regions, not the classes of an image."""
        return None

    def build(self, width: int, rngs: nnx.Rngs, *, dtype: jnp.dtype = jnp.float32) -> Any:
        """Build the head with random parameters."""
        return (TokensMaskHead if self.form == "tokens" else StagesMaskHead)(self, width, rngs)


class ScaleLayer(nnx.Module):
    """Double the resolution: a transposed 2 x 2 convolution, GELU, a depthwise 3 x 3 convolution, layer norm."""

    def __init__(self, width: int, rngs: nnx.Rngs):
        self.conv1 = Linear(width, 4 * width, use_bias=False, std=math.sqrt(1 / width), rngs=rngs)
        self.bias = nnx.Param(jnp.zeros((width,)))
        self.conv2 = nnx.Param(normal(rngs, (3, 3, 1, width), 1 / 3))
        self.norm = LayerNorm(width, 1e-6)

    def __call__(self, x_BxhxwxD: jax.Array) -> jax.Array:
        batch, height, width, channels = x_BxhxwxD.shape
        x = self.conv1(x_BxhxwxD).reshape(batch, height, width, 2, 2, channels).transpose(0, 1, 3, 2, 4, 5)
        x = gelu(x.reshape(batch, 2 * height, 2 * width, channels) + self.bias[...][None, None, None])
        return self.norm(depthwise_conv(x, self.conv2[...]))


class TokensMaskHead(nnx.Module):
    """EoMT: `query` tokens pass through the last blocks; a class and a mask embedding of each, times the patches.

    In training, queries of an earlier block attend only to patches inside of their masks, with a probability that
    falls to 0 block by block (`shares`, set by the objective); afterwards and in evaluation to all patches.
    """

    def __init__(self, cfg: MaskQueriesHeadConfig, width: int, rngs: nnx.Rngs):
        self.query = nnx.Param(truncated_normal(rngs, (cfg.queries, width), 1.0))
        self.upscale = nnx.List([ScaleLayer(width, rngs) for _ in range(cfg.upscale)])
        std = math.sqrt(1 / (3 * width))  # the variance of torch's linear layer
        self.fc1, self.fc2, self.fc3 = (Linear(width, width, std=std, rngs=rngs) for _ in range(3))
        self.class_predictor = Linear(width, cfg.num_classes + 1, std=std, rngs=rngs)
        self.cfg = cfg
        self.shares: Shares | None = None

    def predict(self, queries_BxQxD: jax.Array, patches_BxhxwxD: jax.Array) -> Predictions:
        """Return "logits" (B, Q, classes + 1), the last for none, and "masks" (B, Q, H, W), logits; float32."""
        queries, x = queries_BxQxD.astype(jnp.float32), patches_BxhxwxD.astype(jnp.float32)
        for layer in self.upscale:
            x = layer(x)
        embedded = self.fc3(gelu(self.fc2(gelu(self.fc1(queries)))))
        return {"logits": self.class_predictor(queries), "masks": jnp.einsum("bqd,bhwd->bqhw", embedded, x)}

    def inside(self, backbone: Any, images: jax.Array, key: jax.Array | None = None) -> Output:
        """Map images (B, H, W, C) to the output of a vision transformer with queries, and their predictions.

        With `shares` also "aux_logits" (B, layers, Q, ...) and "aux_masks", predicted before each of the last blocks.
        Raises UserError for fewer blocks than `layers`.
        """
        count, depth = self.cfg.queries, len(backbone.blocks)
        if self.cfg.layers > depth:
            raise UserError(f"the queries pass through {self.cfg.layers} blocks, and the model has {depth}")
        x, grid = backbone.embed(images)
        earlier: list[Predictions] = []
        rope = backbone.rotary(grid)
        for i in range(depth):
            allowed, place = None, i - (depth - self.cfg.layers)
            if place == 0:
                query = self.query[...].astype(x.dtype)[None]
                x = jnp.concatenate([jnp.broadcast_to(query, (x.shape[0], *query.shape[1:])), x], axis=1)
                rope = backbone.rotary(grid, extra=count)
            if place >= 0 and self.shares is not None:
                normed = backbone.finish(x[:, count:], grid).patches
                earlier.append(self.predict(backbone.norm(x[:, :count]), normed))
                own = None if key is None else jax.random.fold_in(key, depth + 1 + i)
                allowed = self._allowed(earlier[-1]["masks"], grid, x.shape[1], self.shares.value[place], own)
            x = backbone.step(i, x, rope, key, allowed)
        out = backbone.finish(x[:, count:], grid)
        found = self.predict(backbone.norm(x[:, :count]), out.patches)
        if earlier:
            found |= {f"aux_{name}": jnp.stack([one[name] for one in earlier], axis=1) for name in ("logits", "masks")}
        return dataclasses.replace(out, predictions=found)

    def _allowed(
        self, masks: jax.Array, grid: tuple[int, int], tokens: int, share: jax.Array, key: jax.Array | None
    ) -> jax.Array:
        """Return (B, 1, N, N), whether a token may attend to another: queries to the patches in their masks."""
        batch, count = masks.shape[:2]
        inside = resized(masks, grid).reshape(batch, count, -1) > 0
        if key is not None:
            inside |= jax.random.uniform(key, (batch, count, 1)) > share
        inside = lax.stop_gradient(
            jnp.pad(inside, ((0, 0), (0, 0), (tokens - inside.shape[2], 0)), constant_values=True)
        )
        return jnp.pad(inside, ((0, 0), (0, tokens - count), (0, 0)), constant_values=True)[:, None]


@dataclasses.dataclass(frozen=True, eq=False)
class Shares:
    """The probability (layers,) that a block masks a query's attention: a static part of the module, no array."""

    value: jax.Array


def resized(masks: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Resize (B, Q, h, w) bilinearly, as torch's `interpolate` without antialiasing, align_corners=False."""
    if masks.shape[2:] == size:
        return masks
    rows, columns = (jnp.asarray(linear_matrix(a, b)) for a, b in zip(masks.shape[2:], size, strict=True))
    return jnp.einsum("yh,xw,bqhw->bqyx", rows, columns, masks, precision="highest")
