"""Fit a CLIP to another layout; what the layout cannot express is refused, never approximated."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from convert.card import Card
from convert.tables.clip.detect import refuse_openai
from jaxdino.core.errors import UserError
from jaxdino.models.clip import CLIPConfig

EOT = 49407
"""<|endoftext|> in CLIP's vocabulary, and its largest id."""


def fit(card: Card, flat: Mapping[str, Any], layout: str) -> tuple[Card, dict[str, Any], list[str]]:
    """Return the card for `layout`, no changed leaves, and notes.

    Raises:
      UserError: if the layout implies another activation, norm or pooling than the model's.
    """
    config, notes = dataclasses.replace(card.spec.config, keys="", buffers=False), []
    if layout in ("openai", "open_clip"):
        if config.vision and config.in_channels != 3:
            raise UserError(f"the layout {layout!r} means images of 3 channels, this model takes {config.in_channels}")
        config = _argmax(config, layout)
        for tower in (config.vision, config.text):
            if tower and tower.norm_eps != 1e-5:
                raise UserError(
                    f"the layout {layout!r} means norms with an epsilon of 1e-5, this model's is {tower.norm_eps}"
                )
    if layout == "openai":
        refuse_openai(config)
    if config.vision:
        how = layout != "hf"
        if config.vision.pos_antialias != how:
            notes.append(
                "at other image sizes than the table's, this layout's code resamples positions slightly differently"
            )
        config = dataclasses.replace(config, vision=dataclasses.replace(config.vision, pos_antialias=how))
    return dataclasses.replace(card, spec=dataclasses.replace(card.spec, config=config)), {}, notes


def _argmax(config: CLIPConfig, layout: str) -> CLIPConfig:
    """Check that the end-of-text token has the largest id, because OpenAI's and open_clip's code pools that id."""
    if not config.text or config.text.eot is None:
        return config
    if config.text.eot != config.text.vocab_size - 1:
        raise UserError(
            f"the layout {layout!r} means the feature at a text's largest id, this model's is at the id "
            f"{config.text.eot} of {config.text.vocab_size}"
        )
    return dataclasses.replace(config, text=dataclasses.replace(config.text, eot=None))
