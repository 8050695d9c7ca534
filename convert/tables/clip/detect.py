"""Detect which CLIP a checkpoint holds, from its keys, its shapes and the configuration beside it.

No tensor shows the activation, and a wrong one lowers accuracy without an error: OpenAI trained with the quick GELU,
LAION mostly with the exact one. It is read from OpenAI's own archive, config.json's hidden_act,
open_clip_config.json's quick_gelu, or the model or layout that the user gives. It is never guessed.
"""

import dataclasses
import math
import re
from typing import Any, NamedTuple

from convert.assumptions import assume
from convert.family import Hints, Shapes, Told
from convert.tables.clip import hf, open_clip
from jaxdino.core.errors import UserError
from jaxdino.models.clip import CLIPConfig, TextConfig, VisionConfig
from jaxdino.models.published.clip import SPECS, TINY, preprocess
from jaxdino.models.spec import Preprocess

ANCHORS = (
    "visual.conv1.weight",
    "ln_final.weight",
    "vision_model.embeddings.patch_embedding.weight",
    "text_model.embeddings.token_embedding.weight",
    "embeddings.patch_embedding.weight",
    "embeddings.token_embedding.weight",
)
HEAD_WIDTH = 64
"""Width of one attention head, in all of OpenAI's models and by default in open_clip's."""


class Keys(NamedTuple):
    """The keys of one layout that determine the shape."""

    patch: str
    image_positions: str
    image_block: str
    image_mlp: str
    image_proj: str
    tokens: str
    text_positions: str
    text_block: str
    text_mlp: str
    text_proj: str


def _openai_keys(text: str) -> Keys:
    block = "transformer.resblocks."
    return Keys(
        patch="visual.conv1.weight",
        image_positions="visual.positional_embedding",
        image_block=f"visual.{block}",
        image_mlp="mlp.c_fc.weight",
        image_proj="visual.proj",
        tokens=f"{text}token_embedding.weight",
        text_positions=f"{text}positional_embedding",
        text_block=f"{text}{block}",
        text_mlp="mlp.c_fc.weight",
        text_proj=f"{text}text_projection",
    )


def _hf_keys(vision: str, text: str) -> Keys:
    return Keys(
        patch=f"{vision}embeddings.patch_embedding.weight",
        image_positions=f"{vision}embeddings.position_embedding.weight",
        image_block=f"{vision}encoder.layers.",
        image_mlp="mlp.fc1.weight",
        image_proj="visual_projection.weight",
        tokens=f"{text}embeddings.token_embedding.weight",
        text_positions=f"{text}embeddings.position_embedding.weight",
        text_block=f"{text}encoder.layers.",
        text_mlp="mlp.fc1.weight",
        text_proj="text_projection.weight",
    )


def detect(shapes: Shapes, hints: Hints) -> Told:
    """Detect layout and configuration of a CLIP checkpoint.

    Raises:
      UserError: if it is not a supported CLIP, or the files beside it are missing or contradict it.
    """
    if any(key.startswith(("visual.layer1.", "visual.attnpool.")) for key in shapes):
        raise UserError("this CLIP's image tower is a ResNet (RN50 and kin), which is not supported: the ViTs are")
    if any(key.endswith(("embeddings.patch_embedding.weight", "embeddings.token_embedding.weight")) for key in shapes):
        told = _tell_hf(shapes, hints)
    else:
        told = _tell_openai(shapes, hints)
    own = _preprocess(told.config)
    if told.preprocess or not own:
        return told
    file = PROCESSORS.get(told.layout, PROCESSORS["hf"])
    unsaid = (assume("OpenAI's mean and deviation", "a CLIP of a shape that is not published", file=file),)
    return told._replace(preprocess=own, unsaid=unsaid)


def _preprocess(config: CLIPConfig) -> Preprocess | None:
    """Return the preprocessing of an unpublished shape: OpenAI's statistics at the position table's image size."""
    published = any(_alike(spec.config, config) for spec in SPECS)
    return None if published or not config.vision else preprocess(_side(config.vision))


def _alike(a: CLIPConfig, b: CLIPConfig) -> bool:
    return all(getattr(a, field) == getattr(b, field) for field in SHAPE)


PROCESSORS = {"hf": "preprocessor_config.json", "open_clip": "open_clip_config.json with preprocess_cfg"}
SHAPE = ("image_tower", "text_tower", "embed_dim", "quick_gelu")
"""Fields that identify a published model."""


def _side(vision: VisionConfig) -> tuple[int, int]:
    return tuple(n * vision.patch_size for n in vision.pos_grid)


# transformers


def _tell_hf(shapes: Shapes, hints: Hints) -> Told:
    if hints.layout not in (None, "hf"):
        raise UserError(f"the checkpoint's keys are of the layout 'hf', not {hints.layout!r}")
    bare = not any(key.startswith(("vision_model.", "text_model.")) for key in shapes)
    config = _shape(shapes, _hf_keys("", "") if bare else _hf_keys("vision_model.", "text_model."))
    config = dataclasses.replace(
        config, keys="bare" if bare else "", buffers=any(key.endswith(".position_ids") for key in shapes)
    )
    if hints.json:
        return Told("clip", "hf", hf.settled(config, hints.json))
    if not hints.model:
        raise UserError(
            "no tensor tells which activation this CLIP was trained with: keep config.json beside the weights and "
            "give their folder, or name the model with --model (model=)"
        )
    return Told("clip", "hf", _as_published(config, hints))


# OpenAI and open_clip


def _tell_openai(shapes: Shapes, hints: Hints) -> Told:
    if hints.layout not in (None, "openai", "open_clip"):
        raise UserError(f"the checkpoint's keys are of the layouts 'openai' and 'open_clip', not {hints.layout!r}")
    if "visual.conv1.weight" not in shapes and any(key.startswith("visual.") for key in shapes):
        raise UserError("this CLIP's image tower is none of OpenAI's ViTs (a timm model?), which is not supported")
    custom = "text.ln_final.weight" in shapes
    config = _shape(shapes, _openai_keys("text." if custom else ""))
    config = dataclasses.replace(config, keys="custom" if custom else "", buffers="input_resolution" in shapes)
    json = hints.json if "model_cfg" in hints.json else {}
    layout, quick = _trained(config, json, hints)
    config = dataclasses.replace(config, quick_gelu=quick, **_antialiased(config))
    how = None
    if json:
        config, how = open_clip.settled(config, json)
    elif hints.model and layout == "open_clip":
        config = _as_published(config, hints)
    else:
        config = _with_heads(config, hints.num_heads)
    if layout == "openai":
        refuse_openai(config)
    return Told("clip", layout, config, how)


def _trained(config: CLIPConfig, json: dict[str, Any], hints: Hints) -> tuple[str, bool]:
    """Return (layout, whether the quick GELU is used)."""
    archive = "torchscript" in hints.extras or config.buffers
    says = open_clip.quick_gelu(json) if json else None
    if archive or hints.layout == "openai":
        what = "the file is OpenAI's own" if archive else "the layout 'openai' was asked for"
        if hints.layout == "open_clip":
            raise UserError(f"{what}, not open_clip's: read it with the layout 'openai'")
        if says is False:
            raise UserError(
                f"{what}, which means the quick GELU, but open_clip_config.json says quick_gelu is false: with the "
                "wrong activation every output is off. Correct the configuration, or remove it"
            )
        if hints.model and not _published(hints.model).quick_gelu:
            raise UserError(f"{what}, which means the quick GELU, but {hints.model} was trained with the exact one")
        return "openai", True
    if says is not None:
        return "open_clip", says
    if hints.model:
        quick = _published(hints.model).quick_gelu
        return hints.layout or ("openai" if quick else "open_clip"), quick
    raise UserError(
        "no tensor tells which activation this CLIP was trained with, the quick GELU (OpenAI's models, open_clip's "
        "'-quickgelu') or the exact one (most of LAION's): keep open_clip_config.json beside the weights and give "
        "their folder, name the model (--model clip_vitb32 or clip_vitb32_laion2b), or, if they are OpenAI's, the "
        "layout (--layout openai)"
    )


def _antialiased(config: CLIPConfig) -> dict[str, Any]:
    """Return the antialiasing fields: open_clip resamples positions with it; OpenAI's code has a fixed size."""
    return {"vision": config.vision and dataclasses.replace(config.vision, pos_antialias=True)}


def _with_heads(config: CLIPConfig, given: int | None) -> CLIPConfig:
    """Set the heads to a width of 64, as in OpenAI's code; for a single tower the user may give another number."""
    towers = {"vision": config.vision, "text": config.text}
    if given and config.vision and config.text:
        raise UserError("--num_heads is one number, and this CLIP has two towers: say it in open_clip_config.json")
    for name, tower in towers.items():
        heads = given or (tower.width // HEAD_WIDTH if tower else 1)
        if tower and (heads < 1 or tower.width % heads or (not given and tower.width % HEAD_WIDTH)):
            raise UserError(f"the attention heads of a {name} tower of width {tower.width} cannot be told")
        towers[name] = tower and dataclasses.replace(tower, num_heads=heads)
    return dataclasses.replace(config, **towers)


def refuse_openai(config: CLIPConfig) -> None:
    """Raise UserError for a model that OpenAI's code cannot build."""
    wrong = [] if config.quick_gelu else ["its activation is the exact GELU"]
    for tower in filter(None, (config.vision, config.text)):
        wrong += ["heads are not 64 wide"] if tower.num_heads * HEAD_WIDTH != tower.width else []
        wrong += ["the feed-forward width is not 4 x the width"] if tower.mlp_dim != 4 * tower.width else []
        wrong += ["norm_eps is not 1e-5"] if tower.norm_eps != 1e-5 else []
    if config.vision and config.vision.pos_grid[0] != config.vision.pos_grid[1]:
        wrong.append("its position table is not square")
    if wrong:
        raise UserError(
            f"the layout 'openai' means what OpenAI's code builds, and this model is not that: {'; '.join(wrong)}. "
            "The layouts 'open_clip' and 'hf' can say it"
        )


# what tensors tell


def _published(model: str) -> CLIPConfig:
    return next(spec.config for spec in (*SPECS, TINY) if spec.name == model)


def _as_published(config: CLIPConfig, hints: Hints) -> CLIPConfig:
    """Take heads and activation from the model that the user gave; the shapes are checked later."""
    named = _published(hints.model)
    towers = {}
    for name in ("vision", "text"):
        own, its = getattr(config, name), getattr(named, name)
        towers[name] = own and dataclasses.replace(own, num_heads=its.num_heads)
    return dataclasses.replace(config, quick_gelu=named.quick_gelu, **towers)


def _shape(shapes: Shapes, keys: Keys) -> CLIPConfig:
    """Read the shapes of the existing towers; heads and activation are set later."""
    vision = _vision(shapes, keys) if keys.patch in shapes else None
    text = _text(shapes, keys) if keys.tokens in shapes else None
    if not (vision or text):
        raise UserError(f"this CLIP checkpoint has neither an image tower ({keys.patch}) nor a text tower")
    axis = -1 if keys.image_proj == "visual.proj" else 0
    widths = {shapes[key][axis] for key in (keys.image_proj, keys.text_proj) if len(shapes.get(key, ())) == 2}
    if len(widths) > 1:
        raise UserError(f"the towers' projections have different widths: {sorted(widths)}")
    channels = shapes[keys.patch][1] if vision else 3
    return CLIPConfig(
        vision,
        text,
        next(iter(widths), None),
        logit_scale="logit_scale" in shapes,
        in_channels=channels,
    )


def _vision(shapes: Shapes, keys: Keys) -> VisionConfig:
    patch = shapes[keys.patch]
    if len(patch) != 4 or patch[2] != patch[3]:
        raise UserError(f"a patch embedding of shape {patch} is not a convolution with square patches")
    rows = _rows(shapes, keys.image_positions)
    side = math.isqrt(max(rows - 1, 0))
    # a table that is not square is one row of patches until a configuration gives its sides
    grid = (side, side) if side * side == rows - 1 else (1, rows - 1)
    depth, hidden = _blocks(shapes, keys.image_block, keys.image_mlp)
    return VisionConfig(patch[2], patch[0], depth, mlp_dim=hidden, pos_grid=grid)


def _text(shapes: Shapes, keys: Keys) -> TextConfig:
    vocabulary, width = shapes[keys.tokens]
    depth, hidden = _blocks(shapes, keys.text_block, keys.text_mlp)
    length = _rows(shapes, keys.text_positions)
    return TextConfig(width, depth, mlp_dim=hidden, vocab_size=vocabulary, context_length=length)


def _rows(shapes: Shapes, key: str) -> int:
    if len(shapes.get(key, ())) != 2:
        raise UserError(f"the checkpoint lacks {key}, a table of positions")
    return shapes[key][0]


def _blocks(shapes: Shapes, prefix: str, mlp: str) -> tuple[int, int]:
    """Return (number of blocks, width of the feed-forward layer)."""
    numbers = [int(m[1]) for key in shapes if (m := re.match(re.escape(prefix) + r"(\d+)\.", key))]
    hidden = shapes.get(f"{prefix}0.{mlp}")
    if not numbers or hidden is None:
        raise UserError(f"the checkpoint holds no transformer blocks under {prefix!r}")
    return max(numbers) + 1, hidden[0]
