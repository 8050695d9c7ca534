"""Interface of a model family: how its checkpoints are detected, named, written and verified."""

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
"""Description of each of `jaxdino.models.heads.linear.POOLS`, for notes to the user."""


class Hints(NamedTuple):
    """Facts about a checkpoint beyond its keys and shapes.

    Attributes:
      json: config.json beside it (of a Hugging Face or open_clip folder), {} if there is none.
      num_heads, model, layout: given by the user, None if not given.
      prefix: prefix of the network's keys in the file.
      pos_grid: (height, width) of the position table in patches, from the user or from our export's notes.
      prepared: whether our own export noted the preprocessing. sized: whether the user gives the image size.
      extras: values in the file that are not tensors, by joined key.
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
    """Tensor names that a library uses in memory, where its files use the published names.

    Attributes:
      what: where the names come from, for a note.
      witness: keys, without prefix, that every network with these names has and no published one has.
      names: (name in memory, published name) pairs; "{i}" is a number, ".weight" or ".bias" follows. If several names
        in memory map to one published tensor, they are its parts, concatenated in this order on its first axis.
    """

    what: str
    witness: tuple[str, ...]
    names: tuple[tuple[str | tuple[str, ...], str], ...]


class Told(NamedTuple):
    """Result of a family's detection: family name, layout, configuration.

    Attributes:
      preprocess: preprocessing, if it differs from that of the published model of this shape.
      size: (height, width) of the training images, and the source of this fact; None if unknown.
      unsaid: assumptions about the preprocessing, a line each, used unless a file beside the tensors states it.
      assumed: facts that neither the tensors nor the hints contain, a line each (`convert.assumptions`).
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
    """One published format of a family's weights.

    Attributes:
      table: rules that map the network's keys (prefix removed) to our paths; see `convert.table`.
      head: rules of the linear classification head, whose keys are at the top level of the checkpoint.
      weights: the file that export writes; "{name}" is replaced by the model's name, the suffix sets the format.
      sharded: whether a folder's safetensors may be split into shards.
      prefix: card -> prefix of the network's keys in the class with a head; None if there is no such class.
      head_file: card -> a separate file for the head, with the names of a linear layer; None if the weights' file
        includes the head.
      files: (card, dtype name) -> {name: content} of the JSON files beside the weights.
      notes: card -> notes to the user about the files written, a line each.
      companions: names of files that are copied with the weights (a tokenizer's).
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
    """A model family (or several families that share code) for the converter.

    Attributes:
      names: the values of `ModelSpec.family` that it covers.
      anchors: key endings; each checkpoint has a key with one of them, and the part before it is the prefix.
      detect: (shapes of the network's own keys, hints) -> `Told`. Raises UserError if it is not of this family.
      layouts: {(family, layout): Layout}.
      shape: the configuration fields that identify a published model.
      reference: the module that runs the PyTorch original; see `convert.references`.
      fit: (card, flat, layout) -> the card, the changed leaves, and notes, for export to another layout than the
        model's own. `flat` reads each leaf on access; a leaf that changes to None is removed.
      pool: (spec, layout, input width of the head in multiples of the features, hints) -> the pooling of a
        classification head, None if it is unknown, and the assumptions.
      twins: families whose checkpoints have the same keys, so only a name or an assumption separates them.
      spellings: other names of its layouts' tensors; they are renamed before detection.
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
