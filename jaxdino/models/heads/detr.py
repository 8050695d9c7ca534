"""A detection head of queries: proposals of the encoder, denoising, boxes that are refined layer by layer.

A feature pyramid gives tokens; each has class scores and a box, and the best become the queries (two stages). Each
layer of the decoder attends among the queries and to all tokens, and moves the boxes. In training, noisy true objects
are further queries, which see the others but are not seen by them.

Sources: Zhu et al. 2021, Deformable DETR (arXiv:2010.04159), two stages and refinement; Liu et al. 2022, DAB-DETR
(arXiv:2201.12329), boxes as positions; Li et al. 2022, DN-DETR (arXiv:2203.01305), and Zhang et al. 2023, DINO
(arXiv:2203.03605), denoising; huggingface/transformers models/rt_detr/modeling_rt_detr.py. Attention is to all tokens,
not deformable.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from jaxdino.core.errors import UserError
from jaxdino.core.options import check_choice, check_range
from jaxdino.models.heads.fcos import GROUPS, PRIOR, PYRAMIDS
from jaxdino.models.heads.fcos import STAGES as LEVELS
from jaxdino.models.heads.maps import STAGES, read, widths_of
from jaxdino.models.heads.mask_decoder import WAVES, Attend, PixelDecoder, grid_places, waves
from jaxdino.models.heads.simple_pyramid import SimplePyramid
from jaxdino.models.initial import truncated_normal
from jaxdino.models.layers import LayerNorm, Linear, together
from jaxdino.models.output import Output

FIRST = 0.05  # side of a proposal on the finest level, as a share of the image; each coarser level doubles it
EPS = 1e-5


@dataclasses.dataclass(frozen=True)
class DETRHeadConfig:
    """The shape of a detection head of queries; see `heads.HeadConfig`.

    Attributes:
      blocks: of a ViT, the last block; of other networks 1.
      pyramid: "stages": the last three feature maps of a hierarchical network; "patches": the patch tokens at twice,
        once and half their resolution.
      queries: the most objects of an image. layers: of the decoder. width: channels, a multiple of 8.
    """

    num_classes: int = 0
    blocks: int = 1
    pyramid: str = "stages"
    queries: int = 100
    layers: int = 3
    width: int = 128
    name: ClassVar[str] = "detr"
    of: ClassVar[str] = "box"
    strides: ClassVar[tuple[int, ...]] = ()

    def __post_init__(self):
        check_choice("pyramid", self.pyramid, PYRAMIDS)
        check_range("num_classes", self.num_classes, "[0, inf)")
        check_range("blocks", self.blocks, "[1, 1]")
        check_range("queries", self.queries, "[1, 10000]")
        check_range("layers", self.layers, "[1, inf)")
        if self.width < GROUPS or self.width % GROUPS:
            raise UserError(f"width={self.width} of a detection head must be a multiple of {GROUPS}")

    @property
    def choice(self) -> None:
        """None: the head finds objects, not the classes of an image."""
        return None

    def build(self, width: int, rngs: nnx.Rngs, *, dtype: jnp.dtype = jnp.float32) -> "DETRHead":
        """Build the head with random kernels, and a probability of `fcos.PRIOR` for each class."""
        return DETRHead(self, width, rngs)


@dataclasses.dataclass(frozen=True, eq=False)
class Noised:
    """Noisy true objects, queries in groups: a static part of the module, no arrays of its own.

    Attributes:
      labels: int32 (B, K). boxes: (B, K, 4), as the head's. used: bool (B, K), False for an empty slot.
      groups: of equal size, one after the other.
    """

    labels: jax.Array
    boxes: jax.Array
    used: jax.Array
    groups: int


def logit(share: jax.Array) -> jax.Array:
    """Return the inverse of the sigmoid, of shares within `EPS` of 0 and 1 that of `EPS`."""
    share = jnp.clip(share, EPS, 1 - EPS)
    return jnp.log(share) - jnp.log1p(-share)


def box_waves(boxes: jax.Array) -> jax.Array:
    """Return sines and cosines (..., 8 `WAVES`) of boxes (..., 4) in 0..1."""
    rates = jnp.asarray(math.pi * 2.0 ** np.arange(0, WAVES / 2, 0.5), jnp.float32)
    angles = boxes[..., None] * rates.reshape(*(1,) * boxes.ndim, -1)
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1).reshape(*boxes.shape[:-1], -1)


class Boxes(nnx.Module):
    """Two layers that give four numbers, 0 at the start."""

    def __init__(self, width: int, rngs: nnx.Rngs):
        self.fc1 = Linear(width, width, std=math.sqrt(1 / width), rngs=rngs)
        self.fc2 = Linear(width, 4, std=1e-4, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.fc2(jax.nn.relu(self.fc1(x)))


class QueryLayer(nnx.Module):
    """Attention among the queries, to the tokens, and a feed-forward layer; norms come first."""

    def __init__(self, width: int, rngs: nnx.Rngs):
        self.own, self.cross = Attend(width, rngs), Attend(width, rngs)
        self.fc1 = Linear(width, 4 * width, std=math.sqrt(1 / width), rngs=rngs)
        self.fc2 = Linear(4 * width, width, std=math.sqrt(1 / (4 * width)), rngs=rngs)
        self.norm1, self.norm2, self.norm3 = (LayerNorm(width, 1e-5) for _ in range(3))

    def __call__(self, x: jax.Array, at: jax.Array, keys: jax.Array, values: jax.Array, allowed: Any):
        normed = self.norm1(x)
        x = x + self.own(normed, at, normed, at, allowed)
        x = x + self.cross.to(keys, values, self.norm2(x), at)
        return x + self.fc2(jax.nn.relu(self.fc1(self.norm3(x))))


class DETRHead(nnx.Module):
    """The pyramid `pixels`, the proposals `score` and `propose`, and the decoder `layers`; computed in float32.

    `noised` is set by the objective, in training.
    """

    def __init__(self, cfg: DETRHeadConfig, width: int, rngs: nnx.Rngs):
        d, std = cfg.width, math.sqrt(1 / cfg.width)
        self.simple = SimplePyramid(width, rngs, fine=False) if cfg.pyramid == "patches" else None
        self.widths = self.simple.widths if self.simple is not None else widths_of(width, STAGES, LEVELS)
        self.pixels = PixelDecoder(self.widths, d, rngs)
        self.level = nnx.Param(truncated_normal(rngs, (LEVELS, d), 0.02))
        self.position = Linear(4 * WAVES, d, std=0.1, rngs=rngs)
        self.box_position = Linear(8 * WAVES, d, std=0.1, rngs=rngs)
        self.proposal_norm, self.start = LayerNorm(d, 1e-5), Linear(d, d, std=std, rngs=rngs)
        self.score, self.cls = (Linear(d, cfg.num_classes, std=0.01, rngs=rngs) for _ in range(2))
        for layer in (self.score, self.cls):
            layer.bias = nnx.Param(jnp.full((cfg.num_classes,), -math.log((1 - PRIOR) / PRIOR)))
        self.propose, self.refine = Boxes(d, rngs), Boxes(d, rngs)
        self.label = nnx.Param(truncated_normal(rngs, (cfg.num_classes, d), 0.02))
        self.layers = nnx.List([QueryLayer(d, rngs) for _ in range(cfg.layers)])
        self.norm = LayerNorm(d, 1e-5)
        self.cfg = cfg
        self.noised: Noised | None = None

    def maps(self, outs: Sequence[Output]) -> list[jax.Array]:
        """Return the maps of the pyramid, finest first, float32. Raises UserError for too few feature maps."""
        if self.simple is not None:
            return self.pixels(self.simple(outs[-1].patches.astype(jnp.float32)))
        return self.pixels(read(outs, STAGES, self.widths))

    def __call__(self, outs: Sequence[Output], key: jax.Array | None = None) -> dict[str, jax.Array]:
        """Map a backbone's outputs to predictions, float32; boxes are centre x, y, width, height, in 0..1.

        Returns:
          {"logits": (B, Q, classes), "boxes": (B, Q, 4)} after the last layer; with a key also "aux_logits" (B, layers,
          Q, classes), "aux_boxes": of the proposals and the earlier layers; with `noised` also "noised_logits" (B,
          layers, K, classes), "noised_boxes".
        """
        maps = self.maps(outs)
        tokens = jnp.concatenate([x.reshape(x.shape[0], -1, x.shape[3]) for x in maps], axis=1)
        sizes = [(x.shape[1], x.shape[2]) for x in maps]
        where = self.position(jnp.asarray(np.concatenate([waves(grid_places(size)) for size in sizes])))
        levels = np.repeat(np.arange(LEVELS), [height * width for height, width in sizes])
        tokens_at = (where + self.level[...][levels])[None]
        x, boxes, first = self.proposals(tokens, sizes, levels)
        count, allowed = 0, None
        if self.noised is not None:
            count = self.noised.labels.shape[1]
            x = jnp.concatenate([self.label[...][self.noised.labels], x], axis=1)
            boxes = jnp.concatenate([logit(self.noised.boxes), boxes], axis=1)
            allowed = seen(self.noised, self.cfg.queries)
        keys = together([layer.cross.k for layer in self.layers], tokens + tokens_at)
        values = together([layer.cross.v for layer in self.layers], tokens)
        found = []
        for layer, k, v in zip(self.layers, keys, values, strict=True):
            boxes = lax.stop_gradient(boxes)
            x = layer(x, self.box_position(box_waves(jax.nn.sigmoid(boxes))), k, v, allowed)
            normed = self.norm(x)
            boxes = boxes + self.refine(normed)
            found.append((self.cls(normed), jax.nn.sigmoid(boxes)))
        last = {"logits": found[-1][0][:, count:], "boxes": found[-1][1][:, count:]}
        if key is None:
            return last
        for place, name in enumerate(("logits", "boxes")):
            earlier = [first[place], *(one[place][:, count:] for one in found[:-1])]
            last[f"aux_{name}"] = jnp.stack(earlier, axis=1)
            if count:
                last[f"noised_{name}"] = jnp.stack([one[place][:, :count] for one in found], axis=1)
        return last

    def proposals(
        self, tokens: jax.Array, sizes: Sequence[tuple[int, int]], levels: np.ndarray
    ) -> tuple[jax.Array, jax.Array, tuple[jax.Array, jax.Array]]:
        """Return the queries (B, Q, D), the logits of their boxes (B, Q, 4), and scores and boxes of the proposals.

        The best tokens are chosen by the score of any class. Raises UserError if there are fewer than queries.
        """
        if tokens.shape[1] < self.cfg.queries:
            raise UserError(f"{self.cfg.queries} queries are more than the {tokens.shape[1]} places of the images")
        centres = np.concatenate([grid_places(size) for size in sizes])
        anchors = np.concatenate([centres, np.tile((FIRST * 2.0**levels)[:, None], 2)], axis=1).astype(np.float32)
        normed = self.proposal_norm(tokens)
        scores = self.score(normed)
        chosen = lax.top_k(lax.stop_gradient(scores).max(axis=-1), self.cfg.queries)[1]
        scores, best = (jnp.take_along_axis(one, chosen[..., None], axis=1) for one in (scores, normed))
        boxes = logit(jnp.asarray(anchors))[chosen] + self.propose(best)
        return self.start(lax.stop_gradient(best)), boxes, (scores, jax.nn.sigmoid(boxes))


def seen(noised: Noised, queries: int) -> jax.Array:
    """Return which queries each may attend to, bool (B, 1, K + Q, K + Q), the noisy ones first.

    Queries do not see noisy ones; these see their own group and all queries. Every query sees itself.
    """
    count = noised.labels.shape[1]
    total, size = count + queries, count // noised.groups
    group = jnp.where(jnp.arange(total) < count, jnp.arange(total) // size, -1)
    pairs = (group[None] == -1) | (group[:, None] == group[None])
    used = jnp.pad(noised.used, ((0, 0), (0, queries)), constant_values=True)
    return ((pairs[None] & used[:, None]) | jnp.eye(total, dtype=bool)[None])[:, None]
