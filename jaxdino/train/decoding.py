"""The decoder of a run's training images, chosen when it begins and kept when it is resumed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from jaxdino.core import processes
from jaxdino.data import decoder
from jaxdino.train.recorded import recorded

WITHOUT_FILES = ("digits", "shapes")  # data.name whose images are arrays


def choose_decoder(config: Any, workdir: str | Path | None, say: Callable[[str], None]) -> None:
    """Replace data.decoder="auto" in a config by the decoder that the run in the folder began with, or the best one.

    Raises:
      UserError: if the decoder is not installed, or processes of the run have different ones.
    """
    if "decoder" not in config.data:
        return
    given, before = config.data.decoder, recorded(workdir)
    if before and given == decoder.AUTO:
        given = (before.get("data") or {}).get("decoder", decoder.SLOW)  # runs of earlier versions had no other
    config.data.decoder = decoder.chosen(given)
    processes.agree("decoder", {"data.decoder": config.data.decoder}, "Install the same, or set data.decoder=pillow")
    if config.data.name not in WITHOUT_FILES:
        say(decoder.described(config.data.decoder))
