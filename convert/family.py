"""What the converter knows of a family of models: how its checkpoints are told, named, written and checked."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from jaxdino.models.spec import Config, ModelSpec, Preprocess

Shapes = Mapping[str, tuple[int, ...]]

POOL_WORDS = {
    "cls": "class token",
    "mean": "mean of the patch tokens",
    "cls_mean": "class token and mean of the patch tokens, side by side",
    "cls4_mean": "class tokens of the last four blocks and mean of the patch tokens, side by side",
}
"""What each of `jaxdino.models.classifier.POOLS` is, for a note to the user."""


class Hints(NamedTuple):
    """What is known of a checkpoint besides its keys and shapes.

    Attributes:
      json: config.json beside it (of a Hugging Face or open_clip folder), {} without one.
      num_heads, model, layout: what the user said, None where nothing.
      prefix: what stands before the network's keys in the file.
      pos_grid: (height, width) of the position table in patches, as the user said or our export noted.
      prepared: whether our own export noted how images are prepared. sized: whether the user says their size.
      extras: what is no tensor in the file, by joined key.
    """

    json: Mapping[str, Any] = {}
    num_heads: int | None = None
    model: str | None = None
    layout: str | None = None
    extras: Mapping[str, Any] = {}
    prefix: str = ""
    pos_grid: tuple[int, int] | None = None
    prepared: bool = False
    sized: bool = False


class Spelling(NamedTuple):
    """Names that a library gives a network's tensors in memory, where its files hold the published ones.

    Attributes:
      what: whose names they are, for a note.
      witness: keys, without prefix, that every network of these names has and no published one.
      names: (name in memory, published name) pairs; "{i}" is a number, ".weight" or ".bias" follows. Several names in
        memory are parts of one published tensor, in this order on its first axis.
    """

    what: str
    witness: tuple[str, ...]
    names: tuple[tuple[str | tuple[str, ...], str], ...]


class Told(NamedTuple):
    """What a family makes of a checkpoint: its own name, the layout, the shape.

    Attributes:
      preprocess: where the checkpoint's differs from that of the published model of this shape.
      size: (height, width) of the images it was trained on, and what tells it; None where nothing does.
      unsaid: what is assumed of the preprocessing, a line each, unless a file beside the tensors says it.
      assumed: facts that neither the tensors nor the hints hold, a line each (`convert.assumptions`).
    """

    family: str
    layout: str
    config: Config
    preprocess: Preprocess | None = None
    assumed: tuple[str, ...] = ()
    size: tuple[tuple[int, int], str] | None = None
    unsaid: tuple[str, ...] = ()


def _whole(card) -> str | None:
    return ""


def _nothing(card, *_) -> Any:
    return {}


@dataclasses.dataclass(frozen=True)
class Layout:
    """One published form of a family's weights.

    Attributes:
      table: rules between the network's keys (prefix removed) and our paths; see `convert.table`.
      head: rules of the linear classification head, whose keys stand at the top of the checkpoint.
      weights: the file that export writes, "{name}" standing for the model's name; its suffix is the format.
      sharded: whether a folder's safetensors may be parted.
      prefix: card -> what stands before the network's keys in the class that has a head too; None if there is none.
      head_file: card -> the file of the head alone, under the names of a linear layer; None where the weights' file
        holds it.
      files: (card, dtype's name) -> {name: content} of the JSON files beside the weights.
      notes: card -> what a user must know of the files written, a line each.
      companions: names of files that stand beside the weights and travel with the model (a tokenizer's).
    """

    table: tuple
    head: tuple = ()
    weights: str = "{name}.pth"
    sharded: bool = False
    prefix: Callable[[Any], str | None] = _whole
    head_file: Callable[[Any], str | None] = lambda card: None
    files: Callable[[Any, str], dict[str, dict[str, Any]]] = _nothing
    notes: Callable[[Any], list[str]] = lambda card: []
    companions: tuple[str, ...] = ()


def _own_pool(spec: ModelSpec, *_) -> tuple[str | None, tuple[str, ...]]:
    return spec.pool, ()


def _unchanged(card, flat, layout: str) -> tuple[Any, dict, list[str]]:
    return card, {}, []


@dataclasses.dataclass(frozen=True, eq=False)
class Family:
    """A family (or several that share their code), as the converter sees it.

    Attributes:
      names: the values of `ModelSpec.family` that it serves.
      anchors: endings of keys: each checkpoint has a key with one of them, and what stands before it is the prefix.
      detect: (shapes of the network's own keys, hints) -> what it is. Raises UserError if it is none of the family's.
      layouts: {(family, layout): Layout}.
      shape: the fields of the configuration that make two checkpoints the same published model.
      reference: the module that runs the PyTorch original; see `convert.references`.
      fit: (card, flat, layout) -> the card, the leaves that change, and notes: what another layout than the model's
        own demands. The leaves come as a mapping that reads each when asked for; one that changes to None is gone.
      pool: (spec, layout, how many features' width the head has, hints) -> what a classification head looks at, None
        if that cannot be known, and what was assumed.
      twins: families whose checkpoints have the same keys, so that only a name or a guess tells them apart.
      spellings: other names of its layouts' tensors, which are renamed before anything looks at them.
    """

    names: tuple[str, ...]
    anchors: tuple[str, ...]
    detect: Callable[[Shapes, Hints], Told]
    layouts: Mapping[tuple[str, str], Layout]
    shape: tuple[str, ...]
    reference: str
    fit: Callable[[Any, Mapping[str, Any], str], tuple[Any, dict, list[str]]] = _unchanged
    pool: Callable[[ModelSpec, str, int, Hints], tuple[str | None, tuple[str, ...]]] = _own_pool
    twins: tuple[str, ...] = ()
    spellings: tuple[Spelling, ...] = ()
