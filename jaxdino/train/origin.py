"""Infer from a run's weights what the command line leaves open: the model's name, and suitable learning rates."""

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from convert.assumptions import MARK, spelled, spelling
from convert.card import Card
from convert.hub import check_there, on_hub
from convert.load import Opened, open_pretrained
from convert.naming import CUSTOM
from jaxdino.core.errors import UserError
from jaxdino.core.rules import did_you_mean
from jaxdino.models import registry
from jaxdino.settings.command_line import Command
from jaxdino.settings.unused import unused
from jaxdino.train.recorded import recorded
from jaxdino.train.weights import RANDOM, WORDS, counts, overrules, published

RATES = ("auto", "own", "public")
HUB_CACHE = "models--"
"""Part of the path of every file downloaded from the hub."""


def settle(given: Command, workdir: str | Path | None, say: Callable[[str], None]) -> ConfigDict:
    """Make the config of a command line, for the model of its weights and with suitable learning rates.

    A resumed run keeps the choices it was started with. A model name after the config's colon is checked when the
    weights are loaded, not here.

    Raises:
      UserError: for an unknown setting, weights that cannot be opened, or unknown rates.
    """
    config = given.config(part="model.")
    weights, before = config.model.weights, recorded(workdir)
    if before.get("model", {}).get("weights") != weights:
        before = {}
    if not before and weights not in (None, RANDOM):
        check_there(weights)
    name = given.model
    if name is None and weights not in (None, RANDOM):
        name = before["model"]["name"] if before else _name(config.model)
        if name != config.model.configured_for:
            say(f"model: {name}, as {weights} says")
        if not before and name in registry.MODELS and weights not in registry.MODELS and not on_hub(weights):
            for line in _assumed_in_naming(config.model, name):
                if counts(line, config):
                    say(spelled(line, WORDS))
    config = given.config(name)
    published(config.model)  # raises for unknown names before anything is printed about them
    changed = given.changed(config, name)
    choose_rates(config, say, changed, before.get("rates"))
    for line in unused(config, changed):
        say(line)
    return config


def choose_rates(
    config: ConfigDict, say: Callable[[str], None], given: Collection[str] = (), before: str | None = None
) -> None:
    """Replace the stages' rates by `own_rates` for rates=own, or if "auto" finds that the weights are the user's own.

    Args:
      given: paths of the settings that were set explicitly; they are not changed.
      before: the choice made when the run began.

    Raises:
      UserError: if config.rates is unknown.
    """
    if config.rates not in RATES:
        raise UserError(f"rates={config.rates!r} is not known; {did_you_mean(config.rates, RATES)}")
    if not config.own_rates:
        return
    chosen, why = config.rates, "as asked"
    if chosen == "auto":
        chosen, why = (before, "as when the run began") if before in RATES[1:] else _origin(config.model)
    named = {
        f"stages[{index}].groups.{name}.lr": (stage.groups[name], rate)
        for index, stage in enumerate(config.stages)
        for name, rate in config.own_rates.items()
        if name in stage.groups and not stage.groups[name].frozen
    }
    free = {path: one for path, one in named.items() if path not in given}
    own, public = _shown(rate for _, rate in free.values()), _shown(group.lr for group, _ in free.values())
    if chosen == "own":
        for group, rate in free.values():
            group.lr = rate
    config.rates = chosen
    other, taken, left = ("public", own, public) if chosen == "own" else ("own", public, own)
    names = ", ".join(config.own_rates)
    if own != public and why != "as asked":
        say(f"rates: {chosen}, {why}: {names} {taken}; --config.rates={other} takes {left}")


def _shown(rates: Any) -> str:
    return ", ".join(f"{rate:g}" for rate in dict.fromkeys(rates))


def _name(model: Any) -> str:
    """Return the name of the model that the weights belong to; a published name needs no weights."""
    by_hub = {spec.hub: name for name, spec in registry.MODELS.items() if spec.hub}
    if model.weights in registry.MODELS or model.weights in by_hub:
        return by_hub.get(model.weights, model.weights)
    return _card(model).spec.name


def _origin(model: Any) -> tuple[str, str]:
    """Return ("own" or "public", reason) for the weights in a config."""
    if model.weights is None:
        return "public", f"for the published weights of {model.name}"
    if model.weights == RANDOM:
        return "own", "for random weights"
    if model.weights in registry.MODELS or on_hub(model.weights):
        return "public", f"for the published weights {model.weights}"
    card = _card(model)
    if card.began_at_random:
        return "own", f"since {model.weights} was trained from random weights"
    if card.spec.name.endswith(CUSTOM) and HUB_CACHE not in str(card.source.get("path")):
        return "own", f"since {model.weights} does not have the shape of any published model"
    return "public", f"since {model.weights} has the shape of the published {card.spec.name}"


def _assumed_in_naming(model: Any, name: str) -> list[str]:
    """Return the assumptions about the weights that `name` depends on; loading them by that name would hide these."""
    without, named = ([line for line in _opened(model, each).notes if line.startswith(MARK)] for each in (None, name))
    return [line for line in without if line not in named]


def _card(model: Any) -> Card:
    """Read the card of the weights from their header."""
    return _opened(model).card


def _opened(model: Any, name: str | None = None) -> Opened:
    given = overrules(model)
    with spelling(WORDS), open_pretrained(model.weights, model=name, drop_head=model.drop_head, **given) as opened:
        return opened
