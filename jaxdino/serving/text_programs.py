"""The programs that stand beside that of the images: a text encoder, and the masks of text prompts."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxdino
from jaxdino.core.errors import UserError
from jaxdino.core.params import Flat, bind
from jaxdino.data import tokenizer
from jaxdino.models.sam_prompt import PADDING
from jaxdino.models.token_masks import unit
from jaxdino.serving.program import DRAWS, Input, Program

EMBEDDING = "embedding"
EXAMPLE = "a photo of a cat"
MARKS = ("start", "end", "pad")
IDS = 200
"""Most texts, classes times templates, whose token ids are written down."""


def programs(model: Any, made: Program) -> list[Program]:
    """Return the other programs of a model: those of its family, if `made` gives the output that they belong to.

    Args:
      model: a `jaxdino.Model`. made: the program of its images.
    """
    rows = BESIDE.get(model.card.spec.family, ())
    has_text = rows and getattr(model.card.spec.config, "text", None) is not None
    return [make(model) for needs, make in rows if has_text and needs in made.about["outputs"]]


def tokenizer_files(model: Any) -> list[Path]:
    """Return the tokenizer's files beside the weights; none for CLIP's published vocabulary."""
    return sorted(file for file in model.companions if file.name in tokenizer.FILES)


def _text(model: Any) -> Program:
    """Map token ids (B, context length) int32 to embeddings (B, E), of unit length for a segmenter."""
    skeleton, config = model.skeleton, _text_config(model)

    def run(flat: Flat, ids: jax.Array) -> dict[str, jax.Array]:
        return {EMBEDDING: bind(skeleton, flat).backbone.encode_text(ids).astype(jnp.float32)}

    def draw(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        ids = rng.integers(0, config.vocab_size, shape, np.int32)
        end = config.vocab_size - 1 if config.eot is None else config.eot
        ids[:, shape[1] // 2 :] = end  # also as padding, as in some tokenizers: the first one counts
        return ids

    ids = Input("ids", "int32", (config.context_length,), draw)
    about = _about(model, "text", (ids,), (EMBEDDING,)) | {
        "vocabulary": config.vocab_size,
        "templates": list(getattr(model, "templates", ("{}",))),
        "tokenizer": _tokenizer(model, config),
    }
    if "backbone.logit_scale" in model.flat:
        about["logit_scale"] = float(np.exp(np.asarray(model.flat["backbone.logit_scale"], np.float32)))
    return Program(run, model.flat, (ids,), about, "text")


def _masks(model: Any) -> Program:
    """Map tokens (B, h, w, T) and embeddings (B, T) of any length to logits (B, 4 h, 4 w) and predicted IoU (B,)."""
    skeleton, config, size = model.skeleton, model.card.spec.config, model.card.spec.preprocess.size
    slots = model.num_points

    def run(flat: Flat, patches: jax.Array, embedding: jax.Array) -> dict[str, jax.Array]:
        spatial = {}
        if slots:  # as in training, where a text without points has padding in their place
            rows = patches.shape[0], 1, slots
            spatial = {"points": jnp.zeros((*rows, 2)), "labels": jnp.full(rows, PADDING)}
        low, scores = bind(skeleton, flat).backbone.masks(patches, unit(embedding)[:, None], **spatial)
        return {"masks": low[:, 0, 0], "scores": scores[:, 0, 0]}

    grid = tuple(side // config.image.patch_size for side in size)
    tokens = Input("patches", "float32", (*grid, config.width), DRAWS["float32"])
    inputs = (tokens, Input(EMBEDDING, "float32", (config.width,), DRAWS["float32"]))
    about = _about(model, "masks", inputs, ("masks", "scores"))
    return Program(run, model.flat, inputs, about | {"threshold": 0.0}, "masks")


BESIDE: dict[str, tuple[tuple[str, Callable[[Any], Program]], ...]] = {
    "clip": (("pooled", _text),),
    "clipdinosam": (("patches", _text), ("patches", _masks)),
}
"""Family -> the output of the images that a program belongs to, and what makes that program."""


def _text_config(model: Any) -> Any:
    """Return the shape of the text encoder; that of a segmenter is a CLIP's text tower."""
    text = model.card.spec.config.text
    return getattr(text, "text", text)


def _about(model: Any, task: str, inputs: tuple[Input, ...], outputs: tuple[str, ...]) -> dict[str, Any]:
    shapes = [one.about() for one in inputs]
    return {
        "jaxdino": jaxdino.__version__,
        "model": model.name,
        "task": task,
        "inputs": shapes,
        "outputs": list(outputs),
        "classes": list(model.class_names),
        "digest": model.digest,
    }


def _tokenizer(model: Any, config: Any) -> dict[str, Any]:
    """Return how texts become ids, with an example to check another tokenizer by, and the ids of the classes."""
    try:
        known = tokenizer.serving(model.companions, config)
        facts: dict[str, Any] = {name: getattr(known, name) for name in MARKS}
        texts, templates = model.class_names, getattr(model, "templates", ("{}",))
        facts |= {"context_length": config.context_length, "files": [file.name for file in tokenizer_files(model)]}
        facts["example"] = {"text": EXAMPLE, "ids": [known.start, *known.encode(EXAMPLE), known.end]}
        if 0 < len(texts) * len(templates) <= IDS:
            rows = known.prompts(texts, templates, config.context_length)
            facts["ids"] = {
                text: [ids[: ids.tolist().index(known.end) + 1].tolist() for ids in row]
                for text, row in zip(texts, rows, strict=True)
            }
    except UserError as err:
        return {"unknown": str(err)}
    return facts
