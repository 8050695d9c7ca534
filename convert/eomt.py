"""EoMT's checkpoints, as transformers publishes them: a folder with config.json and the weights of ViT and queries."""

import re
from typing import TYPE_CHECKING

import numpy as np

from convert.card import Card
from convert.labels import class_names
from convert.preprocess import from_json
from convert.table import BoundTable
from convert.tables import eomt
from jaxdino.core.errors import UserError
from jaxdino.models.heads.mask_queries import MaskQueriesHeadConfig
from jaxdino.models.spec import ModelSpec, Preprocess
from jaxdino.models.vit import ViTConfig

if TYPE_CHECKING:
    from convert.readers import Source

NAME = "dinov2_custom"


def card_and_table(source: "Source") -> tuple[Card, BoundTable, list[str]]:
    """Return the card of an EoMT checkpoint, its table, and notes.

    Raises:
      UserError: without the config.json that holds the number of heads and of blocks with queries.
    """
    given = source.config or {}
    needed = ("num_attention_heads", "num_blocks")
    if missing := [name for name in needed if not isinstance(given.get(name), int)]:
        raise UserError(
            f"{source.origin['path']} is an EoMT checkpoint: {', '.join(missing)} is in its config.json, so give the "
            "folder that has both"
        )
    keys = source.keys()
    depth = 1 + max(int(found[1]) for key in keys if (found := re.match(r"layers\.(\d+)\.", key)))
    upscale = 1 + max(int(found[1]) for key in keys if (found := re.match(r"upscale_block\.block\.(\d+)\.", key)))
    width, channels, patch, _ = source.shape("embeddings.patch_embeddings.projection.weight")
    mlp = next((name for name in eomt.MLPS if f"layers.0.mlp.{name}.weight" in keys), eomt.MLPS[0])
    registers = source.shape("embeddings.register_tokens")[1] if "embeddings.register_tokens" in keys else 0
    grid = _grid(source, patch)
    config = ViTConfig(
        patch_size=patch,
        width=width,
        depth=depth,
        num_heads=given["num_attention_heads"],
        mlp_dim=source.shape(f"layers.0.mlp.{mlp}.weight")[0] // (2 if mlp == "weights_in" else 1),
        swiglu=mlp != "fc1",
        layer_scale=True,
        num_registers=registers,
        pos_grid=grid,
        pos_cls=False,
        norm_eps=float(given.get("layer_norm_eps", 1e-6)),
        in_channels=channels,
    )
    size = (grid[0] * patch, grid[1] * patch)
    base = Preprocess(size=size, crop_pct=1.0, interpolation="bilinear", crop_mode="squash")
    how, notes = from_json(base, source.preprocessor)
    classes = source.shape("class_predictor.weight")[0] - 1
    queries = source.shape("query.weight")[0]
    head = MaskQueriesHeadConfig(classes, queries, "tokens", given["num_blocks"], upscale)
    spec = ModelSpec(NAME, "dinov2", config, how)
    origin = {"path": str(source.origin["path"]), "prefix": ""}
    card = Card(spec, head, class_names(source, classes)[0], "hf", origin)
    if "attn_mask_probs" in keys and np.asarray(source.read("attn_mask_probs")).any():
        notes = (*notes, "its training still masked attention (attn_mask_probs); jaxdino's evaluation does not")
    return card, BoundTable(eomt.table(upscale, mlp, registers > 0), config), [*notes]


def _grid(source: "Source", patch: int) -> tuple[int, int]:
    """Return (height, width) of the position table in patches. Raises UserError if config.json does not fit it."""
    rows = source.shape("embeddings.position_embeddings.weight")[0]
    size = (source.config or {}).get("image_size")
    sides = [side for side in (size if isinstance(size, list | tuple) else (size, size)) if isinstance(side, int)]
    if len(sides) == 2 and (sides[0] // patch) * (sides[1] // patch) == rows:
        return sides[0] // patch, sides[1] // patch
    raise UserError(
        f"{source.origin['path']}: image_size={size} of config.json does not fit {rows} positions of {patch} pixels"
    )
