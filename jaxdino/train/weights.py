"""Load a run's initial weights, and save its best model."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from convert.assumptions import spelled, spelling
from convert.channels import with_channels
from convert.describe import described
from convert.load import new_head, open_pretrained
from convert.naming import CUSTOM
from convert.reshape import reshaped
from convert.store import Card, load_sharded, save_model
from jaxdino.core import sharding
from jaxdino.core.errors import UserError
from jaxdino.models import registry
from jaxdino.models.heads import NO_HEAD, HeadConfig
from jaxdino.models.heads.linear import LinearHeadConfig
from jaxdino.train import placing
from jaxdino.train.placing import OnHost, Place

if TYPE_CHECKING:
    from jaxdino.train.setup import Setup

RANDOM = "random"
HOST = OnHost()
OVERRULES = ("layout", "prefix", "num_heads", "pos_grid", "pool", "in_channels")
"""Settings of config.model that overrule what is inferred from the weights."""
WORDS = {name: f"--config.model.{name}" for name in OVERRULES} | {
    "model": "a model's name after the config's colon",
    "image_size": "--config.data.image_size",
    "drop_head": "--config.model.drop_head=True",
    "head_blocks": "python -m convert import --head_blocks",
}
"""The flags of `python -m convert` -> the settings of a run."""


def start(
    config: Any,
    class_names: tuple[str, ...],
    say: Callable[[str], None],
    head: HeadConfig | Callable[[registry.ModelSpec], HeadConfig] | None = None,
    place: Place = HOST,
) -> tuple[Card, dict[str, Any]]:
    """Load the model that a run starts from: its card and all its leaves, float32.

    `config.model.weights` is a file, a folder, a hub name, a workdir, "random", or None for the model's published ones.

    Args:
      head: the head to train, with as many classes as there are names, or a function that returns it for a model; by
        default the linear classification head.
      place: where each leaf is put as soon as it is read, before the next one.

    Raises:
      UserError: for weights of another model, and for another head, or one of other classes, without `drop_head`.
    """
    model, seed, classes = config.model, config.seed, len(class_names)
    if model.num_classes is not None and model.num_classes != classes:
        raise UserError(f"model.num_classes={model.num_classes}, but the data has {classes} classes")
    if model.weights == RANDOM and (spec := published(model)):
        spec = _sees(spec, model.in_channels)
        head = head(spec) if callable(head) else head
        card, flat = _random(spec, seed, head or spec.linear(classes, model.pool), place)
        return dataclasses.replace(card, class_names=class_names), flat
    card, flat = _pretrained(config, model.drop_head, say, place)
    head = head(card.spec) if callable(head) else head
    head = head or LinearHeadConfig(classes, model.pool or card.pool)
    if card.num_classes and (card.head.name, card.head.blocks) != (head.name, head.blocks):
        raise UserError(
            f"the weights have a head of another kind: {described(card.head)}, and this run: {described(head)}. "
            "--config.model.drop_head=True starts with a new head"
        )
    if card.num_classes not in (0, classes):
        raise UserError(
            f"the weights have a head of {card.num_classes} classes and the data has {classes}: "
            "--config.model.drop_head=True starts with a new head"
        )
    if card.num_classes and (continued := getattr(head, "continued", None)):
        head = continued(card.head)
    nameless = card.class_names in ((), tuple(f"LABEL_{i}" for i in range(card.num_classes)))  # transformers' default
    if card.num_classes and nameless:
        say("the head of the weights is kept; the names of its classes are not known")
    elif card.num_classes and card.class_names != class_names:
        raise UserError(
            f"the weights have a head for other classes ({_first(card.class_names)}) than the data has "
            f"({_first(class_names)}): --config.model.drop_head=True starts with a new head"
        )
    if not card.num_classes:
        flat |= {path: place.put(path, leaf) for path, leaf in new_head(card.spec, head, seed).items()}
    return dataclasses.replace(card, head=head, class_names=class_names), flat


def has_new_head(config: Any, card: Card, flat: Mapping[str, Any]) -> bool:
    """Return whether the head returned by `start` is new and was never trained; every process must ask."""
    if config.model.weights == RANDOM:
        return True
    drawn = new_head(card.spec, card.head, config.seed)
    held = sharding.gather({path: flat[path] for path in drawn})
    return all(np.array_equal(held[path], leaf) for path, leaf in drawn.items())


def backbone(config: Any, say: Callable[[str], None], place: Place = HOST) -> tuple[Card, dict[str, Any]]:
    """Load the backbone that a run starts from, as `start` does, without a classification head."""
    if config.model.weights == RANDOM and (spec := published(config.model)):
        return _random(_sees(spec, config.model.in_channels), config.seed, NO_HEAD, place)
    return _pretrained(config, True, say, place)


def overrules(model: Any) -> dict[str, Any]:
    """Return the settings of `config.model` that overrule inferred values, as `open_pretrained` takes them."""
    return {name: model.get(name) for name in OVERRULES}


def _pretrained(config: Any, drop_head: bool, say: Callable[[str], None], place: Place) -> tuple[Card, dict[str, Any]]:
    """Load the weights in a config, without parts that images do not pass through."""
    model = config.model
    spec = published(model)
    named = spec and _sees(spec).name
    given = dict(model=named, drop_head=drop_head, **overrules(model))
    with spelling(WORDS), open_pretrained(model.weights or model.name, **given) as opened:
        if _sees(opened.card.spec).name != model.name:
            raise UserError(
                f"the weights are of a {opened.card.spec.name}, not a {model.name}: give that name after the config's "
                "colon, or none"
            )
        card = _seeing(opened.card)
        flat, digest = placing.read(opened.flat, place, card.spec.skeleton(head=card.head).entries)
    for note in opened.notes:
        if counts(note, config):
            say(spelled(note, WORDS))
    return dataclasses.replace(card, digest=digest), flat


def counts(note: str, config: Any) -> bool:
    """Return whether a note about the weights matters to the run. One about the image size does not if settings set it.

    These settings are data.image_size, and the views in self-distillation.
    """
    sized = "image_size" not in config.data or config.data.image_size is not None
    return not (sized and "--image_size overrules" in note)


def published(model: Any) -> registry.ModelSpec | None:
    """Return the published model named in a config, or None for `<family>_custom`, whose shape comes from its weights.

    Raises:
      UserError: if there is no such model, if no weights give the shape, or if the shape is set as well.
    """
    if model.shape is not None and model.weights != RANDOM:
        raise UserError(
            "weights tell the shape: leave model.shape open (in ssl_small, by a model after the colon), or set "
            "--config.model.weights=random"
        )
    family = model.name.removesuffix(CUSTOM)
    if family == model.name or family not in registry.CONFIGS:
        spec = registry.get(model.name)
        return spec if model.shape is None else reshaped(spec, model.shape)
    if model.weights in (None, RANDOM):
        raise UserError(
            f"the shape of a {model.name} comes from its weights: --config.model.weights=PATH. For random ones, name a "
            "published model and say what differs: --config.model.shape='{...}'"
        )
    return None


def _sees(spec: registry.ModelSpec, channels: int | None = None) -> registry.ModelSpec:
    """Return `spec`, for this number of image channels if given. Raises UserError if it does not take images."""
    if not spec.config.in_channels:
        raise UserError(f"model.name={spec.name} does not take images, so it cannot be trained to classify them")
    return spec if channels is None else with_channels(spec, channels)


def _seeing(card: Card) -> Card:
    """Remove what images do not pass through (CLIP's text tower), since images cannot train it, and further heads."""
    image_only = getattr(card.spec.config, "image_only", lambda: card.spec.config)
    spec = dataclasses.replace(card.spec, config=image_only(), heads=())
    return card if spec == card.spec else dataclasses.replace(card, spec=spec)


def _random(spec: registry.ModelSpec, seed: int, head: HeadConfig, place: Place) -> tuple[Card, dict[str, Any]]:
    card = _seeing(Card(spec, head, source={"path": RANDOM}))
    flat = placing.drawn(lambda rngs: spec.build(head=head, rngs=rngs), seed, place)
    return card, {path: flat[path] for path in card.spec.skeleton(head=head).entries}


def _first(names: tuple[str, ...]) -> str:
    """Format the first few names as a list."""
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def save(
    folder: Path,
    card: Card,
    image_size: tuple[int, int],
    flat: Mapping[str, np.ndarray],
    companions: Sequence[Path] = (),
) -> None:
    """Write a model, replacing an earlier one. Its card records the image size that it was trained at.

    Args:
      companions: files to store with the weights (those of a tokenizer).
    """
    preprocess = dataclasses.replace(card.spec.preprocess, size=image_size)
    card = dataclasses.replace(card, spec=dataclasses.replace(card.spec, preprocess=preprocess))
    save_model(folder, card, flat, companions=companions, overwrite=True)


def load(folder: Path, setup: "Setup") -> dict[str, jax.Array]:
    """Load all leaves of a saved model onto the mesh of a run, each device its own slices."""
    return load_sharded(folder, setup.mesh, setup.rules)[1]
